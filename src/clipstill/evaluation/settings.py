"""Settings of evaluation and of refusal."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clipstill.core.config import Config, PartName, SettingPath


class EvaluationSettings(Config):
    """What the student is measured on."""

    images: SettingPath | None = Field(
        default=None,
        description="Folder of real photos with one sub-folder per class. Nothing is measured where it is null.",
    )
    ladder: bool = Field(
        default=True,
        description="Measure simpler and richer ways to the same classifier too, where there are photos. It takes a "
        "minute or two beside the run's own time.",
    )
    small_teacher: PartName = Field(
        default="auto",
        description="Teacher of RUN/zero-shot and of the ladder's rung without training: a name, or auto for "
        "embedded-s beside embedded teachers and for the teacher itself beside others.",
    )


class RefusalSettings(Config):
    """When the student says "none of these"."""

    near_misses: Literal["auto"] | Annotated[int, Field(ge=0)] | list[str] = Field(
        default="auto",
        description="Things easily mistaken for the classes, whose images set the threshold: auto for about as many "
        "words near the classes as there are classes, a number of them, or a list of names; 0 for a student that "
        "always answers.",
    )
    images: int = Field(default=2, ge=1, description="Synthetic images per near miss.")

    @property
    def wanted(self) -> bool:
        """Whether there are any near misses."""
        return self.near_misses not in (0, [])
