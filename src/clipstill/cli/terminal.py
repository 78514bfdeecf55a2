"""What the command line shows on standard error: notes as lines, progress as a bar where a terminal is."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from clipstill.core.progress import ProgressEvent, listening, logger, short

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class _Lines(logging.Handler):
    """Notes as they are, warnings once a command and with a word before them."""

    def __init__(self) -> None:
        super().__init__()
        self._warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{'warning: ' if record.levelno >= logging.WARNING else ''}{record.getMessage()}"
        if line in self._warned:
            return
        if line.startswith("warning: "):
            self._warned.add(line)
        with suppress(BrokenPipeError):  # The work goes on where nobody reads its notes any more.
            print(line, file=sys.stderr, flush=True)


@contextmanager
def terminal() -> Iterator[None]:
    """Show notes and progress on standard error while a command runs."""
    handler = _Lines()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # A library that logs to the root logger gives it a handler, which would show each note once more.
    propagated, logger.propagate = logger.propagate, False
    try:
        with listening(_Bar().show if sys.stderr.isatty() else None):
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = propagated


class _Bar:
    """One bar at a time."""

    def __init__(self) -> None:
        self._open: tuple[Progress, TaskID] | None = None

    def show(self, event: ProgressEvent) -> None:
        """Draw an event."""
        if not logger.isEnabledFor(logging.INFO):
            return
        bar, task = self._open or self._start(event)
        rate = "" if event.per_second is None else f"{short(event.per_second)} {event.unit}/s"
        facts = ", ".join(f"{name} {short(value)}" for name, value in event.facts.items())
        bar.update(task, completed=event.done, rate=rate, facts=facts)
        if event.finished:
            bar.stop()
            self._open = None

    def _start(self, event: ProgressEvent) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            # A data set's name may look like rich's markup.
            *(TextColumn("{task.description}", markup=False), BarColumn(bar_width=30), MofNCompleteColumn()),
            *(TextColumn("{task.fields[rate]}"), TimeRemainingColumn()),
            TextColumn("{task.fields[facts]}", style="dim"),
        )
        bar = Progress(*columns, console=Console(stderr=True))
        task = bar.add_task(event.title, total=event.total, completed=event.done, facts="", rate="")
        bar.start()
        self._open = (bar, task)
        return self._open
