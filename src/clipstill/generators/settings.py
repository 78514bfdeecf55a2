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
