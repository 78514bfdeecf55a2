"""Progress on standard error: a bar on a terminal, a plain line every few seconds elsewhere.

Standard output belongs to results, so that ``--json`` can be piped.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LINE_EVERY_S = 5.0
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Switch progress and notes off (or on again) for the whole process."""
    global _quiet
    _quiet = quiet


def say(message: str) -> None:
    """Print one line of progress unless quiet."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Print one line that must not be missed, also where progress is quiet."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def span(seconds: float) -> str:
    """A duration for people: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Counts work that takes longer than a moment, with rate and time left.

    Args:
        title: what is being done, such as ``"synthesis"``.
        total: how many units there are; None where that is unknown.
        unit: what is counted, such as ``"img"``.
        done: units that were there already, from an earlier run; they do not enter the rate.

    Example:
        >>> with Progress("synthesis", total=280, unit="img") as bar:
        ...     bar.advance(56, loss=0.31)
    """

    def __init__(self, title: str, total: int | None = None, unit: str = "it", done: int = 0) -> None:
        self.title = title
        self.total = total
        self.unit = unit
        self.done = done
        self._before = done
        self._facts = ""
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._start = self._last_line = 0.0

    def __enter__(self) -> Progress:
        self._start = self._last_line = time.monotonic()
        if not _quiet and sys.stderr.isatty():
            self._open_bar()
        return self

    def advance(self, n: int = 1, **facts: Any) -> None:
        """Count ``n`` more units; ``facts`` (such as a loss) are shown beside them."""
        self.done += n
        if facts:
            self._facts = ", ".join(f"{name} {_short(value)}" for name, value in facts.items())
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, facts=self._facts, rate=self._rate())
            return
        now = time.monotonic()
        if not _quiet and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            say(self._line(now - self._start))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif kind is None and self._last_line > self._start:
            # Short work that never printed stays silent; what did print says how it ended.
            say(f"{self.title}: {self.done} {self.unit} in {span(time.monotonic() - self._start)}")

    def _rate(self) -> str:
        seconds = time.monotonic() - self._start
        counted = self.done - self._before
        return f"{_short(counted / seconds)} {self.unit}/s" if seconds > 0 and counted else ""

    def _line(self, seconds: float) -> str:
        parts = [f"{self.done}/{self.total} {self.unit}" if self.total is not None else f"{self.done} {self.unit}"]
        counted = self.done - self._before
        if counted and seconds > 0:
            parts.append(self._rate())
            if self.total is not None:
                parts.append(f"{span((self.total - self.done) * seconds / counted)} left")
        if self._facts:
            parts.append(self._facts)
        return f"{self.title}: {', '.join(parts)}"

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", style="dim"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(self.title, total=self.total, completed=self.done, facts="", rate="")
        self._bar.start()


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
