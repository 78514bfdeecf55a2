"""Settings of curation: which synthetic images teach."""

from __future__ import annotations

from pydantic import Field

from clipstill.core.config import Config


class CurationSettings(Config):
    """Which synthetic images teach."""

    min_score: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of its class's median score that an image must reach; 0 keeps all.",
    )
    duplicate_cosine: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="Cosine between the centred teacher vectors of two images of a class from which only the better "
        "one teaches; 1 keeps all. With embedded-m an image a fifth darker has 0.98, one shifted by 3 of 96 pixels "
        "0.94, and the nearest pair of truly different images 0.90.",
    )
