"""Settings of the generator."""

from __future__ import annotations

from pydantic import Field

from clipstill.core.config import Config, PartName


class GeneratorSettings(Config):
    """Which generator draws the images."""

    name: PartName = Field(
        default="embedded+pixels",
        description="Generator, see: clipstill list generators. Names joined by + take turns, a group each: the "
        "embedded one draws like a photo, pixels what it cannot.",
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Steps of a text-to-image model per image; null for what suits it: 4 or fewer where it is "
        "distilled (turbo, lightning, LCM, schnell), else 20.",
    )
    guidance: float | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Guidance of a text-to-image model; null for its pipeline's own, or 0 where it is distilled.",
    )
    negative_prompt: str = Field(
        default="", description="What a text-to-image model shall not draw. It counts with a guidance above 1."
    )
    scheduler: str | None = Field(
        default=None, description="Scheduler class of diffusers for a text-to-image model; null for the one it brings."
    )
    side: int | None = Field(
        default=None,
        ge=32,
        le=4096,
        description="Side in pixels at which a text-to-image model draws, before the image is made smaller; null for "
        "the one that it was trained at.",
    )
    variant: str | None = Field(
        default=None,
        description="Variant of the weight files of a text-to-image model, such as fp16; null for plain files.",
    )
