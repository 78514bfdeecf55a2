"""The eleven data sets of CoOp in their published layouts and splits.

Source: Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022. Its few-shot lists are pickles and are
not read, see ``Dataset.few``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clipstill.core.errors import DataError
from clipstill.core.file_names import visible
from clipstill.core.files import read_text
from clipstill.core.names import spoken
from clipstill.core.picture_kinds import IMAGE_SUFFIXES
from clipstill.datasets.split import SPLITS, Dataset, Named, below, in_order

_ORIGIN = "where CoOp's DATASETS.md says"


@dataclass(frozen=True)
class Layout:
    """Places of a data set's files."""

    folder: str  # Folder below the root.
    images: str  # Folder of the images below ``folder``; the paths in the split file are relative to it.
    split: str = ""  # Split file below ``folder``; empty for data sets with lists of another form.
    names: Mapping[str, str] = field(default_factory=dict)  # Names that replace those in the split file.
    dropped: frozenset[str] = frozenset()  # Classes that are left out.


# The names are those of template sets in clipstill.text.templates.
LAYOUTS = {
    "imagenet": Layout("imagenet", "images"),
    "caltech101": Layout(
        "caltech-101",
        "101_ObjectCategories",
        "split_zhou_Caltech101.json",
        names={"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"},
        dropped=frozenset({"BACKGROUND_Google", "Faces_easy"}),
    ),
    "oxford_pets": Layout("oxford_pets", "images", "split_zhou_OxfordPets.json"),
    "stanford_cars": Layout("stanford_cars", "", "split_zhou_StanfordCars.json"),
    "oxford_flowers": Layout("oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json"),
    "food101": Layout("food-101", "images", "split_zhou_Food101.json"),
    "fgvc_aircraft": Layout("fgvc_aircraft", "images"),
    "sun397": Layout("sun397", "SUN397", "split_zhou_SUN397.json"),
    "dtd": Layout("dtd", "images", "split_zhou_DescribableTextures.json"),
    "eurosat": Layout(
        "eurosat",
        "2750",
        "split_zhou_EuroSAT.json",
        names={
            "AnnualCrop": "Annual Crop Land",
            "Forest": "Forest",
            "HerbaceousVegetation": "Herbaceous Vegetation Land",
            "Highway": "Highway or Road",
            "Industrial": "Industrial Buildings",
            "Pasture": "Pasture Land",
            "PermanentCrop": "Permanent Crop Land",
            "Residential": "Residential Buildings",
            "River": "River",
            "SeaLake": "Sea or Lake",
        },
    ),
    "ucf101": Layout("ucf101", "UCF-101-midframes", "split_zhou_UCF101.json"),
}


def open_layout(name: str, root: Path) -> Dataset:
    """Read the lists of a data set below ``root``."""
    folder = root / LAYOUTS[name].folder
    _check_folder(name, folder)
    read = {"imagenet": _imagenet, "fgvc_aircraft": _aircraft}.get(name, _from_split)
    return in_order(name, folder, read(name, folder))


def _check_folder(name: str, folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"data set {name}: there is no folder {folder}. Lay it out as CoOp's DATASETS.md says.")


def _from_split(name: str, folder: Path) -> Named:
    layout = LAYOUTS[name]
    path = folder / layout.split
    text = _read_text(name, path)
    try:
        stored = json.loads(text)
        parts = {
            part: [
                (folder / layout.images / below(place, path), int(label), str(class_name))
                for place, label, class_name in stored[part]
                if class_name not in layout.dropped
            ]
            for part in SPLITS
        }
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{path} is no split file: it needs lists train and test of [path, label, class name]. Fetch it again."
        ) from None
    # Close the gaps of dropped classes.
    labels = sorted({label for items in parts.values() for _, label, _ in items})
    return {
        part: [(image, labels.index(label), spoken(layout.names.get(each, each))) for image, label, each in items]
        for part, items in parts.items()
    }


def _imagenet(name: str, folder: Path) -> Named:
    """Folders named by WordNet ids, whose class names are in ``classnames.txt``; ImageNet is tested on ``val``."""
    names = dict(line.split(" ", 1) for line in lines_of(name, folder / "classnames.txt"))
    parts: Named = {"train": [], "test": []}
    for part, place in (("train", "train"), ("test", "val")):
        images = folder / "images" / place
        _check_folder(name, images)
        for label, entry in enumerate(entry for entry in visible(images.iterdir()) if entry.is_dir()):
            if entry.name not in names:
                raise DataError(f"{folder / 'classnames.txt'} has no name for the folder {entry.name}. Add its line.")
            parts[part] += [(file, label, names[entry.name]) for file in pictures_in(entry)]
    return parts


def pictures_in(folder: Path) -> list[Path]:
    """Files right inside a folder that are pictures by their suffixes."""
    return [file for file in visible(folder.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES]


def _aircraft(name: str, folder: Path) -> Named:
    """Lists of image numbers with their variants."""
    labels = {variant: label for label, variant in enumerate(lines_of(name, folder / "variants.txt"))}
    parts: Named = {part: [] for part in SPLITS}
    for part, items in parts.items():
        path = folder / f"images_variant_{part}.txt"
        for line in lines_of(name, path):
            number, _, variant = line.partition(" ")
            if variant not in labels:
                raise DataError(f"{path} names the variant '{variant}', which is not in variants.txt. Fetch it again.")
            items.append((folder / "images" / f"{number}.jpg", labels[variant], variant))
    return parts


def lines_of(name: str, path: Path, origin: str = _ORIGIN) -> list[str]:
    """The lines of a data set's file that are not empty; a ``DataError`` with ``origin`` if it cannot be read."""
    return [line.strip() for line in _read_text(name, path, origin).splitlines() if line.strip()]


def _read_text(name: str, path: Path, origin: str = _ORIGIN) -> str:
    try:
        return read_text(path)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"data set {name}: {path} cannot be read ({reason}). Get it from {origin}.") from None
