"""The teacher's answers that a student learns, and a cache of them for views that are repeated.

Shapes: N images, B images of a batch, C classes, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clipstill.core.files import sha256_json
from clipstill.core.seeds import generator_for
from clipstill.core.tensors import logits
from clipstill.distillation import parallel
from clipstill.distillation.checkpoint import load_state, save_state
from clipstill.distillation.feature_cache import FeatureCache

if TYPE_CHECKING:
    from clipstill.core.protocols import Teacher
    from clipstill.distillation.training_data import Setup

# Parts of the seed of a batch's views.
Draw = tuple[int | str, ...]


class SoftLabels:
    """A teacher's unit vectors and logits of images in [0, 1]; zeros without a teacher."""

    def __init__(self, teacher: Teacher | None, class_vectors_CD: Tensor) -> None:
        self.teacher, self.class_vectors_CD = teacher, class_vectors_CD.float()
        self._scale = 1.0 if teacher is None else float(teacher.logit_scale)

    @property
    def key(self) -> list[Any]:
        """What the unit vectors and the scale of the logits depend on."""
        return [] if self.teacher is None else [self.teacher.name, self.teacher.weights_sha256, self._scale]

    def vectors(self, x_N3HW: Tensor) -> Tensor:
        """Images -> unit vectors (N, D)."""
        if self.teacher is None:
            return x_N3HW.new_zeros((len(x_N3HW), self.class_vectors_CD.shape[1]))
        return self.teacher.encode_image(x_N3HW)

    def logits(self, feat_ND: Tensor) -> Tensor:
        """Unit vectors -> logits (N, C)."""
        return logits(feat_ND, self.class_vectors_CD, self._scale)


class LabelCache:
    """The teacher's answers to ``settings.views`` passes of views, which are then repeated.

    The seed of a view is the number of its pass and batch, under which the answer is kept. Whole passes are written to
    disk, so a later run with another loss or learning rate does not run the teacher.

    The images of a pass that would not fill a batch are left out.
    """

    def __init__(self, setup: Setup) -> None:
        settings, self._images, self._seed = setup.settings, len(setup.train), setup.seed
        parts = [FeatureCache(setup, setup.train).key, settings.batch, *parallel.share()]
        self._key = sha256_json({"format": 2, "parts": parts, "seed": setup.seed})
        self._folder, self._passes = setup.folder / "labels", settings.views
        self._batch = min(settings.batch, self._images)
        self._batches = self._images // self._batch
        self._known: dict[int, dict[str, Tensor]] = {}

    def rows(self, step: int) -> tuple[Tensor, Draw]:
        """Images of a step, and the seed of their views."""
        number, place = step // self._batches % self._passes, step % self._batches
        order = torch.randperm(self._images, generator=generator_for(self._seed, "label cache", number))
        return order[place * self._batch : (place + 1) * self._batch], ("cached", number, place)

    def answer(self, draw: Draw, ask: Callable[[], Tensor]) -> Tensor:
        """The teacher's unit vectors (B, D) of the views of a seed: the known ones, or those that ``ask`` returns."""
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
