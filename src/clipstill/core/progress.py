"""Messages and progress. Messages go to the logger ``clipstill``; progress to a listener, a notebook or the logger.

The command line shows both on standard error, since standard output is for results.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from clipstill.core.names import plain
from clipstill.core.notebook import notebook_bar

_LINE_EVERY_S = 5.0
logger = logging.getLogger("clipstill")


@dataclass(frozen=True)
class ProgressEvent:
    """Progress of a piece of work.

    Attributes:
        title: Name of the work, such as ``"synthesis"``.
        done: Units that are done.
        total: Number of units; None if unknown.
        unit: Unit of the counts, such as ``"img"``.
        per_second: Units per second since this call began; None before the first unit.
        facts: Further values, such as a loss.
        finished: Whether this is the last event of this work.
    """

    title: str
    done: int
    total: int | None
    unit: str
    per_second: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    finished: bool = False

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all units are done at this rate; None if unknown."""
        return None if self.total is None or not self.per_second else (self.total - self.done) / self.per_second

    def line(self) -> str:
        """The event in one line for people."""
        parts = [f"{self.done}{'' if self.total is None else f'/{self.total}'} {self.unit}"]
        if self.per_second:
            parts.append(f"{short(self.per_second)} {self.unit}/s")
            if self.seconds_left is not None and not self.finished:
                parts.append(f"{span(self.seconds_left)} left")
        parts += [f"{name} {short(value)}" for name, value in self.facts.items()]
        return f"{self.title}: {', '.join(parts)}"


Listener = Callable[[ProgressEvent], None]
_listener: ContextVar[Listener | None] = ContextVar("clipstill progress listener", default=None)
_observers: ContextVar[tuple[Listener, ...]] = ContextVar("clipstill progress observers", default=())


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Show progress inside the ``with`` block by a function; None leaves it to whoever shows it already."""
    token = _listener.set(listener or _listener.get())
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def observing(observer: Listener) -> Iterator[None]:
    """Send progress inside the ``with`` block to a function too, whoever shows it."""
    token = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(token)


def say(message: str) -> None:
    """Log one line of progress."""
    logger.info(plain(message))


def warn(message: str) -> None:
    """Log one line that must not be missed."""
    logger.warning(plain(message))


def warnings_only() -> None:
    """Hide progress for the rest of this process: for ``--quiet``, and in workers whose first rank reports for all."""
    logger.setLevel(logging.WARNING)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # Read when the hub's client is imported.


def percent(share: float | None) -> str:
    """A measured share as everything shows it, ``81.4 %``; ``-`` for what was not measured."""
    return "-" if share is None else f"{100 * share:.1f} %"


def whole_percent(share: float | None) -> str:
    """A foretold share, ``81 %``: no estimate knows its decimal; ``-`` for what cannot be told."""
    return "-" if share is None else f"{100 * share:.0f} %"


def span(seconds: float) -> str:
    """A duration for people: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many more there are: ``dog, cat and 3 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def short(value: Any) -> str:
    """A value with three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Progress:
    """Counts the units of long work and reports them.

    Units ``done`` by an earlier call do not count for the rate.

    Example:
        >>> with Progress("synthesis", total=280, unit="img") as bar:
        ...     bar.advance(56, loss=0.31)
    """

    def __init__(self, title: str, total: int | None = None, unit: str = "it", done: int = 0) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._before = done
        self._facts: dict[str, Any] = {}
        self._listener: Listener | None = None
        self._start = self._last_line = 0.0

    def __enter__(self) -> Progress:
        self._start = self._last_line = time.monotonic()
        self._listener = _listener.get() or notebook_bar()
        self._tell()
        return self

    def advance(self, n: int = 1, **facts: Any) -> None:
        """Count ``n`` more units; ``facts`` such as a loss are shown beside them."""
        self.done += n
        self._facts = facts or self._facts
        self._tell()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._tell(finished=True)
        if self._listener is None and kind is None and self._last_line > self._start:
            # Work that has logged a line logs its end too; short work logs nothing.
            say(f"{self.title}: {self.done} {self.unit} in {span(time.monotonic() - self._start)}")

    def _tell(self, *, finished: bool = False) -> None:
        now = time.monotonic()
        seconds, counted = now - self._start, self.done - self._before
        per_second = counted / seconds if counted and seconds > 0 else None
        event = ProgressEvent(
            self.title, self.done, self.total, self.unit, per_second=per_second, facts=self._facts, finished=finished
        )
        for observer in _observers.get():
            observer(event)
        if self._listener is not None:
            self._listener(event)
        elif not finished and now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            say(event.line())
