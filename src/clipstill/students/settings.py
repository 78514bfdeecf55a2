"""Settings of the student."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from clipstill.core.config import Config, PartName, absolute

_TOWER = "tower:"


def _stored_init(init: str) -> str:
    return init if init in ("pretrained", "scratch") else str(absolute(init))


class StudentSettings(Config):
    """Which student is taught."""

    name: PartName = Field(
        default="lite0",
        description="Student, see: clipstill list students; or tower: and a teacher's name, for its image tower.",
    )
    init: Annotated[str, AfterValidator(_stored_init)] = Field(
        default="pretrained",
        description="Initial weights: pretrained, scratch, a checkpoint file, or the folder of a student of PromptKD's "
        "code. The default's are ImageNet weights from a pip package.",
    )
    start: Literal["names", "classifier", "none"] = Field(
        default="names",
        description="What a linear head on pretrained weights begins with. names is what is known of the classes "
        "without a picture: what the embedded teachers know for lite0 and lite2, whatever teaches; for other networks "
        "classifier, the rows of the network's own ImageNet classifier for what a name is near to. none is next to "
        "nothing.",
    )
    head: Literal["linear", "class-vectors"] = Field(
        default="linear",
        description="Classifier head. class-vectors projects into the teacher's space, so that classes can be added "
        "after training.",
    )
    projector_layers: int = Field(
        default=1, ge=1, le=3, description="Layers of the projector before class vectors. PromptKD has 2."
    )
    projector_width: int = Field(
        default=0,
        ge=0,
        description="Width between the projector's layers; 0 for the teacher's dimensions, as in PromptKD.",
    )
    prompts: int = Field(
        default=0,
        ge=0,
        description="Learned tokens in each prompted layer of CLIP's image tower; 0 for none. No other network takes "
        "them.",
    )
    prompt_depth: int = Field(default=9, ge=1, description="Layers of CLIP's tower that get prompts.")
    tower: Literal["frozen", "trained"] = Field(
        default="frozen",
        description="Whether the weights of a tower are trained. In the PromptKD paper, trained lost two points.",
    )
    image_size: int = Field(
        default=160,
        ge=32,
        le=1024,
        description="Side of the student's input in pixels. 128 takes two thirds of the time for one to three points.",
    )

    @property
    def tower_of(self) -> str | None:
        """The teacher whose image tower it is; None for a network of its own."""
        return self.name.removeprefix(_TOWER) if self.name.startswith(_TOWER) else None
