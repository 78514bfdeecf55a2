"""Settings of export."""

from __future__ import annotations

from pydantic import Field

from clipstill.core.config import Config


class ExportSettings(Config):
    """Formats of the exported model, and the checks before they are written."""

    formats: tuple[str, ...] = Field(
        default=("onnx", "onnx-int8"),
        description="Formats beside model.onnx, which is always there. See: clipstill list formats. int8 is a quarter "
        "of the size and takes seconds to make.",
    )
    int8_refuse: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="Share of changed answers above which no int8 or fp16 file is written; above 0.05 there is a "
        "warning. For the student lite0 on PACS, int8 changes 3 % for photos and 9 % for sketches.",
    )
    zero_shot: bool = Field(
        default=True,
        description="Make the bundle of the small teacher with stored class vectors too, where that is an embedded "
        "one: RUN/zero-shot, seconds and 60 MB.",
    )
    page: bool = Field(
        default=True,
        description="Add a page that runs the model in a browser without installing anything: index.html and 4 MB of "
        "runtime.",
    )
