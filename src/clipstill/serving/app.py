"""The answers of the service. Every refusal is JSON: ``{"error": "..."}``."""

from __future__ import annotations

import asyncio
import base64
import binascii
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AsyncExitStack
from mimetypes import MimeTypes
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from clipstill.core.errors import DataError, PictureTooLargeError
from clipstill.core.files import MANIFEST, Manifest, read_manifest
from clipstill.runtime.bundle import Bundle
from clipstill.serving.batching import Batcher
from clipstill.serving.hosts import Hosts
from clipstill.serving.metrics import Metrics
from clipstill.serving.uploads import BusyError, Intake, Limits, Upload
from clipstill.web.access import same_secret, with_headers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE = "index.html"
_TOP = 3
_CLIENT_LEFT = 499  # In the log alone.
_ENDPOINTS = ("predict", "health", "labels", "metrics")
_HEADERS = {
    # The page runs the model as WebAssembly, on pictures of the user, and talks to nobody else.
    "content-security-policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    # Together they give the page's WebAssembly its threads.
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
# Python's own table: the system's often lacks the types without which a browser refuses to compile or to import.
_TYPES = MimeTypes()
for _suffix, _type in ((".js", "text/javascript"), (".mjs", "text/javascript"), (".md", "text/markdown")):
    _TYPES.add_type(_type, _suffix)


def create_app(
    bundle: Bundle,
    *,
    limits: Limits | None = None,
    hosts: Hosts | None = None,
    token: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> ASGIApp:
    """The service as an ASGI application, for ``web.server.run`` or any other ASGI server.

    ``POST /predict``, ``GET /labels``, ``GET /health``, ``GET /metrics``; ``GET /`` is the bundle's own page, and the
    manifest and every file that it lists lie beside it. Nothing that the manifest does not list is served.

    Args:
        bundle: Classifier, as ``load_bundle`` opened and verified it.
        limits: Bounds of what a client may ask for.
        hosts: Names by which it may be asked; None for any.
        token: Secret that a client must send, as ``Authorization: Bearer TOKEN`` or as the password of a browser's
            dialogue; ``/health`` answers without. None for no secret.
        log: Takes one line per request.
    """
    manifest = read_manifest(bundle.folder)
    assert manifest is not None
    service = _Service(bundle, manifest, limits or Limits())
    routes = [
        Route("/predict", service.predict, methods=["POST"]),
        # Without it the last route, which takes any name, would say that there is no /predict.
        Route("/predict", service.only_post),
        Route("/health", service.health),
        Route("/labels", service.labels),
        Route("/metrics", service.metrics_text),
        Route("/{name:path}", service.file),
    ]
    handlers: dict[Any, Any] = dict.fromkeys((HTTPException, DataError, BusyError, Exception), _refusal)
    handlers[ClientDisconnect] = lambda request, error: Response(status_code=_CLIENT_LEFT)
    inner = Starlette(routes=routes, lifespan=lambda app: service.batcher.serving(), exception_handlers=handlers)
    return _Guard(inner, service.metrics, hosts=hosts, token=token, log=log)


class _Service:
    def __init__(self, bundle: Bundle, manifest: Manifest, limits: Limits) -> None:
        self.bundle = bundle
        self.manifest = manifest
        self._seconds = limits.seconds
        self.metrics = Metrics()
        self.intake = Intake(limits)
        self.batcher = Batcher(bundle, limits, on_batch=self.metrics.batches.observe)

    async def predict(self, request: Request) -> Response:
        start = time.perf_counter()
        top = _top(request)
        seconds = self._seconds
        async with AsyncExitStack() as stack:
            with self.batcher.room(1):
                pass  # Where no photo may wait, none needs to be sent. Its place is taken once it is here.
            photos = await stack.enter_async_context(self.intake.photos(request))
            stack.enter_context(self.batcher.room(len(photos)))
            try:
                async with asyncio.timeout(seconds):
                    answers = await asyncio.gather(*(self._answer(photo, top) for photo in photos))
            except TimeoutError:
                raise BusyError(f"no answer within {seconds:g} seconds. Ask again later.") from None
        spent = {"milliseconds": round(1000 * (time.perf_counter() - start), 2)}
        if not photos[0].name:
            return JSONResponse({**answers[0], **spent})
        errors = [answer["error"] for answer in answers if "error" in answer]
        if len(errors) == len(answers):
            return JSONResponse({"error": errors[0], "answers": answers, **spent}, 422)
        return JSONResponse({"answers": answers, **spent})

    async def only_post(self, request: Request) -> Response:
        raise HTTPException(405, headers={"Allow": "POST"})

    async def _answer(self, photo: Upload, top: int) -> dict[str, Any]:
        # One of several photos may be unreadable; the only one may not.
        try:
            answer = await self.batcher.answer(photo.stream, photo.name or "the body")
        except DataError as error:
            if not photo.name:
                raise
            return {"name": photo.name, "error": str(error)}
        self.metrics.photos.inc()
        if answer.refused:
            self.metrics.refusals.inc()
        return ({"name": photo.name} if photo.name else {}) | answer.to_json(top)

    async def health(self, request: Request) -> Response:
        ready = self.batcher.running
        model, digest = str(self.bundle.info.get("student", "")), self.manifest.files[self.bundle.file]
        facts = {"ready": ready, "model": model, "classes": len(self.bundle.labels), "sha256": digest}
        return JSONResponse(facts, 200 if ready else 503)

    async def labels(self, request: Request) -> Response:
        return JSONResponse({"labels": list(self.bundle.labels), "refuses": self.bundle.refusal_threshold is not None})

    async def metrics_text(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def file(self, request: Request) -> Response:
        name = request.path_params["name"] or PAGE
        if name != MANIFEST and name not in self.manifest.files:
            if name == PAGE:
                raise HTTPException(404, "this bundle has no page. POST a picture to /predict; GET /labels, /health.")
            raise HTTPException(404, f"there is no {_shown('/' + name)}. Ask /predict, /labels, /health or /metrics.")
        path, root = self.bundle.folder / name, self.bundle.folder.resolve()
        # Listed and verified at the start; a link that took its place since leads elsewhere.
        if not path.resolve().is_relative_to(root) or not path.is_file():
            raise HTTPException(404, f"{_shown('/' + name)} is no longer there.")
        return FileResponse(path, media_type=_TYPES.guess_type(path.name)[0] or "application/octet-stream")


def _top(request: Request) -> int:
    given = request.query_params.multi_items()
    if odd := next((name for name, _ in given if name != "top"), None):
        raise HTTPException(400, f"there is no parameter {odd[:40]!r}. Known: top, such as /predict?top=3.")
    if len(given) > 1:
        raise HTTPException(400, "top is given more than once. Give one, such as /predict?top=3.")
    text = given[0][1] if given else str(_TOP)
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise HTTPException(400, f"top is {text[:40]!r}. Give a whole number from 1 on, such as /predict?top=3.")
    return int(text)


async def _refusal(request: Request, error: Exception) -> Response:
    message, status, headers = str(error), 422, None
    if isinstance(error, HTTPException):
        message, status, headers = error.detail, error.status_code, error.headers
        if status == 405:
            allowed = (headers or {}).get("Allow", "GET")
            message = f"{request.method[:20]} is no method of this address. Ask with {allowed}."
            if request.method in ("POST", "PUT"):
                message += " POST pictures to /predict, without a slash behind it."
    elif isinstance(error, PictureTooLargeError):
        status = 413
    elif isinstance(error, BusyError):
        status, headers = 503, {"retry-after": "1"}
    elif not isinstance(error, DataError):
        message, status = "the server failed at this request; its log says why.", 500
    return JSONResponse({"error": message}, status, headers)


_NO_TOKEN = JSONResponse(
    {"error": "a token is needed: Authorization: Bearer TOKEN"},
    401,
    {"www-authenticate": 'Bearer, Basic realm="clipstill", charset="UTF-8"'},
)


class _Guard:
    """Around the application: names, token, headers, metrics, log, and a line on standard error where it fails."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, *, hosts: Hosts | None, token: str | None, log: Callable[[str], None]
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = hosts
        self._token = token
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        foreign = self._hosts and self._hosts.refusal(Headers(scope=scope))
        app: ASGIApp = self._app if self._may_enter(scope) else _NO_TOKEN
        if foreign:
            app = JSONResponse({"error": foreign}, 403)
        try:
            await app(scope, receive, with_headers(send_and_note_status, _HEADERS))
        except (ClientDisconnect, ConnectionError):
            status = status or _CLIENT_LEFT
        except Exception as error:  # starlette has sent the answer of ``_refusal`` and raises the error again.
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            print(f"error: {type(error).__name__} at {place}: {_shown(str(error))}", file=sys.stderr)
        self._count(scope, status, time.perf_counter() - start)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        endpoint = scope["path"].strip("/")
        if endpoint not in _ENDPOINTS:
            endpoint = "page" if status in (200, 206, 304) else "other"
        self._metrics.requests.labels(endpoint, str(status)).inc()
        self._metrics.seconds.labels(endpoint).observe(seconds)
        client = scope["client"][0] if scope.get("client") else "-"
        self._log(f"{client} {scope['method'][:20]} {_shown(scope['path'])} {status} {1000 * seconds:.1f} ms")

    def _may_enter(self, scope: Scope) -> bool:
        if self._token is None or (scope["path"] == "/health" and scope["method"] in ("GET", "HEAD")):
            return True
        kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif kind.lower() != "bearer":
            return False
        return same_secret(given.strip(), self._token)


def _shown(text: str) -> str:
    """For logs and messages: short, and without a character that ends a line or commands a terminal."""
    return quote(text[:200], safe="/:;,.!?=&'()[]{}<>@+*$~ ")
