"""Settings of where synthetic images are made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from clipstill.core.config import Config, absolute


def _stored_address(address: str) -> str:
    return address if "://" in address or "::" in address else str(absolute(address))


class LaunchSettings(Config):
    """Where synthetic images are made. This changes the time it takes and no image.

    Under ``torchrun`` each rank makes its share by itself, whatever is set here.
    """

    launcher: Literal["local", "ray"] = Field(
        default="local", description="local for this process, ray for tasks on a Ray cluster."
    )
    address: str | None = Field(
        default=None,
        description="Ray cluster: ray://HOST:PORT from outside, HOST:PORT or auto on one of its machines. null takes "
        "RAY_ADDRESS where it is set, and otherwise starts a cluster here that ends with the synthesis.",
    )
    workers: int = Field(
        default=0,
        ge=0,
        description="Most tasks at once; 0 takes as many as the cluster holds. A task takes a GPU, or as many CPUs as "
        "the setting threads.",
    )
    storage: Annotated[str, AfterValidator(_stored_address)] | None = Field(
        default=None,
        description="fsspec address, such as s3://bucket/run, where tasks leave their images and the next call gathers "
        "them after a failure. null sends them back through Ray.",
    )
