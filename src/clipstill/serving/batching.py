"""Photos of several requests answered as one batch.

Shapes: N photos, H x W pixels.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from clipstill.core.images import read_fitted
from clipstill.serving.uploads import BusyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from clipstill.runtime import Answer, Bundle
    from clipstill.serving.uploads import Limits


class Batcher:
    """Decodes photos and answers them, off the event loop; ``on_batch`` is called with the size of each batch.

    Photos that arrive while the model is busy are its next batch. So a single photo never waits, and batches grow under
    load. One batch at a time runs, since the model has threads of its own.
    """

    def __init__(self, bundle: Bundle, limits: Limits, on_batch: Callable[[int], None]) -> None:
        self._bundle = bundle
        self._limits = limits
        self._on_batch = on_batch
        self._decoders = ThreadPoolExecutor(limits.decoders, "decode")
        self._pixels = PixelRoom(limits.pixels)
        self._ready: asyncio.Queue[tuple[np.ndarray, asyncio.Future[Answer]]] = asyncio.Queue()
        self._taken = 0
        self._worker: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether photos are being answered."""
        return self._worker is not None and not self._worker.done()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer photos inside this context; leave it once the received ones are answered."""
        self._worker = asyncio.create_task(self._work())
        try:
            yield
        finally:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
            self._decoders.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def room(self, photos: int) -> Iterator[None]:
        """Reserve places for photos until they are answered; raise BusyError where too few are free."""
        if self._taken + photos > self._limits.waiting:
            raise BusyError(f"{self._taken} photos are waiting, as many as may. Ask again in a moment.")
        self._taken += photos
        try:
            yield
        finally:
            self._taken -= photos

    async def answer(self, photo: BinaryIO, name: str) -> Answer:
        """Decode one photo, called ``name`` in messages, and classify it: all classes, best first.

        Raises:
            DataError: The photo cannot be read, or has too many pixels.
        """
        loop = asyncio.get_running_loop()
        pixels_HW3 = await loop.run_in_executor(self._decoders, self._decode, photo, name)
        future: asyncio.Future[Answer] = loop.create_future()
        self._ready.put_nowait((pixels_HW3, future))
        return await future

    def _decode(self, photo: BinaryIO, name: str) -> np.ndarray:
        with ExitStack() as held:

            def wait(pixels: int) -> None:
                held.enter_context(self._pixels.take(pixels))

            return read_fitted(photo, self._bundle.preprocess, name, containers=False, before_decoding=wait)

    async def _work(self) -> None:
        while True:
            taken = [await self._ready.get()]
            while len(taken) < self._limits.batch and not self._ready.empty():
                taken.append(self._ready.get_nowait())
            # Those whose client has left, or has waited too long, are not worth the model's time.
            taken = [(pixels, future) for pixels, future in taken if not future.done()]
            if not taken:
                continue
            self._on_batch(len(taken))
            pixels_NHW3 = np.stack([pixels_HW3 for pixels_HW3, _ in taken])
            try:
                answers = await asyncio.to_thread(self._bundle.answer_pixels, pixels_NHW3)
            except Exception as error:  # The clients of this batch get it; the next batch may go well.
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(taken, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


class PixelRoom:
    """Pixels that threads may hold decoded at the same time."""

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._turn = threading.Lock()
        self._freed = threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Wait until so many are free; a photo that is larger than all of them has them all."""
        pixels = min(pixels, self._all)
        # In the order of asking: small photos would keep a large one waiting for ever.
        with self._turn, self._freed:
            self._freed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._freed:
                self._free += pixels
                self._freed.notify()
