"""Free sample photos inside the wheels of scikit-image, scikit-learn and gradio, for users without photos.

They show that an exported model works, but are too few to measure with.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from clipstill.core.errors import ResourceError
from clipstill.core.files import atomic_path

# Class name, package, file inside it, and licence as the package states it; none of them needs a download. Left out are
# drawings, cut-outs, the second picture of a stereo pair, and a tower, since the photo of the rocket shows towers too.
SAMPLES = (
    ("cat", "skimage", "data/chelsea.png", "CC0-1.0"),
    ("cup of coffee", "skimage", "data/coffee.png", "CC0-1.0"),
    ("person", "skimage", "data/astronaut.png", "public domain"),
    ("person", "skimage", "data/camera.png", "CC0-1.0"),
    ("rocket", "skimage", "data/rocket.jpg", "public domain"),
    ("motorcycle", "skimage", "data/motorcycle_left.png", "BSD-3-Clause"),
    ("temple", "sklearn", "datasets/images/china.jpg", "CC-BY-2.0"),
    ("flower", "sklearn", "datasets/images/flower.jpg", "CC-BY-2.0"),
    ("cheetah", "gradio", "media_assets/images/cheetah.jpg", "Apache-2.0"),
    ("cheetah", "gradio", "media_assets/images/cheetah1.jpg", "Apache-2.0"),
    ("lion", "gradio", "media_assets/images/lion.jpg", "Apache-2.0"),
)
# Comes with clipstill[ui] alone: without it, its photos and their classes are left out.
_OPTIONAL = "gradio"


def sample_photos(folder: Path) -> dict[str, list[str]]:
    """Copy the sample photos into one sub-folder per class, keeping existing files.

    Returns:
        Class -> origin and licence of each of its photos.

    Raises:
        ResourceError: A package is not installed, no longer carries its photos, or the folder cannot be written.
    """
    found: dict[str, list[str]] = {}
    for name, package, file, licence in SAMPLES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            if package == _OPTIONAL:
                continue
            raise ResourceError(
                f"the sample photos come with {package}, which is not installed. Run: "
                f"pip install scikit-image scikit-learn"
            )
        source = Path(spec.origin).parent / file
        if not source.is_file():
            raise ResourceError(
                f"the installed {package} does not carry {file}. Give photos of your own with --images."
            )
        target = folder / name / source.name
        if not target.exists():
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
        found.setdefault(name, []).append(f"{package} ({licence})")
    return found
