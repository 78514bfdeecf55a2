"""Photos of a request: one as its body, or several as the files of a form."""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO

from starlette.exceptions import HTTPException
from starlette.requests import Request

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
    files: int = 16  # Of one request.
    waiting: int = 64  # Photos that were received and are not answered; others are answered with HTTP 503.
    seconds: float = 30.0  # To send a request, and again to wait for its answer.
    decoders: int = 2  # Photos decoded at the same time; each may need a gigabyte for a moment.
    batch: int = 32  # Photos that the model sees at once; 1 for no batching.


@dataclass(frozen=True)
class Upload:
    """One encoded photo of a request, with the file name that the client gave; a body has none."""

    name: str
    stream: BinaryIO


class _LimitedRequest(Request):
    """A request whose body is counted while it comes. The server drops what comes behind the answer to a longer one."""

    def __init__(self, request: Request, limit: int) -> None:
        super().__init__(request.scope, request.receive)
        self._limit = limit

    async def stream(self) -> AsyncGenerator[bytes, None]:
        size = 0
        async for chunk in super().stream():
            size += len(chunk)
            if size > self._limit:
                limit = f"{self._limit / 1e6:g} MB"
                raise HTTPException(413, f"the body is larger than {limit}. Send fewer or smaller pictures.")
            yield chunk


@asynccontextmanager
async def uploads(request: Request, limits: Limits) -> AsyncIterator[list[Upload]]:
    """The photos of a request; their temporary files are deleted afterwards."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "a compressed body is not read. Pictures are compressed already; send them plainly.")
    limited = _LimitedRequest(request, limits.body_bytes)
    if kind == "multipart/form-data":
        async with limited.form(max_files=limits.files, max_fields=16) as form:
            files = [value for _, value in form.multi_items() if not isinstance(value, str)]
            if not files:
                raise HTTPException(400, f"the form holds no file. {_HOW}")
            yield [
                Upload((each.filename or "")[:_LONGEST_NAME] or f"file {number}", each.file)
                for number, each in enumerate(files, 1)
            ]
    elif kind.startswith("image/"):
        body = await limited.body()
        if not body:
            raise HTTPException(400, f"the body is empty. {_HOW}")
        yield [Upload("", io.BytesIO(body))]
    else:
        raise HTTPException(415, f"the content type {kind[:100]!r} is not read. {_HOW}")
