"""Checks and headers that every request goes through."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders

if TYPE_CHECKING:
    from starlette.types import Message, Send


def same_secret(given: str, secret: str) -> bool:
    """Compare a client's text with a secret, in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode(), secret.encode())


def with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    """``send`` of the ASGI protocol that adds headers, by lower-case name, to answers that lack them."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = MutableHeaders(scope=message)
            for name, value in headers.items():
                present.setdefault(name, value)
        await send(message)

    return send_with_headers
