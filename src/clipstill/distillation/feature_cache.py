"""Features of augmented views, computed once: training a head on a frozen backbone is then nearly free.

Each pass over the images has its own file: a killed run computes only the missing passes, and a run with other head
settings computes none.

Shapes: N images, F student features, D teacher dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clipstill.core.errors import ArtifactError
from clipstill.core.files import sha256_json
from clipstill.core.progress import Progress
from clipstill.core.tensors import passes_of, tensor_digest
from clipstill.distillation import parallel
from clipstill.distillation.checkpoint import Saved, load_state, save_state
from clipstill.distillation.views import views_of

if TYPE_CHECKING:
    from pathlib import Path

    from clipstill.distillation.training_data import Setup, TrainingData

# Images per forward pass. It is not the training batch, whose size may change without a new cache.
CHUNK = 64


class Pass(NamedTuple):
    """One view of each image: the student's pooled features, and the teacher's unit vectors."""

    student_NF: Tensor
    teacher_ND: Tensor


@dataclass(frozen=True)
class FeatureCache:
    """Computes passes over some images of a training and keeps them in ``features`` in its folder.

    The student's backbone must not be trained while the cache is in use.
    """

    setup: Setup
    data: TrainingData

    @cached_property
    def key(self) -> str:
        """Hash of everything that the passes depend on."""
        student, settings = self.setup.student, self.setup.settings
        fit = student.preprocess
        return sha256_json(
            {
                "format": 5,
                "images": self.data.digest,
                "backbone": tensor_digest(student.backbone.state_dict()),
                "normalisation": [fit.mean, fit.std, fit.size],
                "teacher": self.setup.labels.key,
                "views": [settings.crop_min, settings.jitter, settings.kernel, self.setup.seed],
                "device": student.mean.device.type,
            }
        )

    def plain(self) -> Pass:
        """The images as they are, only resized."""
        return self._passes({"plain": None})[0]

    def augmented(self, passes: int) -> list[Pass]:
        """Random views of each image; the first passes are the same however many are asked for."""
        return self._passes({f"{n:03d}": n for n in range(passes)})

    def _passes(self, number_of: dict[str, int | None]) -> list[Pass]:
        """The passes of these names, with the numbers of their random views; None for the images as they are."""
        paths = {name: self.setup.folder / "features" / f"{self.key[:16]}-{name}.safetensors" for name in number_of}
        saved = {name: load_state(path, self.key) for name, path in paths.items()}
        missing = [name for name, state in saved.items() if state is None]
        # The first process computes for all.
        if missing and parallel.share()[0] == 0:
            total = len(self.data) * len(paths)
            with Progress("features", total, "img", done=total - len(self.data) * len(missing)) as bar:
                for name in missing:
                    save_state(paths[name], self._computed(bar, number_of[name])._asdict(), {"key": self.key})
        parallel.wait()
        return [self._read(path, saved[name]) for name, path in paths.items()]

    def _read(self, path: Path, saved: Saved | None) -> Pass:
        saved = saved or load_state(path, self.key)
        if saved is None:
            raise ArtifactError(f"{path} is not of this run. Give the processes one folder that all of them see.")
        return Pass(**saved.tensors)

    @torch.no_grad()
    def _computed(self, bar: Progress, number: int | None) -> Pass:
        """One pass of random views; without a number, of the images as they are."""
        student = self.setup.student.eval()
        size = student.preprocess.side
        look = size if number is None else views_of(self.setup.settings, size)
        seed = (self.setup.seed, "cache", number or 0)
        student_parts, teacher_parts = [], []
        for x_N3HW in self.data.in_order(CHUNK, look, student.mean.device, seed):
            for part_N3HW in passes_of(x_N3HW.contiguous(memory_format=torch.channels_last)):
                student_parts.append(student.features(part_N3HW).float().cpu())
                teacher_parts.append(self.setup.labels.vectors(part_N3HW).float().cpu())
                bar.advance(len(part_N3HW))
        return Pass(torch.cat(student_parts), torch.cat(teacher_parts))
