"""Which bodies are received, and which are refused when there are too many bytes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from clipstill.serving.uploads import BusyError, Intake, Limits


class Body:
    """A body that comes in pieces when it is told to; ``read`` is the outcome of receiving it."""

    def __init__(self, intake: Intake, kept: asyncio.Event) -> None:
        self._pieces: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._intake, self._kept = intake, kept
        self.is_read = asyncio.Event()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> bytes:
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"image/png")]}
        async with self._intake.photos(Request(scope, self._pieces.get)) as photos:
            self.is_read.set()
            await self._kept.wait()
            return photos[0].stream.read()

    async def send(self, size: int, more: bool = True) -> None:
        self._pieces.put_nowait({"type": "http.request", "body": bytes(size), "more_body": more})
        await asyncio.sleep(0.02)


def test_the_body_that_held_most_for_longest_makes_room() -> None:
    async def story() -> None:
        kept = asyncio.Event()
        intake = Intake(Limits(held_bytes=100))
        dribble, large, quick = (Body(intake, kept) for _ in range(3))
        await dribble.send(1)
        await large.send(60)
        await asyncio.sleep(0.05)
        await quick.send(39)
        assert not large.task.done()
        await quick.send(1, more=False)
        with pytest.raises(BusyError, match="photos that are sent or wait fill 0.0001 MB"):
            await large.task
        assert quick.is_read.is_set()
        kept.set()
        assert await quick.task == bytes(40)
        await dribble.send(1, more=False)
        assert await dribble.task == bytes(2)
        # All that was counted is given back.
        again = Body(intake, kept)
        await again.send(100, more=False)
        assert await again.task == bytes(100)

    asyncio.run(asyncio.wait_for(story(), 10))


def test_complete_bodies_are_kept_and_the_newcomer_is_refused() -> None:
    async def story() -> None:
        kept = asyncio.Event()
        intake = Intake(Limits(held_bytes=100))
        first, second = Body(intake, kept), Body(intake, kept)
        await first.send(80, more=False)
        await second.send(21)
        with pytest.raises(BusyError):
            await second.task
        kept.set()
        assert await first.task == bytes(80)

    asyncio.run(asyncio.wait_for(story(), 10))


def test_a_body_that_does_not_come_in_time_is_told() -> None:
    async def story() -> None:
        slow = Body(Intake(Limits(seconds=0.1)), asyncio.Event())
        await slow.send(1)
        with pytest.raises(HTTPException, match="the body did not come within 0.1 seconds"):
            await slow.task

    asyncio.run(asyncio.wait_for(story(), 10))
