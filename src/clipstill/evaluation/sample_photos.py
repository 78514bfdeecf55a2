"""Free sample photos inside the wheels of scikit-image and scikit-learn, for users without photos.

They show that an exported model works, but are far too few to measure with.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from clipstill.core.errors import ResourceError
from clipstill.core.files import atomic_path

# Class name, package, file inside it; none of them needs a download.
SAMPLES = (
    ("cat", "skimage", "data/chelsea.png"),
    ("cup of coffee", "skimage", "data/coffee.png"),
    ("person", "skimage", "data/astronaut.png"),
    ("person", "skimage", "data/camera.png"),
    ("rocket", "skimage", "data/rocket.jpg"),
    ("motorcycle", "skimage", "data/motorcycle_left.png"),
    ("temple", "sklearn", "datasets/images/china.jpg"),
    ("flower", "sklearn", "datasets/images/flower.jpg"),
)


def sample_photos(folder: Path) -> tuple[str, ...]:
    """Copy the sample photos into one sub-folder per class, keeping existing files, and return the class names.

    Raises:
        ResourceError: A package is not installed, no longer carries its photos, or the folder cannot be written.
    """
    for name, package, file in SAMPLES:
        target = folder / name / Path(file).name
        if target.exists():
            continue
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ResourceError(
                f"the sample photos come with {package}, which is not installed. Run: "
                f"pip install scikit-image scikit-learn"
            )
        source = Path(spec.origin).parent / file
        if not source.is_file():
            raise ResourceError(
                f"the installed {package} does not carry {file}. Give photos of your own with --images."
            )
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    return tuple(dict.fromkeys(name for name, _, _ in SAMPLES))
