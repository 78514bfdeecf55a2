"""The models of a run, each loaded when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from clipstill.core.protocols import Generator, Sampler, Teacher
    from clipstill.workflow.settings import Settings


@dataclass(frozen=True)
class Models:
    """Device, teacher and generators of a run."""

    settings: Settings
    # Parts that the caller built, by ``"teacher"``, ``"generator"`` and ``"student"``; the settings name the others.
    built: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def device(self) -> torch.device:
        """The device that models run on; ranks of one machine share its GPUs out."""
        from clipstill.core.device import pick_device
        from clipstill.distributed.torchrun import local_device

        return pick_device(local_device(self.settings.device))

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher without learned prompts: images are made by it."""
        from clipstill.teachers import load_teacher

        section = self.settings.teacher
        teacher: Teacher | None = self.built.get("teacher")
        return teacher or load_teacher(section.name, self.device, section.precision)

    @cached_property
    def generators(self) -> Sequence[Generator | Sampler]:
        """The generators that take turns; none where no images are made."""
        from clipstill.generators import load_generators

        if not self.settings.prompts.images_per_class:
            return []
        if "generator" in self.built:
            return [self.built["generator"]]
        return load_generators(self.settings.generator.name, self.device, self.settings.generator)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Hashes of the parts that the caller built, by the setting that names them."""
        from clipstill.core.tensors import tensor_digest

        found = {}
        if "teacher" in self.built:
            found["teacher.name"] = self.teacher.weights_sha256
        if "generator" in self.built:
            found["generator.name"] = " ".join(part.sha256 for part in self.built["generator"].provenance)
        if "student" in self.built:
            found["student.name"] = tensor_digest(self.built["student"].state_dict())
        return found
