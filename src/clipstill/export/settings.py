"""Settings of export."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from clipstill.core.config import Config


class ExportSettings(Config):
    """Formats of the exported model, and the checks before they are written."""

    formats: tuple[str, ...] = Field(
        default=("onnx", "onnx-int8"),
        description="Formats beside model.onnx, which is always there. See: clipstill list formats. int8 is a quarter "
        "of the size and takes seconds to make.",
    )
    tolerance: float = Field(
        default=1e-3, gt=0, description="Largest difference of a logit between a float32 format and the student."
    )
    int8_warn: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of answers that int8 or fp16 may change without a warning. For the student lite0 on PACS, "
        "int8 changes 3 % for photos and 9 % for sketches.",
    )
    int8_refuse: float = Field(
        default=0.15, ge=0, le=1, description="Share of changed answers above which no int8 or fp16 file is written."
    )
    page: bool = Field(
        default=True,
        description="Add a page that runs the model in a browser without installing anything: index.html and 4 MB of "
        "runtime.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.int8_warn > self.int8_refuse:
            raise ValueError("int8_warn is above int8_refuse, so nothing would ever be warned of; lower it")
        return self
