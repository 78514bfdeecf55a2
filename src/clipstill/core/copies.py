"""Finds pictures that are in two places: equal files by their content, scaled and recompressed ones by their look."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np

from clipstill.core.errors import DataError
from clipstill.core.files import sha256_file
from clipstill.core.image_folder import ImageFolder
from clipstill.core.images import load_rgb
from clipstill.core.progress import warn

# Of the photos of PACS, the most alike of two different ones have 0.92, and copies at half the size or a quality of 30
# percent have at least 0.97.
_ALIKE = 0.97
_SIDE = 16
_AT_ONCE = 1024
_FLAT = 2.0  # Standard deviation, of 255, below which a picture looks like any other plain one.


def equal_files(paths: Sequence[Path]) -> list[list[Path]]:
    """Groups of two or more files with equal content, in the order of the paths; empty files do not count."""
    groups = [[path for path in paths if path.stat().st_size]]
    for content in (lambda path: path.stat().st_size, _start, sha256_file):
        groups = [part for group in groups for part in _parted(group, content) if len(part) > 1]
    return groups


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(1 << 14)


def _parted(paths: Sequence[Path], content: Callable[[Path], Hashable]) -> list[list[Path]]:
    parts: dict[Hashable, list[Path]] = {}
    for path in paths:
        parts.setdefault(content(path), []).append(path)
    return list(parts.values())


def tell_two_labels(folder: ImageFolder) -> None:
    """Warn of a picture that stands in the folders of two classes."""
    label_of = dict(folder.items)
    for group in equal_files(list(label_of)):
        if len({label_of[path] for path in group}) > 1:
            names = " and ".join(str(path.relative_to(folder.path)) for path in group)
            warn(f"{folder.path}: {names} are one picture; remove it from the wrong class")


def near_copies(learned: Sequence[Path], measured: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pairs of pictures, one of each list, that look the same at 16 x 16 pixels; at most one for each measured one."""
    to_measure, looks_ND = _looks(measured)
    # Just below, so that the limit itself is above.
    best_N = np.full(len(to_measure), np.nextafter(np.float32(_ALIKE), np.float32(0)))
    like: dict[int, Path] = {}
    # In parts, because the looks of a million photos take gigabytes.
    for start in range(0, len(learned) if to_measure else 0, _AT_ONCE):
        to_learn, looks_MD = _looks(learned[start : start + _AT_ONCE])
        for place, alike_M in enumerate(looks_ND @ looks_MD.T if to_learn else ()):
            if alike_M.max() > best_N[place]:
                best_N[place], like[place] = alike_M.max(), to_learn[int(alike_M.argmax())]
    return [(like[place], to_measure[place]) for place in sorted(like)]


def _looks(paths: Sequence[Path]) -> tuple[list[Path], np.ndarray]:
    """Pictures that can be read and are not plain, and their unit vectors."""
    kept, looks = [], [np.zeros((0, 3 * _SIDE**2), dtype=np.float32)]
    for path in paths:
        try:
            small = load_rgb(path, diminished=lambda _: (8 * _SIDE, 8 * _SIDE)).resize((_SIDE, _SIDE), reducing_gap=2.0)
        except DataError:
            continue
        values = np.asarray(small, dtype=np.float32).ravel()
        if values.std() >= _FLAT:
            centred = values - values.mean()
            kept.append(path)
            looks.append((centred / np.linalg.norm(centred))[None])
    return kept, np.concatenate(looks)
