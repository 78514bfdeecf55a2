"""The groups of a surrogate set as units of work: which there are, and how one is made, wherever that is.

Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clipstill.surrogate.dataset import ImageRecord
from clipstill.text.prompts import Prompt
from clipstill.workflow.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from clipstill.core.protocols import Generator, Sampler, Teacher


@dataclass(frozen=True)
class SynthesisWork:
    """All that a worker must know.

    Attributes:
        key: of the surrogate set.
        config: of the run.
        prompts: one an image.
        targets_ND: unit vector that each image is drawn towards.
        class_vectors_CD: unit vectors.
        further: how many of the prompts, the last ones, ask for further images of classes whose first ones look alike.
    """

    key: str
    config: Settings
    prompts: Sequence[Prompt]
    targets_ND: Tensor
    class_vectors_CD: Tensor
    further: int = 0

    @property
    def groups(self) -> list[range]:
        """Which prompts make up each group; the same for whoever asks. Further images have groups of their own."""
        from clipstill.generators import resolve_generators
        from clipstill.synthesis.engine import group_ranges

        turns, size = len(resolve_generators(self.config.generator.name)), self.config.synthesis.group_size
        first = len(self.prompts) - self.further
        groups = group_ranges(first, size, turns)
        if self.further:
            added = group_ranges(self.further, size, turns)
            groups += [range(first + group.start, first + group.stop) for group in added]
        return groups

    def with_further(self, prompts: Sequence[Prompt], targets_ND: Tensor) -> SynthesisWork:
        """The same work and more; the groups that there were keep their numbers and members."""
        import torch

        return replace(
            self,
            prompts=[*self.prompts, *prompts],
            targets_ND=torch.cat([self.targets_ND, targets_ND]),
            further=self.further + len(prompts),
        )


@dataclass(frozen=True)
class MadeGroup:
    """One group, ready to be written.

    Attributes:
        number: of the group.
        pixels_NHW3: uint8.
        records: one an image.
        facts: generator, seconds, images that were left out, images that began again, and the history of the losses.
        features_ND: float16, the teacher's unit vectors of the images.
    """

    number: int
    pixels_NHW3: Any
    records: list[ImageRecord]
    facts: Mapping[str, Any]
    features_ND: NDArray[np.float16]

    @property
    def loss(self) -> float:
        """Mean over the images."""
        return sum(record.loss for record in self.records) / len(self.records)


class Worker:
    """Makes groups, with models that are loaded once.

    Args:
        work: of the run.
        teacher: on ``device``.
        generators: on ``device``.
        device: where to work.
    """

    def __init__(
        self, work: SynthesisWork, teacher: Teacher, generators: Sequence[Generator | Sampler], device: Any
    ) -> None:
        from clipstill.synthesis.engine import Synthesiser

        self._work = work
        self._synthesiser = Synthesiser(teacher, generators, work.class_vectors_CD, work.config.synthesis, device)

    @classmethod
    def load(cls, work: SynthesisWork, device: Any) -> Worker:
        """A worker with models of its own.

        Raises:
            ClipstillError: a model cannot be loaded.
        """
        from clipstill.generators import load_generators
        from clipstill.teachers import load_teacher

        section = work.config.teacher
        teacher = load_teacher(section.name, device, section.precision)
        return cls(work, teacher, load_generators(work.config.generator.name, device), device)

    @property
    def provenance(self) -> list[Any]:
        """Of all weights that shape the images, but for the teacher's."""
        return self._synthesiser.provenance

    def make(self, number: int, watch: Callable[[Tensor], None] | None = None) -> MadeGroup:
        """Make one group.

        Args:
            number: of the group.
            watch: called once a step with the images at work.

        Raises:
            ConfigError: no image of the group could be made.
        """
        from clipstill.synthesis.engine import GroupSpec

        start = time.monotonic()
        members = self._work.groups[number]
        prompts = [self._work.prompts[i] for i in members]
        group = GroupSpec(
            number,
            [prompt.seed for prompt in prompts],
            [prompt.class_id for prompt in prompts],
            self._work.targets_ND[members.start : members.stop],
            [prompt.text for prompt in prompts],
        )
        made = self._synthesiser.group(group, watch)
        records = [
            ImageRecord(
                class_id=prompts[member].class_id,
                style_id=prompts[member].style_id,
                index=prompts[member].index,
                seed=prompts[member].seed,
                prompt=prompts[member].text,
                loss=made.losses[row],
                score=made.scores[row],
                image_size=made.pixels_NHW3.shape[1],
                generator=made.generator,
                steps=made.steps,
                codes=None if made.codes is None else made.codes[row],
            )
            for row, member in enumerate(made.members)
        ]
        facts = {
            "generator": made.generator,
            "seconds": round(time.monotonic() - start, 3),
            "dropped": len(prompts) - len(records),
            "restarts": made.restarts,
            "history": made.history,
        }
        return MadeGroup(number, made.pixels_NHW3, records, facts, made.features_ND)
