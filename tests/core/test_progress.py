import logging
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from clipstill.core.notebook import notebook_bar
from clipstill.core.progress import Progress, ProgressEvent, listening, observing, span, warn, warnings_only


def test_a_line_shows_count_rate_time_left_and_facts() -> None:
    event = ProgressEvent("synthesis", 12, 100, "img", per_second=2.0, facts={"loss": 0.25})
    assert event.line() == "synthesis: 12/100 img, 2 img/s, 44 s left, loss 0.25"
    assert ProgressEvent("reading", 7, None, "file", per_second=3.5).line() == "reading: 7 file, 3.5 file/s"


def test_a_listener_hears_of_every_step_and_of_the_end() -> None:
    events: list[ProgressEvent] = []
    with listening(events.append), Progress("synthesis", total=4, unit="img") as bar:
        bar.advance(1, loss=0.5)
        bar.advance(3)
    assert [(event.done, event.finished) for event in events] == [(0, False), (1, False), (4, False), (4, True)]
    assert events[1].facts == events[-1].facts == {"loss": 0.5}


def test_a_listener_hears_of_the_end_of_work_that_fails() -> None:
    events: list[ProgressEvent] = []

    def fail() -> None:
        with Progress("synthesis", total=4) as bar:
            bar.advance()
            raise ValueError("no")

    with listening(events.append), pytest.raises(ValueError, match="no"):
        fail()
    assert events[-1].finished
    assert events[-1].done == 1


def test_nobody_listens_once_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    events: list[ProgressEvent] = []
    with listening(events.append):
        pass
    with Progress("synthesis", total=4) as bar:
        bar.advance()
    assert events == []


def test_listening_to_nobody_leaves_progress_to_who_shows_it() -> None:
    events: list[ProgressEvent] = []
    with listening(events.append), listening(None), Progress("synthesis", total=1):
        pass
    assert events[-1].finished


def test_an_observer_hears_too_and_changes_nothing_for_who_shows_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[ProgressEvent] = []
    observed: list[ProgressEvent] = []
    with observing(observed.append), listening(shown.append), Progress("synthesis", total=1) as bar:
        bar.advance(loss=0.5)
    assert observed == shown
    assert [event.facts for event in observed] == [{}, {"loss": 0.5}, {"loss": 0.5}]


class _Cell:
    """Stands in for the display of a notebook's cell."""

    def __init__(self, bundle: dict[str, str], **_: object) -> None:
        self.shown = [bundle]
        cells.append(self)

    def update(self, bundle: dict[str, str], **_: object) -> None:
        self.shown.append(bundle)


cells: list[_Cell] = []


def test_a_notebook_gets_a_bar_that_ends_as_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    cells.clear()
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    shell = SimpleNamespace(kernel=object(), execution_count=7)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", ModuleType("IPython.display"))
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: shell, raising=False)
    monkeypatch.setattr(sys.modules["IPython.display"], "display", _Cell, raising=False)
    with Progress("quick", total=1) as bar:
        bar.advance()
    assert cells == []  # Too short to be seen.
    with Progress("<synthesis>", total=4, unit="img") as bar:
        for _ in range(4):
            now += 0.15
            bar.advance()
    (cell,) = cells
    bars = [bundle["text/html"] for bundle in cell.shown]
    assert bars[0].startswith('<progress max="4" value="2"></progress> &lt;synthesis&gt;: 2/4 img')
    assert cell.shown[-1]["text/plain"] == "<synthesis>: 4/4 img, 6.67 img/s"
    assert "<progress" not in bars[-1]
    for shell.execution_count in (7, 8):
        with Progress("more", total=1) as bar:
            now += 0.3
            bar.advance()
    assert [one.shown[-1]["text/plain"].partition(":")[0] for one in cells] == ["more", "more"]  # A line for each cell.
    shell.kernel = None  # IPython in a terminal.
    assert notebook_bar() is None


def test_units_of_an_earlier_run_do_not_enter_the_rate() -> None:
    events: list[ProgressEvent] = []
    with listening(events.append), Progress("synthesis", total=100, done=90) as bar:
        time.sleep(0.05)
        bar.advance(5)
    assert events[-1].done == 95
    assert events[-1].per_second is not None
    assert events[-1].per_second <= 5 / 0.05


def test_long_work_is_a_note_every_few_seconds_where_nobody_listens(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    caplog.set_level(logging.INFO, "clipstill")
    with Progress("synthesis", total=100, unit="img") as bar:
        now += 6
        bar.advance(12, loss=0.25)
        now += 1
        bar.advance(2, loss=0.2)  # too soon for another line
    assert caplog.messages == ["synthesis: 12/100 img, 2 img/s, 44 s left, loss 0.25", "synthesis: 14 img in 7 s"]


def test_short_work_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "clipstill")
    with Progress("quick", total=1) as bar:
        bar.advance()
    assert caplog.messages == []


def test_warnings_remain_where_notes_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("clipstill")
    level = logger.level
    try:
        warnings_only()
        logger.info("a note")
        warn("a warning")
    finally:
        logger.setLevel(level)
    assert caplog.messages == ["a warning"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (42.4, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (-3, "0 s")]
)
def test_spans_read_well(seconds: float, text: str) -> None:
    assert span(seconds) == text
