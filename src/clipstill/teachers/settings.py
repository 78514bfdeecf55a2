"""Settings of the teacher."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clipstill.core.config import Config, PartName


class TeacherSettings(Config):
    """Which teacher is distilled."""

    name: PartName = Field(
        default="embedded-m",
        description="Teacher, see: clipstill list teachers. The default ships with clipstill and needs no download.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="Precision of the image tower; features are float32 in any case. auto is bf16 on GPUs that are "
        "fast in it, and fp32 elsewhere.",
    )
