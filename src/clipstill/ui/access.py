"""Who may see the page: whoever holds the address that was printed at the start.

The page can start programs and read folders, so it listens on the loopback address only, and every request, Gradio's
own among them, needs a cookie that the printed address sets. Other users of the machine lack the token; other pages in
the same browser are kept out by the headers ``Host`` (a name that was pointed at 127.0.0.1 is not ours) and ``Origin``.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

TOKEN_PARAMETER = "token"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# Gradio's page carries scripts and styles inside itself. What counts is that nothing is fetched from elsewhere.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; frame-ancestors 'self'; base-uri 'self'; form-action 'self'; object-src 'none'"
)
_OWN_HEADERS = {
    b"content-security-policy": _POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"cross-origin-resource-policy": b"same-origin",
}


class Guard:
    """Lets a request through to the app, or answers it with 401 or 403.

    Args:
        app: what is guarded.
        token: of the printed address.
        port: where the app listens.
    """

    def __init__(self, app: App, token: str, port: int) -> None:
        self._app, self._token = app, token
        # Cookies do not know ports: two pages on one machine need two names.
        self._cookie = f"clipstill-{port}"
        self._hosts = frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of the ASGI protocol."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, _with_own_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _answer(send, *refusal)

    def _refusal(self, scope: Scope) -> tuple[int, str, Headers] | None:
        """Status, text and headers of the answer to a request that does not get through; None for one that does."""
        headers = {bytes(name).lower(): bytes(value).decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if host not in self._hosts:
            return 403, "This address is not served here. Open the address that clipstill ui printed.", []
        changes = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        if changes and headers.get(b"origin", f"http://{host}") != f"http://{host}":
            return 403, "Another page asked for this. Open the address that clipstill ui printed.", []
        query = parse_qsl(bytes(scope.get("query_string", b"")).decode("latin-1"), keep_blank_values=True)
        given = dict(query).get(TOKEN_PARAMETER)
        if given is not None:
            if not self._is_token(given):
                return 403, "The token is wrong, or of an earlier start. Open the address that was printed last.", []
            # Answered by a redirect, so that the token does not stay in the address line and the history.
            return 303, "", self._way_in(str(scope["path"]), query)
        if not self._is_token(_cookie(headers.get(b"cookie", ""), self._cookie)):
            return 401, "This page needs a token. Open the whole address that clipstill ui printed.", []
        return None

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())

    def _way_in(self, path: str, query: Iterable[tuple[str, str]]) -> Headers:
        rest = urlencode([(name, value) for name, value in query if name != TOKEN_PARAMETER])
        # One slash at the front: two would be another machine's name.
        place = "/" + path.lstrip("/\\") + (f"?{rest}" if rest else "")
        cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Lax"
        return [(b"location", place.encode("ascii", "ignore")), (b"set-cookie", cookie.encode())]


def _cookie(header: str, name: str) -> str:
    try:
        morsel = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _with_own_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {bytes(name).lower() for name, _ in message.get("headers", [])}
            added = [(name, value) for name, value in _OWN_HEADERS.items() if name not in present]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return sending


async def _answer(send: Send, status: int, text: str, headers: Headers) -> None:
    own: Headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    start = {"type": "http.response.start", "status": status, "headers": [*own, *headers]}
    await _with_own_headers(send)(start)
    await send({"type": "http.response.body", "body": f"{text}\n".encode() if text else b""})
