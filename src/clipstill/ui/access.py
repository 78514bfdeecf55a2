"""Who may see the page: anyone who has the address that was printed at the start.

The page can start programs and read folders, so it listens on the loopback address only, and every request, Gradio's
own among them, needs a cookie that the printed address sets. Other users of the machine lack the token; other pages in
the same browser are kept out by the headers ``Host`` (a name that was pointed at 127.0.0.1 is not ours) and ``Origin``.

The browser is started with the path of a file that only its user may read. It leads to the page with a token that
counts once: others see the arguments of programs. Browsers send a cookie to all ports of a host, so its value is a
secret of its own and never a token.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response

from clipstill.core.files import atomic_path
from clipstill.web.access import same_secret, with_headers
from clipstill.web.server import LOOPBACK

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN_PARAMETER = "token"
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
        self._app, self._token, self._port = app, token, port
        self._token_once: str | None = None
        self._session = secrets.token_urlsafe(32)
        # Cookies do not know ports: two pages on one machine need two names.
        self._cookie = f"clipstill-{port}"
        self._hosts = frozenset(f"{name}:{port}" for name in (LOOPBACK, "localhost"))

    @property
    def address(self) -> str:
        """The address to print; it opens the page as often as one likes."""
        return self._address(self._token)

    def _address(self, token: str) -> str:
        return f"http://{LOOPBACK}:{self._port}/?{TOKEN_PARAMETER}={token}"

    @contextmanager
    def redirect_file(self, folder: Path) -> Iterator[Path]:
        """A file that leads its owner's browser to the page once, deleted at the end."""
        self._token_once = secrets.token_urlsafe(32)
        path = folder / f"open-{self._port}.html"
        page = f'<meta http-equiv="refresh" content="0;url={self._address(self._token_once)}"><title>clipstill</title>'
        with atomic_path(path, mode=0o600) as temporary:
            temporary.write_text(page, encoding="ascii")
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

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
        if request.headers.get("origin", f"http://{host}") != f"http://{host}":
            return _answer(403, "Another page asked for this. Open the address that clipstill ui printed.")
        given = request.query_params.get(TOKEN_PARAMETER)
        is_known = any(same_secret(value, self._session) for value in self._cookie_values(request))
        if given is None:
            if is_known:
                return None
            return _answer(401, "This page needs a token. Open the whole address that clipstill ui printed.")
        if not (self._takes(given) or is_known):
            return _answer(
                403, "The token is wrong, used up, or of an earlier start. Open the address that was printed last."
            )
        # Hide the token from the address line and the history.
        response = _answer(303, "", location="/")
        response.set_cookie(self._cookie, self._session, httponly=True, samesite="lax")
        return response

    def _takes(self, given: str) -> bool:
        """Whether a token opens the page."""
        if self._token_once is not None and same_secret(given, self._token_once):
            self._token_once = None
            return True
        return same_secret(given, self._token)

    def _cookie_values(self, request: HTTPConnection) -> Iterator[str]:
        """Values of all cookies of our name. Whatever servers on other ports have set is no reason to refuse."""
        for header in request.headers.getlist("cookie"):
            for part in header.split(";"):
                name, _, value = part.partition("=")
                if name.strip() == self._cookie:
                    yield value.strip()


def _answer(status: int, text: str, **headers: str) -> Response:
    return PlainTextResponse(f"{text}\n" if text else "", status, {"cache-control": "no-store", **headers})
