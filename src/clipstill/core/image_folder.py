"""Lists folders of photos, with one sub-folder per class or without labels, and reads them in batches.

What is not used is told, and kept with the reason.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipstill.core.errors import DataError
from clipstill.core.file_names import SYSTEM, is_of_the_system
from clipstill.core.images import read_fitted
from clipstill.core.names import by_position, class_key, class_meant, labels_of_folders
from clipstill.core.paths import user_path
from clipstill.core.picture_kinds import IMAGE_SUFFIXES, why_no_picture
from clipstill.core.progress import listed, say, warn
from clipstill.core.threads import ahead_or_error

if TYPE_CHECKING:
    from clipstill.core.protocols import Preprocess

_SYSTEMS = "a folder of the system"


@dataclass
class ImageFolder:
    """The photos of a folder with one sub-folder per class."""

    path: Path
    classes: tuple[str, ...]  # Class names of the task; a label is a position in it.
    items: list[tuple[Path, int]] = field(default_factory=list)  # File and label, sorted by label and path.
    skipped: list[tuple[Path, str]] = field(default_factory=list)  # Other files, and why they are skipped.

    @property
    def classes_without_images(self) -> list[str]:
        """Names of the classes that have no image."""
        present = {label for _, label in self.items}
        return [name for label, name in enumerate(self.classes) if label not in present]

    @classmethod
    def open(cls, path: Path | str, classes: Sequence[str], *, allow_unmatched: bool = False) -> ImageFolder:
        """List the images of the classes; names of folders match without case, spaces, underscores and hyphens.

        Folders that are not used are told and stand in ``skipped``.

        Raises:
            DataError: No such folder, no sub-folder that matches a class, no image in those that do, or a class without
                images beside a folder whose name nearly is its name, unless ``allow_unmatched``.
        """
        path = user_path(path)
        entries = _entries(path)
        labels = labels_of_folders([entry.name for entry in entries if entry.is_dir()], classes)
        # A class may be called ".NET".
        entries = [entry for entry in entries if entry.name in labels or not is_of_the_system(entry.name)]
        names = [entry.name for entry in entries if entry.is_dir()]
        matched = sorted((label, name) for name, label in labels.items())
        meant = {name: class_meant(name, classes) for name in names if name not in labels}
        if not matched:
            hints = by_position(names, classes) or [f"'{n}' may be '{close}'" for n, close in meant.items() if close]
            raise DataError(
                f"no sub-folder of {path} is named after a class. Expected: {listed(classes)}; found: "
                f"{listed(names) or 'no sub-folders'}.{f' Rename them: {listed(hints)}.' if hints else ''}"
            )
        found = cls(path, tuple(classes))
        found._collect((path / name, label) for label, name in matched)
        if not found.items:
            raise DataError(
                f"the class folders of {path} ({listed([name for _, name in matched])}) hold no images. {_known(found)}"
            )
        for name, close in meant.items():
            if close in found.classes_without_images and not allow_unmatched:
                raise DataError(
                    f"the class '{close}' has no images in {path}, whose folder '{name}' is of no class. Rename it "
                    f"to '{close}', or to '.{name}' to leave it out; or go on without it: --allow-unmatched, or "
                    f"the setting allow_unmatched=true."
                )
            found.skipped.append((path / name, f"no class is called '{name}'"))
        found.skipped += [
            (entry, why_no_picture(entry) or "beside the class folders") for entry in entries if not entry.is_dir()
        ]
        found._tell_skipped()
        return found

    @classmethod
    def without_labels(cls, path: Path | str) -> ImageFolder:
        """List all images of a folder and its sub-folders; the label of each is -1.

        Raises:
            DataError: No such folder, or no image in it.
        """
        path = user_path(path)
        if not path.is_dir():
            raise DataError(f"there is no image folder {path}. Give a folder of photos.")
        found = cls(path, ())
        found._collect([(path, -1)])
        if not found.items:
            raise DataError(f"{path} holds no images. {_known(found)}")
        found._tell_skipped()
        return found

    def _collect(self, folders: Iterable[tuple[Path, int]]) -> None:
        def unlisted(error: OSError) -> None:
            self.skipped.append((Path(str(error.filename)), f"cannot be listed ({error.strerror})"))

        for folder, label in folders:
            for root, below, names in os.walk(folder, onerror=unlisted):
                self.skipped += [(Path(root, name), _SYSTEMS) for name in below if SYSTEM.match(name)]
                below[:] = sorted(name for name in below if not is_of_the_system(name))
                # Path.is_symlink would raise where a name is too long.
                links = [path for path in (Path(root, name) for name in below) if os.path.islink(path)]  # noqa: PTH114
                self.skipped += [(path, "a link to a folder, which is not followed") for path in links]
                for file in (Path(root, name) for name in sorted(names) if not is_of_the_system(name)):
                    reason = why_no_picture(file)
                    if reason is None:
                        self.items.append((file, label))
                    else:
                        self.skipped.append((file, reason))
        self.items.sort(key=lambda item: (item[1], item[0]))

    @property
    def not_used(self) -> str:
        """The first files and folders that are skipped, each with its reason; empty where none is."""
        return listed([f"{path.relative_to(self.path)} ({reason})" for path, reason in self.skipped], most=5)

    def _tell_skipped(self) -> None:
        if self.skipped:
            # Whole folders and classes must not be missed. Path.is_file would raise where their names are too long.
            keys = {class_key(name) for name in self.classes}
            told = [path for path, reason in self.skipped if reason != _SYSTEMS]
            missed = (not os.path.isfile(path) or class_key(path.stem) in keys for path in told)  # noqa: PTH113
            tell = warn if any(missed) else say
            tell(f"{self.path}: not used: {self.not_used}")


def _entries(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            raise DataError(f"there is no image folder {path}. Give a folder that holds one sub-folder per class.")
        return sorted(path.iterdir())
    except OSError as error:
        raise DataError(
            f"the image folder {path} cannot be listed ({error.strerror}). Check its permissions."
        ) from None


def _known(folder: ImageFolder) -> str:
    suffixes = f"Known suffixes: {' '.join(sorted(IMAGE_SUFFIXES))}."
    return f"{suffixes} Not used: {folder.not_used}." if folder.skipped else suffixes


def _say_skipped(path: Path, reason: str) -> None:
    say(f"skipped: {reason}")


def iterate(
    folder: ImageFolder,
    preprocess: Preprocess,
    batch: int,
    on_skip: Callable[[Path, str], None] = _say_skipped,
) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Read the folder in batches of at most ``batch`` images, as ``read_fitted`` does, the next ones in threads.

    A file that cannot be read is skipped; ``on_skip`` is called with its path and the reason, and by default says so.

    Yields:
        uint8 (N, H, W, 3), N labels; N >= 1.
    """
    results = ahead_or_error(lambda item: read_fitted(item[0], preprocess), folder.items)
    kept: list[tuple[np.ndarray, int]] = []
    for place, ((path, label), found) in enumerate(zip(folder.items, results, strict=True), 1):
        if isinstance(found, DataError):
            on_skip(path, str(found))
        else:
            kept.append((found, label))
        if kept and (len(kept) == batch or place == len(folder.items)):
            pixels, labels = zip(*kept, strict=True)
            yield np.stack(pixels), list(labels)
            kept = []
