"""Photos of requests, each one photo as its body or several as the files of a form, and the memory that they take."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from starlette.exceptions import HTTPException
from starlette.requests import Request

from clipstill.core.errors import ClipstillError
from clipstill.core.images import MAX_PIXELS

_HOW = (
    "Send one picture as the body with a content type of image/..., such as image/jpeg, or several as the files of "
    "multipart/form-data."
)
_LONGEST_NAME = 200
# It would write a line for each malformed form to standard error, unless the program listens to it.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Limits:
    """Bounds of one request, and of all of them together. What is above them is refused before it costs anything."""

    body_bytes: int = 20_000_000  # Of one request.
    held_bytes: int = 256_000_000  # Of all bodies that are being received or wait; beyond it HTTP 503 is the answer.
    files: int = 16  # Of one request.
    waiting: int = 64  # Photos that were received and are not answered; others are answered with HTTP 503.
    seconds: float = 30.0  # To send a request, and again to wait for its answer.
    decoders: int = 2  # Photos decoded at the same time.
    pixels: int = MAX_PIXELS  # Decoded at the same time, up to 17 bytes each; a larger photo is decoded alone.
    batch: int = 32  # Photos that the model sees at once; 1 for no batching.


class BusyError(ClipstillError):
    """No further photo may wait."""


@dataclass(frozen=True)
class Upload:
    """One encoded photo of a request, with the file name that the client gave; a body has none."""

    name: str
    stream: BinaryIO


@dataclass(eq=False)
class _Body:
    """A body, from the first byte until its photos are answered."""

    deadline: asyncio.Timeout
    start: float
    size: int = 0
    refused: bool = False


class Intake:
    """Bodies in memory: those that are being received, and those whose photos are not answered yet.

    A body that is being received takes no place of the photos that wait for the model. Where all bodies have too many
    bytes, that which has held the most for the longest is refused, unless it is complete.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0
        self._receiving: set[_Body] = set()

    @asynccontextmanager
    async def photos(self, request: Request) -> AsyncIterator[list[Upload]]:
        """The photos of a request once they have come; their temporary files are deleted afterwards.

        Raises:
            HTTPException: They do not come in time, are too long, or no photos.
            BusyError: They have held too much memory for too long.
        """
        seconds = self._limits.seconds
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(seconds) as deadline:
                    body = stack.enter_context(self._body(deadline))
                    counted = _CountedRequest(request, self, body)
                    photos = await stack.enter_async_context(_uploads(counted, self._limits))
            except TimeoutError:
                if body.refused:
                    held = f"{self._limits.held_bytes / 1e6:g} MB"
                    raise BusyError(f"photos that are sent or wait fill {held}. Ask again later.") from None
                raise HTTPException(408, f"the body did not come within {seconds:g} seconds. Send it again.") from None
            self._receiving.discard(body)
            yield photos

    @contextmanager
    def _body(self, deadline: asyncio.Timeout) -> Iterator[_Body]:
        body = _Body(deadline, asyncio.get_running_loop().time())
        self._receiving.add(body)
        try:
            yield body
        finally:
            self._receiving.discard(body)
            self._held -= body.size

    def add(self, body: _Body, size: int) -> None:
        """Count bytes of a body that have come; where there are too many, let deadlines of bodies pass."""
        if body.size + size > self._limits.body_bytes:
            limit = f"{self._limits.body_bytes / 1e6:g} MB"
            raise HTTPException(413, f"the body is larger than {limit}. Send fewer or smaller pictures.")
        body.size += size
        self._held += size
        now = asyncio.get_running_loop().time()
        while self._held > self._limits.held_bytes and self._receiving:
            worst = max(self._receiving, key=lambda each: each.size * (now - each.start))
            self._receiving.remove(worst)
            self._held -= worst.size
            worst.size, worst.refused = 0, True
            if not worst.deadline.expired():
                worst.deadline.reschedule(now)


class _CountedRequest(Request):
    """A request whose body is counted while it comes. The server drops what comes behind the answer to a longer one."""

    def __init__(self, request: Request, intake: Intake, body: _Body) -> None:
        super().__init__(request.scope, request.receive)
        self._intake, self._counted = intake, body

    async def stream(self) -> AsyncGenerator[bytes, None]:
        async for chunk in super().stream():
            self._intake.add(self._counted, len(chunk))
            yield chunk


@asynccontextmanager
async def _uploads(request: Request, limits: Limits) -> AsyncIterator[list[Upload]]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "a compressed body is not read. Pictures are compressed already; send them plainly.")
    if kind == "multipart/form-data":
        async with request.form(max_files=limits.files, max_fields=16) as form:
            files = [value for _, value in form.multi_items() if not isinstance(value, str)]
            texts = [name for name, value in form.multi_items() if isinstance(value, str)]
            if files and texts:
                field = f"the field {texts[0][:40]!r} of the form is not read"
                raise HTTPException(400, f"{field}. Send files alone; top belongs to the address: /predict?top=3.")
            if not files:
                raise HTTPException(400, f"the form holds no file. {_HOW}")
            yield [
                Upload((each.filename or "")[:_LONGEST_NAME] or f"file {number}", each.file)
                for number, each in enumerate(files, 1)
            ]
    elif kind.startswith("image/"):
        body = await request.body()
        if not body:
            raise HTTPException(400, f"the body is empty. {_HOW}")
        yield [Upload("", io.BytesIO(body))]
    else:
        raise HTTPException(415, f"the content type {kind[:100]!r} is not read. {_HOW}")
