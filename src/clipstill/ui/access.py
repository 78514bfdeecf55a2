"""Who may see the page: anyone who has the address that was printed at the start.

The page can start programs and read folders, so it listens on the loopback address only, and every request, Gradio's
own among them, needs a cookie that the printed address sets. Other users of the machine lack the token; other pages in
the same browser are kept out by the headers ``Host`` (a name that was pointed at 127.0.0.1 is not ours) and ``Origin``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response

from clipstill.web.access import same_secret, with_headers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN_PARAMETER = "token"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    # Gradio's page carries scripts and styles inside itself. What counts is that nothing is fetched from elsewhere.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; frame-ancestors 'self'; "
    "base-uri 'self'; form-action 'self'; object-src 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Lets a request through to the app, which listens on a port, or answers it with 401 or 403."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token = app, token
        # Cookies do not know ports: two pages on one machine need two names.
        self._cookie = f"clipstill-{port}"
        self._hosts = frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        refusal = None if scope["type"] == "lifespan" else self._refusal(HTTPConnection(scope))
        if refusal is None:
            await self._app(scope, receive, with_headers(send, _HEADERS))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, with_headers(send, _HEADERS))

    def _refusal(self, request: HTTPConnection) -> Response | None:
        """The answer to a request that does not get through; None for one that does."""
        host = request.headers.get("host", "")
        if host not in self._hosts:
            return _answer(403, "This address is not served here. Open the address that clipstill ui printed.")
        changes = request.scope["type"] == "websocket" or request.scope["method"] not in _SAFE_METHODS
        if changes and request.headers.get("origin", f"http://{host}") != f"http://{host}":
            return _answer(403, "Another page asked for this. Open the address that clipstill ui printed.")
        given = request.query_params.get(TOKEN_PARAMETER)
        if given is None:
            if same_secret(request.cookies.get(self._cookie, ""), self._token):
                return None
            return _answer(401, "This page needs a token. Open the whole address that clipstill ui printed.")
        if not same_secret(given, self._token):
            return _answer(403, "The token is wrong, or of an earlier start. Open the address that was printed last.")
        # Hide the token from the address line and the history.
        response = _answer(303, "", location="/")
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
        return response


def _answer(status: int, text: str, **headers: str) -> Response:
    return PlainTextResponse(f"{text}\n" if text else "", status, {"cache-control": "no-store", **headers})
