"""The teacher's answers to views that come again, so that it is asked only once about each view.

A view follows from its seed, which is the name of its pass and batch; an answer is kept under that name. A whole pass
is written to disk; a later run with another loss or learning rate then asks nothing.

Shapes: B images of a batch, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipstill.core.files import sha256_json
from clipstill.core.seeds import generator_for
from clipstill.distillation.checkpoint import load_state, save_state
from clipstill.distillation.settings import DistilSettings

FOLDER = "labels"


class LabelCache:
    """The images of each step, and the teacher's answers to their views.

    Args:
        folder: Folder of ``labels/``.
        key_parts: What the answers depend on beside the pass: images, kind of views, teacher, share of the process.
        count: Number of training images; the rest of a pass that would not fill a batch is left out.
        settings: ``batch``, ``seed``, and ``views``, the number of different passes; then they come again.
    """

    def __init__(self, folder: Path, key_parts: Sequence[Any], count: int, settings: DistilSettings) -> None:
        self._key = sha256_json({"format": 2, "parts": list(key_parts), "seed": settings.seed})
        self._folder = folder / FOLDER
        self._count, self._batch = count, min(settings.batch, count)
        self._passes, self._seed = settings.views, settings.seed
        self._batches = count // self._batch
        self._known: dict[int, dict[str, Tensor]] = {}

    def rows(self, step: int) -> tuple[Tensor, tuple[int | str, ...]]:
        """Images of a step, and the name of the draw of their views."""
        number, place = step // self._batches % self._passes, step % self._batches
        order = torch.randperm(self._count, generator=generator_for(self._seed, "label cache", number))
        return order[place * self._batch : (place + 1) * self._batch], ("cached", number, place)

    def answer(self, draw: tuple[int | str, ...], ask: Callable[[], Tensor]) -> Tensor:
        """The teacher's unit vectors (B, D) of a draw: the known ones, or those that ``ask`` gives.

        Raises:
            ResourceError: The disk is full.
        """
        number, place = int(draw[1]), str(draw[2])
        path = self._folder / f"{self._key[:16]}-{number:03d}.safetensors"
        if number not in self._known:
            saved = load_state(path, self._key)
            self._known[number] = {} if saved is None else saved.tensors
        known = self._known[number]
        if place not in known:
            known[place] = ask()
            if len(known) == self._batches:
                save_state(path, known, {"key": self._key})
        return known[place]
