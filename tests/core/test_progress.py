import logging
import time

import pytest

from clipstill.core.progress import Progress, ProgressEvent, listening, span, warn, warnings_only


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
    with listening(events.append), pytest.raises(ValueError, match="no"), Progress("synthesis", total=4) as bar:
        bar.advance()
        raise ValueError("no")
    assert events[-1].finished
    assert events[-1].done == 1


def test_nobody_listens_once_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    events: list[ProgressEvent] = []
    with listening(events.append):
        pass
    with Progress("synthesis", total=4) as bar:
        bar.advance()
    assert events == []


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
