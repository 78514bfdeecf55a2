"""The teacher's answers to views that come again, so that it is asked but once about each.

A view follows from its seed, which is the name of the pass and the batch: that name is what an answer is kept under. A
pass is written when it is whole; a run with another loss or rate then asks nothing.

Shapes: B images of a batch, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipstill.core.files import sha256_json
from clipstill.core.seeds import generator_for
from clipstill.distillation.checkpoint import load_state, save_state

FOLDER = "labels"
_NAME = "cached"


class LabelCache:
    """Which pictures a step takes, and what the teacher said of their views.

    Args:
        folder: where passes are kept, under ``labels/``.
        key_parts: what the answers depend on beside the pass: pictures, kind of views, teacher, share of the process.
        count: training pictures.
        batch: pictures a step; a pass leaves out the rest that would not fill one.
        passes: different passes; then they come again.
        seed: of the order within each pass.
    """

    def __init__(self, folder: Path, key_parts: Sequence[Any], count: int, batch: int, passes: int, seed: int) -> None:
        self.key = sha256_json({"format": 1, "parts": list(key_parts), "seed": seed})
        self.folder = folder / FOLDER
        self.count, self.batch, self.passes, self.seed = count, min(batch, count), passes, seed
        self.batches = count // self.batch
        self._known: dict[int, dict[int, Tensor]] = {}

    def rows(self, step: int) -> tuple[Tensor, tuple[int | str, ...]]:
        """Pictures of a step, and the name of their draw."""
        number, place = step // self.batches % self.passes, step % self.batches
        order = torch.randperm(self.count, generator=generator_for(self.seed, "label cache", number))
        return order[place * self.batch : (place + 1) * self.batch], (_NAME, number, place)

    def answers(self, drawn: tuple[int | str, ...]) -> Tensor | None:
        """Unit vectors (B, D) that the teacher gave, where it did."""
        _, number, place = drawn
        number, place = int(number), int(place)
        if number not in self._known:
            saved = load_state(self._path(number))
            fits = saved is not None and saved.facts.get("key") == self.key
            self._known[number] = (
                {int(name): tensor for name, tensor in saved.tensors.items()} if saved and fits else {}
            )
        return self._known[number].get(place)

    def keep(self, drawn: tuple[int | str, ...], answer_BD: Tensor) -> None:
        """Remember an answer; a pass that is whole is written.

        Raises:
            ResourceError: the disk is full.
        """
        _, number, place = drawn
        found = self._known.setdefault(int(number), {})
        found[int(place)] = answer_BD
        if len(found) == self.batches:
            save_state(
                self._path(int(number)), {str(name): tensor for name, tensor in found.items()}, {"key": self.key}
            )

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.key[:16]}-{number:03d}.safetensors"
