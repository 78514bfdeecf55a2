"""The models of a run, each loaded when it is first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from clipstill.core.protocols import Generator, Sampler, Teacher
    from clipstill.workflow.settings import Settings


@dataclass(frozen=True)
class Models:
    """Device, teacher and generators of a run.

    Attributes:
        settings: Settings of the run.
        given_teacher: A teacher that the caller built, instead of the named one.
        given_generators: Generators that the caller built, instead of the named ones.
    """

    settings: Settings
    given_teacher: Teacher | None = None
    given_generators: Sequence[Generator | Sampler] = ()

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
        return self.given_teacher or load_teacher(section.name, self.device, section.precision)

    @cached_property
    def generators(self) -> Sequence[Generator | Sampler]:
        """The generators that take turns; none where no images are made."""
        from clipstill.generators import load_generators

        if not self.settings.prompts.images_per_class:
            return []
        return self.given_generators or load_generators(self.settings.generator.name, self.device)
