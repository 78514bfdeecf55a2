"""Real photos that come with pip packages, for a machine that has no photos of its own.

scikit-image and scikit-learn carry a few free sample pictures inside their wheels. They are far too few to measure
with: one photo a class shows that the exported model works, and no more.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from clipstill.core.errors import ResourceError
from clipstill.core.files import atomic_path

# Class name -> (package, file inside it). Checked against the wheels: these files need no download.
SAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "cat": (("skimage", "data/chelsea.png"),),
    "cup of coffee": (("skimage", "data/coffee.png"),),
    "person": (("skimage", "data/astronaut.png"), ("skimage", "data/camera.png")),
    "rocket": (("skimage", "data/rocket.jpg"),),
    "motorcycle": (("skimage", "data/motorcycle_left.png"),),
    "temple": (("sklearn", "datasets/images/china.jpg"),),
    "flower": (("sklearn", "datasets/images/flower.jpg"),),
}


def sample_photos(folder: Path) -> tuple[str, ...]:
    """Lay the sample photos out as an image folder, one sub-folder a class.

    Files that are there already stay as they are, so that a second call changes nothing.

    Returns:
        The class names.

    Raises:
        ResourceError: a package is not installed, no longer carries its photos, or the folder cannot be written.
    """
    for name, files in SAMPLES.items():
        for package, inside in files:
            target = folder / name / Path(inside).name
            if not target.exists():
                source = _package_folder(package) / inside
                if not source.is_file():
                    raise ResourceError(
                        f"the installed {package} does not carry {inside}. Give photos of your own with --images."
                    )
                with atomic_path(target) as temporary:
                    shutil.copyfile(source, temporary)
    return tuple(SAMPLES)


def _package_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ResourceError(
            f"the sample photos come with {package}, which is not installed. Run: pip install scikit-image scikit-learn"
        )
    return Path(next(iter(spec.submodule_search_locations)))
