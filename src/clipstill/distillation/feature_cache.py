"""Features of augmented views, computed once: they make training a head on a frozen backbone nearly free.

Each pass over the images is a file of its own. A killed run computes only the passes that are missing, and a run with
other head settings computes none.

Shapes: N images, F student features, D teacher dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipstill.core.errors import ArtifactError
from clipstill.core.files import sha256_json
from clipstill.core.progress import Progress
from clipstill.core.tensors import tensor_digest
from clipstill.distillation import parallel
from clipstill.distillation.checkpoint import load_state, save_state
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.views import Views, plain_view, to_unit, views_of

if TYPE_CHECKING:
    from clipstill.distillation.settings import DistilSettings
    from clipstill.students.student import Student

FOLDER = "features"
# Images per forward pass. Not the batch of training, so that changing that one leaves the cache valid.
CHUNK = 64


@dataclass(frozen=True)
class Pass:
    """One view of each image, as both models see it.

    Attributes:
        student_NF: Pooled features.
        teacher_ND: Unit vectors.
        mixed_N: True for views that show a second image too.
    """

    student_NF: Tensor
    teacher_ND: Tensor
    mixed_N: Tensor


class FeatureCache:
    """Computes passes over one set of images and keeps them below ``folder/features``.

    The student's backbone must not be trained while the cache is in use.
    """

    def __init__(
        self,
        student: Student,
        labels: SoftLabels,
        pixels_N3HW: Tensor,
        settings: DistilSettings,
        folder: Path,
        seed: int = 0,
    ) -> None:
        self._student, self._labels, self._pixels, self._settings = student, labels, pixels_N3HW, settings
        self._folder, self._seed = folder / FOLDER, seed

    @cached_property
    def key(self) -> str:
        """Hash of everything that the passes depend on."""
        fit, settings = self._student.preprocess, self._settings
        return sha256_json(
            {
                "format": 3,
                "images": tensor_digest({"images": self._pixels}),
                "backbone": tensor_digest(self._student.backbone.state_dict()),
                "normalisation": [fit.mean, fit.std, fit.size],
                "teacher": self._labels.key,
                "views": [settings.crop_min, settings.jitter, settings.mix, self._seed],
                "kernel": settings.kernel,
                "device": self._student.mean.device.type,
            }
        )

    def plain(self) -> Pass:
        """The images as they are, only resized."""
        return self._pass("plain", None, 0, "features")

    def augmented(self, passes: int) -> list[Pass]:
        """``passes`` random views of each image; the first ones are the same however many are asked for."""
        views = views_of(self._settings, self._student.preprocess.size)
        return [
            self._pass(f"{number:03d}", views, number, f"features, pass {number + 1} of {passes}")
            for number in range(passes)
        ]

    def _pass(self, name: str, views: Views | None, number: int, title: str) -> Pass:
        path = self._folder / f"{self.key[:16]}-{name}.safetensors"
        saved = load_state(path, self.key)
        # One process computes for all.
        if saved is None and parallel.share()[0] == 0:
            save_state(path, self._computed(views, number, title), {"key": self.key})
        parallel.wait()
        saved = saved or load_state(path, self.key)
        if saved is None:
            raise ArtifactError(f"{path} is not of this run. Give the processes one folder that all of them see.")
        return Pass(**saved.tensors)

    @torch.no_grad()
    def _computed(self, views: Views | None, number: int, title: str) -> dict[str, Tensor]:
        student = self._student.eval()
        parts = []
        with Progress(title, total=len(self._pixels), unit="img") as bar:
            for start in range(0, len(self._pixels), CHUNK):
                x_N3HW = to_unit(self._pixels[start : start + CHUNK], student.mean.device)
                mixed_N = torch.zeros(len(x_N3HW), dtype=torch.bool)
                if views is None:
                    x_N3HW = plain_view(x_N3HW, student.preprocess.size)
                else:
                    x_N3HW, mixed_N = views(x_N3HW, self._seed, "cache", number, start)
                x_N3HW = x_N3HW.contiguous(memory_format=torch.channels_last)
                seen = student.features(x_N3HW).float(), self._labels.vectors(x_N3HW).float(), mixed_N
                parts.append([each.cpu() for each in seen])
                bar.advance(len(x_N3HW))
        names = ("student_NF", "teacher_ND", "mixed_N")
        return {name: torch.cat(each) for name, each in zip(names, zip(*parts, strict=True), strict=True)}
