"""What a client may ask for; all that is above it is refused before it costs anything."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one request, and of all of them together.

    Attributes:
        body_bytes: of one request.
        files: in one request.
        waiting: photos that were taken in and are not answered; further ones are told to come again.
        seconds: to send a request, and again to wait for its answer.
        decoders: photos that are decoded at the same time; each may need a gigabyte for a moment.
    """

    body_bytes: int = 20_000_000
    files: int = 16
    waiting: int = 64
    seconds: float = 30.0
    decoders: int = 2
