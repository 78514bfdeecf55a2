"""Features of augmented views, computed once: what makes training a head on a frozen backbone nearly free.

Each pass over the pictures is a file of its own. A killed run computes only the passes that are missing, and a run with
other head settings computes none.

Shapes: N images, V passes, F student features, D teacher dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from clipstill.core.errors import ArtifactError
from clipstill.core.files import sha256_json
from clipstill.core.progress import Progress
from clipstill.core.tensors import tensor_digest
from clipstill.distillation import parallel
from clipstill.distillation.checkpoint import load_state, save_state
from clipstill.distillation.views import Views, plain_view, to_unit, views_of

if TYPE_CHECKING:
    from clipstill.distillation.settings import DistilSettings
    from clipstill.students.student import Student


class ImageTeacher(Protocol):
    """As much of a teacher as the trainer asks."""

    name: str

    @property
    def weights_sha256(self) -> str:
        """Of its weights."""
        ...

    def encode_image(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1] -> unit vectors (N, D)."""
        ...


FOLDER = "features"
# Images a forward pass. Not the batch of training, so that changing that one leaves the cache valid.
CHUNK = 64


@dataclass(frozen=True)
class Pass:
    """One view of each picture, as both models see it.

    Attributes:
        student_NF: pooled features.
        teacher_ND: unit vectors.
        mixed_N: which views show a second picture too.
    """

    student_NF: Tensor
    teacher_ND: Tensor
    mixed_N: Tensor


class FeatureCache:
    """Computes and keeps passes over one set of pictures.

    Args:
        student: its backbone is not trained while the cache is in use.
        teacher: on the same device.
        images_N3HW: uint8.
        settings: crop, jitter, mixing, kernel and seed count; the rest does not.
        folder: where files are kept, under ``features/``.
        device: that both models are on.
    """

    def __init__(
        self,
        student: Student,
        teacher: ImageTeacher,
        images_N3HW: Tensor,
        settings: DistilSettings,
        folder: Path,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.images = images_N3HW
        self.settings = settings
        self.seed = seed
        self.device = device
        self.size = student.preprocess.size
        self.key = sha256_json(
            {
                "format": 2,
                "images": tensor_digest({"images": images_N3HW}),
                "backbone": tensor_digest(student.backbone.state_dict()),
                "normalisation": [student.preprocess.mean, student.preprocess.std, self.size],
                "teacher": [teacher.name, teacher.weights_sha256],
                "views": [settings.crop_min, settings.jitter, settings.mix, seed],
                "device": device.type,
                # Named only where it is not what it always was, so that older files stay valid.
                **({"kernel": settings.kernel} if settings.kernel != "bilinear" else {}),
            }
        )
        self.folder = folder / FOLDER

    def plain(self) -> Pass:
        """The pictures as they are, only resized."""
        return self._pass("plain", None, 0, 1)

    def augmented(self, passes: int) -> list[Pass]:
        """``passes`` random views of each picture; the first ones are the same however many are asked for."""
        views = views_of(self.settings, self.size)
        return [self._pass(f"{number:03d}", views, number, passes) for number in range(passes)]

    def _pass(self, name: str, views: Views | None, number: int, passes: int) -> Pass:
        path = self.folder / f"{self.key[:16]}-{name}.safetensors"
        title = "features" if views is None else f"features, pass {number + 1} of {passes}"
        # One process computes for all.
        found = self._stored(path) or self._computed(path, views, number, title) if parallel.share()[0] == 0 else None
        parallel.wait()
        found = found or self._stored(path)
        if found is None:
            raise ArtifactError(f"{path} is not of this run. Give the processes one folder that all of them see.")
        return found

    def _stored(self, path: Path) -> Pass | None:
        saved = load_state(path)
        if saved is None or saved.facts.get("key") != self.key:
            return None
        return Pass(saved.tensors["student"], saved.tensors["teacher"], saved.tensors["mixed"])

    def _computed(self, path: Path, views: Views | None, number: int, title: str) -> Pass:
        computed = self._compute(views, number, title)
        tensors = {"student": computed.student_NF, "teacher": computed.teacher_ND, "mixed": computed.mixed_N}
        save_state(path, tensors, {"key": self.key})
        return computed

    @torch.no_grad()
    def _compute(self, views: Views | None, number: int, title: str) -> Pass:
        was_training = self.student.training
        self.student.eval()
        student_parts, teacher_parts, mixed_parts = [], [], []
        with Progress(title, total=len(self.images), unit="img") as bar:
            for start in range(0, len(self.images), CHUNK):
                x_N3HW = to_unit(self.images[start : start + CHUNK], self.device)
                mixed_N = torch.zeros(len(x_N3HW), dtype=torch.bool)
                if views is None:
                    x_N3HW = plain_view(x_N3HW, self.size)
                else:
                    x_N3HW, mixed_N = views(x_N3HW, self.seed, "cache", number, start)
                x_N3HW = x_N3HW.contiguous(memory_format=torch.channels_last)
                student_parts.append(self.student.features(x_N3HW).float().cpu())
                teacher_parts.append(self.teacher.encode_image(x_N3HW).float().cpu())
                mixed_parts.append(mixed_N.cpu())
                bar.advance(len(x_N3HW))
        self.student.train(was_training)
        return Pass(torch.cat(student_parts), torch.cat(teacher_parts), torch.cat(mixed_parts))
