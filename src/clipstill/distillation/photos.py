"""Photos that are read from their files while they teach: crops at full resolution, in bounded memory.

What is cut from a photo follows from a seed and its number alone, so neither the processes that read nor what is kept
in memory change a pixel.

Shapes: N photos, B photos of a batch, S x S pixels of a view.
"""

from __future__ import annotations

import gc
import itertools
import logging
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from clipstill.core.errors import DataError, ResourceError
from clipstill.core.files import sha256_json
from clipstill.core.images import load_rgb, load_with_size, read_fitted
from clipstill.core.progress import Progress, listed, say
from clipstill.core.protocols import Preprocess
from clipstill.core.seeds import generator_for, seed_for
from clipstill.distillation.settings import Kernel, ReadingSettings

Pixels = NDArray[np.uint8]
_KERNELS: dict[Kernel, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# Aspect ratios of random crops, and tries to find one that fits into the photo, as in torchvision.
_RATIOS, _TRIES = (3 / 4, 4 / 3), 10
_REDUCTIONS = (8, 4, 2, 1)
_AT_ONCE = 64
# A process starts in the time that a few dozen small photos take; more than eight are for who asks for them.
_LEAST_PER_WORKER, _MOST_WORKERS = 64, 8


class Cut(NamedTuple):
    """What is taken of each photo: a random crop, mirrored half the time, or its centre square without ``crop_min``."""

    size: int  # Side of the result in pixels, S.
    crop_min: float | None = None  # Least share of the area that a crop keeps.
    kernel: Kernel = "bilinear"
    seed: tuple[int | str, ...] = ()


class Task(NamedTuple):
    """Photos to read at once: places in the list of files, and the numbers that their crops are drawn by."""

    cut: Cut
    photos: tuple[int, ...]
    numbers: tuple[int, ...]


class PhotoSet:
    """Photos in an order; one may be there more than once. Use ``open``."""

    def __init__(self, reader: _Reader, photo_N: NDArray[np.int64]) -> None:
        self._reader, self.photo_N = reader, photo_N

    @classmethod
    def open(cls, paths: Sequence[Path], reading: ReadingSettings) -> PhotoSet:
        """The photos that can be decoded; the others are told. ``photo_N`` are their places in ``paths``."""
        workers = _workers(reading, len(paths))
        sizes_N2, reasons = np.zeros((len(paths), 2), np.int32), []
        with Progress("photos: check", total=len(paths), unit="img") as bar:
            chunks = [range(start, min(start + _AT_ONCE, len(paths))) for start in range(0, len(paths), _AT_ONCE)]
            for chunk, found in zip(chunks, _loader(_Sizes(paths), workers, chunks), strict=True):
                for place, size in zip(chunk, found, strict=True):
                    if isinstance(size, str):
                        reasons.append(size)
                    else:
                        sizes_N2[place] = size
                bar.advance(len(chunk))
        if reasons:
            say(f"{len(reasons)} of {len(paths)} photos are skipped: {listed(reasons, most=5)}")
        files = _Files(paths, sizes_N2, reading.cache_mb * 1_000_000 // max(1, workers))
        return cls(_Reader(files, workers), sizes_N2[:, 0].nonzero()[0])

    def __len__(self) -> int:
        return len(self.photo_N)

    def at(self, place_M: NDArray[np.int64] | NDArray[np.bool_]) -> PhotoSet:
        """The photos at some places, or where a bool mask is true."""
        return PhotoSet(self._reader, self.photo_N[place_M])

    @cached_property
    def digest(self) -> str:
        """Hash of names, sizes and times of change, in order: the content of gigabytes takes too long to read."""
        facts: list[object] = [self.photo_N.tolist()]
        for photo in np.unique(self.photo_N).tolist():
            path = self._reader.files.paths[photo]
            status = path.stat()
            facts.append([path.parent.name, path.name, status.st_size, status.st_mtime_ns])
        return sha256_json(facts)

    def task(self, row_B: Tensor, cut: Cut) -> Task:
        """What reads some photos. Equal photos with different numbers get different crops."""
        return Task(cut, tuple(self.photo_N[row_B.numpy()].tolist()), tuple(row_B.tolist()))

    def read(self, task: Task, ahead: Iterable[Task] = ()) -> Tensor:
        """Pixels of a task, uint8 (B, 3, S, S). Tasks that come next are begun meanwhile.

        Raises:
            DataError: A photo is gone, or was changed since the set was opened.
            ResourceError: A process that reads was ended by the system.
        """
        return torch.from_numpy(self._reader.read(task, ahead)).permute(0, 3, 1, 2)

    def stop(self) -> None:
        """End the processes that read; a next task starts them anew."""
        self._reader.stop()

    def squares(self, size: int) -> Tensor:
        """The centre squares of all photos, uint8 (N, 3, size, size)."""
        return self.read(self.task(torch.arange(len(self)), Cut(size)))


def random_crop(width: int, height: int, crop_min: float, *seed_parts: int | str) -> tuple[int, int, int, int]:
    """Left, top, width and height of a part of a picture, as torchvision's ``RandomResizedCrop`` draws it."""
    uniform = torch.rand(2 * _TRIES + 2, generator=generator_for(*seed_parts)).tolist()
    low, high = map(math.log, _RATIOS)
    for area, shape in zip(uniform[:_TRIES], uniform[_TRIES:-2], strict=True):
        pixels = (crop_min + (1 - crop_min) * area) * width * height
        ratio = math.exp(low + (high - low) * shape)
        wide, tall = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            return int(uniform[-2] * (width - wide + 1)), int(uniform[-1] * (height - tall + 1)), wide, tall
    wide = max(1, min(width, round(height * _RATIOS[1])))
    tall = max(1, min(height, round(width / _RATIOS[0])))
    return (width - wide) // 2, (height - tall) // 2, wide, tall


def is_mirrored(*seed_parts: int | str) -> bool:
    """Whether a view is a mirror image, which half of them are."""
    return seed_for(*seed_parts, "mirror") % 2 == 1


class _Sizes(Dataset[list[tuple[int, int] | str]]):
    """Width and height of files, or why one cannot be decoded."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __getitem__(self, places: range) -> list[tuple[int, int] | str]:
        return [_size(self._paths[place]) for place in places]


def _size(path: Path) -> tuple[int, int] | str:
    try:
        return load_with_size(path, diminished=lambda _: (1, 1))[1]
    except DataError as error:
        return str(error)


class _Files(Dataset[Pixels | str]):
    """Cuts views from files. The photos that are decoded first stay in memory, up to a number of bytes.

    None is replaced: each epoch reads all photos once, so dropping the oldest would drop each before it comes again.
    """

    def __init__(self, paths: Sequence[Path], sizes_N2: NDArray[np.int32], most_bytes: int) -> None:
        self.paths, self._sizes_N2 = paths, sizes_N2
        self._free, self._kept = most_bytes, dict[tuple[int, int, bool], Image.Image]()

    def __getitem__(self, task: Task) -> Pixels | str:
        """Pixels (B, S, S, 3), or the text of an error: the loader would put a traceback around an exception."""
        cut = task.cut
        try:
            views = [self._view(photo, number, cut) for photo, number in zip(task.photos, task.numbers, strict=True)]
        except DataError as error:
            return str(error)
        return np.stack(views) if views else np.zeros((0, cut.size, cut.size, 3), np.uint8)

    def _view(self, photo: int, number: int, cut: Cut) -> Pixels:
        if cut.crop_min is None:
            whole = self._get((photo, cut.size, True), lambda: _centre(self.paths[photo], cut.size))
            return np.asarray(whole)
        width, height = self._sizes_N2[photo].tolist()
        left, top, wide, tall = random_crop(width, height, cut.crop_min, *cut.seed, number)
        part = next(each for each in _REDUCTIONS if each == 1 or each * cut.size <= min(wide, tall))
        reduced = self._get((photo, part, False), lambda: _reduced(self.paths[photo], width, height, part))
        # Cut first, since Pillow's resize takes pixels from around its box.
        across, down = (left / part, (left + wide) / part), (top / part, (top + tall) / part)
        first = math.floor(across[0]), math.floor(down[0])
        cropped = reduced.crop((*first, math.ceil(across[1]), math.ceil(down[1])))
        box = (across[0] - first[0], down[0] - first[1], across[1] - first[0], down[1] - first[1])
        view = np.asarray(cropped.resize((cut.size, cut.size), _KERNELS[cut.kernel], box=box))
        return view[:, ::-1] if is_mirrored(*cut.seed, number) else view

    def _get(self, key: tuple[int, int, bool], decode: Callable[[], Image.Image]) -> Image.Image:
        image = self._kept.get(key)
        if image is None:
            image = decode()
            used = 4 * image.width * image.height  # Pillow takes four bytes a pixel.
            if used <= self._free:
                self._free -= used
                self._kept[key] = image
        return image


def _centre(path: Path, size: int) -> Image.Image:
    return Image.fromarray(read_fitted(path, Preprocess(size)))


def _reduced(path: Path, width: int, height: int, part: int) -> Image.Image:
    """A photo at ``1 / part`` of its size; a JPEG is decoded at that size."""
    image = load_rgb(path, diminished=lambda size: (size[0] // part, size[1] // part))
    if part > 1 and image.size == (width, height):
        image = image.reduce(part)
    if image.size != (math.ceil(width / part), math.ceil(height / part)):
        raise DataError(f"{path} was changed while it was learned from. Run the same command again.")
    return image


class _Reader:
    """Reads tasks in this process or in ``workers`` others, each of which reads and keeps photos of its own."""

    def __init__(self, files: _Files, workers: int) -> None:
        self.files, self._workers, self._shares = files, workers, max(1, workers)
        self.stop()

    def stop(self) -> None:
        """End the other processes; a next task starts them anew."""
        self._order = _Order()
        self._loader = _loader(self.files, self._workers, self._order)
        self._begun: deque[Task] = deque()  # Tasks that the workers have been given, beginning with the next result.
        self._found: Iterator[Pixels | str] = iter(())

    def read(self, task: Task, ahead: Iterable[Task]) -> Pixels:
        """Pixels (B, S, S, 3) of a task."""
        if not self._begun or self._begun[0] != task:
            self._begun = deque()
            self._order.parts = _split(itertools.chain([task], ahead), self._shares, self._begun)
            self._found = iter(self._loader)
        result = np.empty((len(task.photos), task.cut.size, task.cut.size, 3), np.uint8)
        for share in range(self._shares):
            try:
                found = next(self._found)
            except RuntimeError as error:
                raise ResourceError(
                    f"a process that reads photos was ended ({error}). Set reading.workers or reading.cache_mb lower "
                    f"and run the same command again: it goes on where it stopped."
                ) from error
            if isinstance(found, str):
                raise DataError(found)
            result[_own(task, share, self._shares)] = found
        self._begun.popleft()
        return result


class _Order:
    """What a loader hands to its workers in turn."""

    parts: Iterator[Task] = iter(())

    def __iter__(self) -> Iterator[Task]:
        return self.parts


def _split(tasks: Iterable[Task], shares: int, begun: deque[Task]) -> Iterator[Task]:
    for task in tasks:
        begun.append(task)
        for share in range(shares):
            own = _own(task, share, shares)
            yield Task(task.cut, *(tuple(each[place] for place in own) for each in (task.photos, task.numbers)))


def _own(task: Task, share: int, shares: int) -> list[int]:
    """Places of the photos that one process reads: always the same photos, so that it finds them in its memory."""
    return [place for place, photo in enumerate(task.photos) if photo % shares == share]


def _loader(dataset: Dataset[Any], workers: int, order: Iterable[Any]) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_be_quiet,
        # Else the loader draws from the global generator, and a resumed run would draw more often.
        generator=torch.Generator(),
        multiprocessing_context="fork" if workers else None,
        persistent_workers=workers > 0,
    )


def _workers(reading: ReadingSettings, photos: int) -> int:
    """Only Linux starts processes by a fork; others would import the user's script again."""
    wanted = min(_MOST_WORKERS, torch.get_num_threads() - 1) if reading.workers is None else reading.workers
    return min(wanted, photos // _LEAST_PER_WORKER) if sys.platform == "linux" else 0


def _as_it_is(found: Any) -> Any:
    """Arrays, not tensors, which would take shared memory, of which containers have little."""
    return found


def _be_quiet(worker: int) -> None:
    logging.disable()
    gc.freeze()  # Loaders that are garbage in the parent are not this process's to close.
