"""Photos of a request: one as its body, or several as the files of a form."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO

from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

_HOW = (
    "Send one picture as the body with a content type of image/..., such as image/jpeg, or several as the files of "
    "multipart/form-data."
)
_LONGEST_NAME = 200


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


@asynccontextmanager
async def uploads(request: Request, limits: Limits) -> AsyncIterator[list[Upload]]:
    """The photos of a request; their temporary files are deleted afterwards."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "a compressed body is not read. Pictures are compressed already; send them plainly.")
    if kind == "multipart/form-data":
        async with _form(request, limits) as found:
            yield found
    elif kind.startswith("image/"):
        body = io.BytesIO()
        async for chunk in _limited(request, limits):
            body.write(chunk)
        if not body.tell():
            raise HTTPException(400, f"the body is empty. {_HOW}")
        body.seek(0)
        yield [Upload("", body)]
    else:
        raise HTTPException(415, f"the content type {kind[:100]!r} is not read. {_HOW}")


async def _limited(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body in pieces. What comes behind the answer to one that is too long is dropped by the server."""
    announced, size = request.headers.get("content-length", ""), 0
    if announced.isdecimal():
        _check_size(int(announced), limits)
    async for chunk in request.stream():
        size += len(chunk)
        _check_size(size, limits)
        yield chunk


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.body_bytes:
        raise HTTPException(
            413, f"the body is larger than {limits.body_bytes / 1e6:g} MB. Send fewer or smaller pictures."
        )


@asynccontextmanager
async def _form(request: Request, limits: Limits) -> AsyncIterator[list[Upload]]:
    # The parser itself and not ``request.form``, so that the bytes are counted while they come.
    parser = MultiPartParser(request.headers, _limited(request, limits), max_files=limits.files, max_fields=16)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise HTTPException(413, f"the request holds more than {limits.files} files. Ask several times.") from None
        raise HTTPException(400, f"the form is malformed ({error.message.rstrip('.')}). {_HOW}") from None
    try:
        files = [value for _, value in form.multi_items() if not isinstance(value, str)]
        if not files:
            raise HTTPException(400, f"the form holds no file. {_HOW}")
        yield [
            Upload((each.filename or "")[:_LONGEST_NAME] or f"file {number}", each.file)
            for number, each in enumerate(files, 1)
        ]
    finally:
        await form.close()
