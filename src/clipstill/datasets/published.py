"""Data sets of domain adaptation and generalisation, and test sets of ImageNet's classes, as they are published.

Each domain is a data set of its own, such as ``pacs-sketch``. Where domains have no lists for training and test, all
images are both, as in CoOp's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clipstill.core.errors import DataError
from clipstill.core.file_names import visible
from clipstill.core.names import class_key, spoken, told_apart
from clipstill.core.progress import warn
from clipstill.datasets.coop import lines_of, pictures_in
from clipstill.datasets.split import Dataset, below, in_order

_Item = tuple[Path, int, str]  # File, label and class name.


@dataclass(frozen=True)
class Published:
    """Places and published sizes of a data set; ``{}`` in a place is the folder of a domain."""

    origin: str  # Where to get it.
    places: tuple[str, ...]  # Where a domain may lie below the root, the first one for messages; case does not matter.
    classes: int
    images: Mapping[str, int]  # Folder of each domain -> its images, all lists together; ``""`` where there is one.
    lists: tuple[str, ...] = ()  # Files with a line "path label" each, for training and test, or one for both.
    list_places: tuple[str, ...] = ("",)  # Where the lists may lie below the folder of the domains.
    names: tuple[str, ...] = ()  # Class names by label, where the images lie in no class folders.
    of_imagenet: bool = False  # Folders are WordNet ids or labels, named by ``classnames.txt``.


_IMAGENET_A = "github.com/hendrycks/natural-adv-examples"
# The sums over domains are as printed: PACS 9,991, VLCS 10,729, Office-Home 15,588, VisDA-2017 280,157 with its test
# images, DomainNet 586,575 in the cleaned lists. Numbers of single domains are those of DomainBed and of Dassl; not
# checked against the archives. ImageNet-Sketch has 50,889 files, though its paper says 50,000.
SETS = {
    # Its lists take some images of a domain for training and all for test, and are not read.
    "pacs": Published(
        "domaingeneralization.github.io",
        ("PACS/{}", "PACS/kfold/{}", "PACS/images/{}", "kfold/{}"),
        classes=7,
        images={"photo": 1_670, "art_painting": 2_048, "cartoon": 2_344, "sketch": 3_929},
    ),
    # As DomainBed ships it. The older archive has numbers for classes, and is not read.
    "vlcs": Published(
        "github.com/facebookresearch/DomainBed (domainbed/scripts/download.py)",
        ("VLCS/{}",),
        classes=5,
        images={"Caltech101": 1_415, "LabelMe": 2_656, "SUN09": 3_282, "VOC2007": 3_376},
    ),
    "office_home": Published(
        "hemanthdv.org/OfficeHome-Dataset",
        ("OfficeHomeDataset_10072016/{}", "office_home/{}"),
        classes=65,
        images={"Art": 2_427, "Clipart": 4_365, "Product": 4_439, "Real World": 4_357},
    ),
    "visda2017": Published(
        "github.com/VisionLearningGroup/taskcv-2017-public",
        ("visda-2017/{}", "visda17/{}"),
        classes=12,
        images={"train": 152_397, "validation": 55_388},
        lists=("{}/image_list.txt",),
    ),
    "domainnet": Published(
        "ai.bu.edu/M3SDA (the cleaned version)",
        ("domainnet/{}",),
        classes=345,
        images={
            "clipart": 48_129,
            "infograph": 51_605,
            "painting": 72_266,
            "quickdraw": 172_500,
            "real": 172_947,
            "sketch": 69_128,
        },
        lists=("{}_train.txt", "{}_test.txt"),
        list_places=("", "splits", "txt"),
    ),
    # The order of the names follows from the numbers of Caltech-256 and ImageNet in the file names. A few photos of the
    # Pascal domain are in two classes.
    "imageclef_da": Published(
        "imageclef.org/2014/adaptation (lists: github.com/thuml/Xlearn)",
        ("image_CLEF/{}", "imageCLEF-DA/{}"),
        classes=12,
        images={"c": 600, "i": 600, "p": 600},
        lists=("{}List.txt",),
        list_places=("list", ""),
        names=(
            *("aeroplane", "bike", "bird", "boat", "bottle", "bus"),
            *("car", "dog", "horse", "monitor", "motorbike", "people"),
        ),
    ),
    # Places as in CoOp's DATASETS.md, then as the archives unpack.
    "imagenetv2": Published(
        "github.com/modestyachts/ImageNetV2",
        ("imagenetv2/imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency-format-val"),
        classes=1_000,
        images={"": 10_000},
        of_imagenet=True,
    ),
    "imagenet_sketch": Published(
        "github.com/HaohanWang/ImageNet-Sketch",
        ("imagenet-sketch/images", "imagenet-sketch/sketch", "imagenet-sketch", "sketch"),
        classes=1_000,
        images={"": 50_889},
        of_imagenet=True,
    ),
    "imagenet_a": Published(
        _IMAGENET_A, ("imagenet-adversarial/imagenet-a", "imagenet-a"), 200, {"": 7_500}, of_imagenet=True
    ),
    "imagenet_r": Published(
        "github.com/hendrycks/imagenet-r",
        ("imagenet-rendition/imagenet-r", "imagenet-r"),
        classes=200,
        images={"": 30_000},
        of_imagenet=True,
    ),
}
# Name of each data set -> its entry, and the folder of its domain.
PUBLISHED = {
    "-".join(filter(None, (name, domain.lower().replace(" ", "_")))): (published, domain)
    for name, published in SETS.items()
    for domain in published.images
}


def open_published(name: str, root: Path) -> Dataset:
    """Read the lists or folders of a data set below ``root``, and warn where images or classes are missing."""
    published, domain = PUBLISHED[name]
    places = [place.format(domain) for place in published.places]
    folder = next(filter(None, (_place(root, place) for place in places)), None)
    if folder is None:
        raise DataError(f"data set {name}: there is no folder {root / places[0]}. Get it from {published.origin}.")
    if published.lists:
        read = _from_lists(name, folder)
    else:
        read = [_from_folders(folder, _imagenet_names(name, folder, root) if published.of_imagenet else None)]
    images, classes = sum(map(len, read)), len({label for items in read for _, label, _ in items})
    if not images:
        raise DataError(f"data set {name}: {folder} has none of its images. Get them from {published.origin}.")
    if images < published.images[domain] or classes < published.classes:
        warn(
            f"data set {name}: {folder} has {images:,} of {published.images[domain]:,} images and {classes:,} of "
            f"{published.classes:,} classes, so numbers on it are not those of the whole set; unpack all of it"
        )
    return in_order(name, folder, {"train": read[0], "test": read[-1]})


def _place(root: Path, place: str) -> Path | None:
    """The folder at a place below ``root``, whose parts may differ in case, spaces, underscores and hyphens."""
    found = [root] if root.is_dir() else []
    for part in place.split("/"):
        below_it = [entry for each in found for entry in visible(each.iterdir()) if entry.is_dir()]
        found = [entry for entry in below_it if class_key(entry.name) == class_key(part)]
    return found[0] if found else None


def _from_folders(folder: Path, names: Mapping[str, str] | None) -> list[_Item]:
    """The images of class folders: in the order of ``names``, or of the alphabet, without those that are empty."""
    entries = [entry for entry in visible(folder.iterdir()) if entry.is_dir()]
    found = {entry.name: files for entry in entries if (files := pictures_in(entry))}
    unknown = [] if names is None else [entry for entry in found if entry not in names]
    if unknown:
        raise DataError(f"classnames.txt has no name for the folder {folder / unknown[0]}. Add its line, or remove it.")
    order = [entry for entry in (found if names is None else names) if entry in found]
    return [
        (file, label, spoken(entry) if names is None else names[entry])
        for label, entry in enumerate(order)
        for file in found[entry]
    ]


def _imagenet_names(name: str, folder: Path, root: Path) -> dict[str, str]:
    """Name of each class folder, unique among all of ImageNet as the classes of the layout ``imagenet`` are."""
    places = [each / "classnames.txt" for each in (folder.parent, folder, root / "imagenet")]
    path = next((place for place in places if place.is_file()), places[-1])
    names = dict(line.partition(" ")[::2] for line in lines_of(name, path))
    unique = told_apart(list(names.values()))
    # The folders of ImageNet-V2 are labels.
    return {key: each for keys in (names, map(str, range(len(names)))) for key, each in zip(keys, unique, strict=True)}


def _from_lists(name: str, folder: Path) -> list[list[_Item]]:
    """The images of the lists that are on the disk, without gaps in the labels where a class has none."""
    published, domain = PUBLISHED[name]
    lists = [each.format(domain) for each in published.lists]
    places = [folder.parent / place for place in published.list_places]
    place = next((each for each in places if (each / lists[0]).is_file()), places[0])
    read = [_from_list(name, place / each, folder) for each in lists]
    labels = {label: place for place, label in enumerate(sorted({label for items in read for _, label, _ in items}))}
    return [[(file, labels[label], each) for file, label, each in items] for items in read]


def _from_list(name: str, path: Path, folder: Path) -> list[_Item]:
    published, _ = PUBLISHED[name]
    depth = 1 if published.names else 2
    there: dict[Path, set[Path]] = {}
    items = []
    for number, line in enumerate(lines_of(name, path, published.origin), 1):
        place, _, label = line.rpartition(" ")
        parts = Path(place).parts[-depth:]  # Lists are passed on with the folders of other machines in front.
        if len(parts) < depth or not label.isdecimal() or int(label) >= published.classes:
            raise DataError(f"{path}, line {number}: '{line[:80]}' is no path and label. Fetch the list again.")
        file = folder / below(Path(*parts), path)
        if file.parent not in there:
            there[file.parent] = set(file.parent.iterdir()) if file.parent.is_dir() else set()
        if file in there[file.parent]:
            items.append((file, int(label), published.names[int(label)] if published.names else spoken(parts[0])))
    return items
