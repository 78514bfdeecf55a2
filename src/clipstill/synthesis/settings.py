"""Settings of synthesis. Light: no tensor library is loaded."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from clipstill.core.config import MANY, Config
from clipstill.core.errors import ConfigError

_SMALLEST_SIDE = 32
Decay = Annotated[float, Field(ge=0, lt=1)]


class SynthesisSettings(Config):
    """How synthetic images are made."""

    steps: int = Field(
        default=20,
        ge=1,
        le=MANY,
        description="Optimiser steps per image. Long optimisation drives an image into the teacher's blind spots.",
    )
    lr: float = Field(
        default=0.1,
        ge=1e-6,
        le=100,
        description="Learning rate of Adam. 0.1 suits pixels; each generator multiplies it by a factor of its own, the "
        "embedded one by two.",
    )
    betas: tuple[Decay, Decay] = Field(
        default=(0.9, 0.99),
        description="Decays of Adam's two means. VQGAN-CLIP and most other public loops take (0.9, 0.999); the "
        "shorter memory ends lower after the hundred steps of the default.",
    )
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine",
        description="Learning rate schedule: falls to a tenth along a cosine, or stays as it is, as in VQGAN-CLIP.",
    )
    views: int = Field(default=1, ge=1, le=1_000, description="Augmented views per image and step.")
    image_size: int = Field(default=96, ge=_SMALLEST_SIDE, le=1_024, description="Side of an image in pixels.")
    coarse_share: float = Field(
        default=0.0, ge=0, le=0.95, description="Share of the steps that work at about half the image size."
    )
    group_size: int = Field(
        default=28,
        ge=1,
        le=65_536,
        description="Most images that are made together and share BatchNorm statistics. A fixed size keeps images the "
        "same wherever a run was resumed.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="Precision of generator and teacher; latents and losses stay in float32. auto is bf16 on GPUs that "
        "are fast in it, and fp32 elsewhere.",
    )
    text_weight: float = Field(
        default=1.0,
        ge=0,
        le=MANY,
        description="Weight of image-text matching. Wei et al. (ICLR 2025) weigh it like the class term.",
    )
    class_weight: float = Field(default=1.0, ge=0, le=MANY, description="Weight of class consistency.")
    bn_weight: float = Field(
        default=20.0,
        ge=0,
        le=MANY,
        description="Weight of the teacher's BatchNorm statistics of natural images. Teachers without any ignore it.",
    )
    natural_weight: float = Field(
        default=10.0,
        ge=0,
        le=MANY,
        description="Weight of the BatchNorm statistics of EfficientNet-Lite0, which give teachers such as CLIP a "
        "prior of natural images. Not used where the teacher has these statistics itself and bn_weight is above 0.",
    )
    tv_weight: float = Field(
        default=2.0,
        ge=0,
        le=MANY,
        description="Weight of total variation. Each generator multiplies it by a factor of its own.",
    )
    crop_min: float = Field(
        default=0.7, ge=0.01, le=1, description="Least side of a view's crop, as a share of the image's side."
    )
    degrees: float = Field(default=10.0, ge=0, le=180, description="Largest rotation of a view in degrees.")
    perspective: float = Field(
        default=0.0,
        ge=0,
        le=0.9,
        description="Farthest that each corner of a view moves inwards, as a share of half the side.",
    )
    flip: bool = Field(default=True, description="Whether half of the views are mirror images.")
    erasing: float = Field(
        default=0.0, ge=0, le=1, description="Share of the views in which a box of a tenth to 0.4 of the area is black."
    )
    light: float = Field(
        default=0.2,
        ge=0,
        le=0.99,
        description="Largest relative change of a view's brightness, contrast and saturation.",
    )
    noise: float = Field(default=0.0, ge=0, le=1, description="Largest standard deviation of the noise on a view.")

    @model_validator(mode="after")
    def _can_make_images(self) -> Self:
        if self.text_weight == 0 and self.class_weight == 0:
            raise ConfigError("synthesis.text_weight and synthesis.class_weight are both 0. Give one of them a weight.")
        return self

    def resolutions(self, stride: int) -> list[tuple[int, int, int]]:
        """Side in pixels, first step, and end step (exclusive) of each resolution."""
        first = round(self.coarse_share * self.steps)
        coarse = max(_SMALLEST_SIDE, math.ceil(self.image_size / 2 / stride) * stride)
        if first == 0 or coarse >= self.image_size:
            return [(self.image_size, 0, self.steps)]
        return [(coarse, 0, first), (self.image_size, first, self.steps)]
