"""What the page and the service share, asked by the ASGI protocol."""

import asyncio
import socket
from typing import Any

import pytest

from clipstill.core.errors import ResourceError
from clipstill.web.access import same_secret, with_headers
from clipstill.web.server import LOOPBACK, listen


def headers_after(message: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(with_headers(send, {"cache-control": "no-cache", "x-content-type-options": "nosniff"})(message))
    return list(sent[0].get("headers", []))


def test_headers_of_an_answer_are_kept_and_missing_ones_added() -> None:
    start = {"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"private")]}
    assert headers_after(start) == [(b"cache-control", b"private"), (b"x-content-type-options", b"nosniff")]


def test_only_the_start_of_an_answer_has_headers() -> None:
    assert headers_after({"type": "http.response.body", "body": b""}) == []
    assert headers_after({"type": "websocket.accept"}) == []


def test_secrets_are_compared_whole() -> None:
    assert same_secret("geheim é", "geheim é")
    assert not same_secret("geheim", "geheim é")
    assert not same_secret("", "geheim")


def test_a_free_port_is_found_and_a_taken_one_refused() -> None:
    with listen(LOOPBACK, 0) as listener:
        host, port = listener.getsockname()
        assert host == LOOPBACK
        with pytest.raises(ResourceError, match=f"cannot listen on port {port} of 127.0.0.1"):
            listen(LOOPBACK, port)
        with socket.create_connection((host, port), timeout=10):
            pass


def test_another_machine_is_no_place_to_listen() -> None:
    with pytest.raises(ResourceError, match="--host nowhere.invalid is no address of this machine"):
        listen("nowhere.invalid", 0)
