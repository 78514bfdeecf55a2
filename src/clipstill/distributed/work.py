"""The groups of a surrogate set as units of work: which groups there are, and how one is made on any machine.

Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipstill.generators.settings import GeneratorSettings
from clipstill.surrogate.dataset import ImageRecord
from clipstill.synthesis.settings import SynthesisSettings
from clipstill.text.prompts import Prompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from clipstill.core.protocols import Generator, Sampler, Teacher

# Called with each group that is safely stored and the mean loss of its images, None where the loss is not known.
OnDone = Callable[[int, float | None], None]


@dataclass(frozen=True)
class SynthesisWork:
    """All that a worker must know to make the images of a surrogate set."""

    key: str  # Key of the surrogate set.
    teacher: str
    precision: str  # Precision of the teacher's image tower.
    generator: GeneratorSettings
    device: str  # Device as the settings name it.
    deterministic: bool  # Whether a GPU takes its deterministic algorithms.
    settings: SynthesisSettings
    prompts: Sequence[Prompt]  # One per image.
    targets_ND: Tensor  # Unit vectors that the images are drawn towards.
    class_vectors_CD: Tensor  # Unit vectors of the classes.

    @property
    def groups(self) -> list[range]:
        """The prompts of each group, the same on every machine."""
        from clipstill.generators import resolve_generators
        from clipstill.synthesis.engine import group_ranges

        return group_ranges(len(self.prompts), self.settings.group_size, len(resolve_generators(self.generator.name)))


@dataclass(frozen=True)
class ImageGroup:
    """The finished images of one group."""

    pixels_NHW3: Any  # Uint8.
    records: list[ImageRecord]
    facts: Mapping[str, Any]  # What the receipt of the group's shard says.
    features_ND: NDArray[np.float16]  # The teacher's unit vectors of the images.

    @property
    def loss(self) -> float:
        """Mean loss of the images."""
        return sum(record.loss for record in self.records) / len(self.records)


class Worker:
    """Makes groups with a teacher and with generators, in turns, that are loaded on ``device`` already."""

    def __init__(
        self, work: SynthesisWork, teacher: Teacher, generators: Sequence[Generator | Sampler], device: Any
    ) -> None:
        from clipstill.synthesis.engine import Synthesiser

        self._work = work
        self._synthesiser = Synthesiser(
            teacher, generators, class_vectors_CD=work.class_vectors_CD, settings=work.settings, device=device
        )

    @property
    def provenance(self) -> list[Any]:
        """Origin of all weights that shape the images, except the teacher's."""
        return self._synthesiser.provenance

    def make(self, number: int, watch: Callable[[Tensor], None] | None = None) -> ImageGroup:
        """Make a group; ``watch`` is called at each step with its images so far.

        Raises:
            ConfigError: No image of the group could be made.
        """
        from clipstill.synthesis.engine import GroupSpec

        start = time.monotonic()
        members = self._work.groups[number]
        prompts = [self._work.prompts[i] for i in members]
        group = GroupSpec(
            number=number,
            seeds=[prompt.seed for prompt in prompts],
            class_ids=[prompt.class_id for prompt in prompts],
            targets_ND=self._work.targets_ND[members.start : members.stop],
            texts=[prompt.text for prompt in prompts],
        )
        images = self._synthesiser.group(group, watch)
        records = [
            ImageRecord(
                class_id=prompts[member].class_id,
                style_id=prompts[member].style_id,
                index=prompts[member].index,
                seed=prompts[member].seed,
                prompt=prompts[member].text,
                loss=images.losses[row],
                score=images.scores[row],
                image_size=images.pixels_NHW3.shape[1],
                generator=images.generator,
                steps=images.steps,
                codes=None if images.codes is None else images.codes[row],
            )
            for row, member in enumerate(images.members)
        ]
        facts = {
            "generator": images.generator,
            "seconds": round(time.monotonic() - start, 3),
            "dropped": len(prompts) - len(records),
            "restarts": images.restarts,
            "history": images.history,
            "worker": f"{platform.node()}:{os.getpid()}",
        }
        return ImageGroup(images.pixels_NHW3, records, facts, images.features_ND)
