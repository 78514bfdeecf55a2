import pytest

from clipstill.cli.terminal import terminal
from clipstill.core import progress
from clipstill.core.progress import Progress, span


class Clock:
    """Time that passes only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_plain_lines_show_count_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with terminal(), Progress("synthesis", total=100, unit="img") as bar:
        clock.now += 6
        bar.advance(12, loss=0.25)
        clock.now += 1
        bar.advance(2, loss=0.2)  # too soon for another line
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "synthesis: 12/100 img, 2 img/s, 44 s left, loss 0.25",
        "synthesis: 14 img in 7 s",
    ]
    assert captured.out == ""


def test_units_of_an_earlier_run_do_not_enter_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with terminal(), Progress("synthesis", total=100, done=90) as bar:
        clock.now += 10
        bar.advance(5)
    assert "95/100 it, 0.5 it/s, 10 s left" in capsys.readouterr().err


def test_short_work_is_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Clock(monkeypatch)
    with terminal(), Progress("quick", total=1) as bar:
        bar.advance()
    assert capsys.readouterr().err == ""


def test_quiet_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock(monkeypatch)
    with terminal():
        progress.warnings_only()
        with Progress("synthesis", total=100) as bar:
            clock.now += 60
            bar.advance(12)
        progress.say("hello")
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with terminal(), Progress("synthesis", total=4, unit="img") as bar:
        bar.advance(4, loss=0.5)
    captured = capsys.readouterr()
    assert "synthesis" in captured.err
    assert "4/4" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (42.4, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (-3, "0 s")]
)
def test_spans_read_well(seconds: float, text: str) -> None:
    assert span(seconds) == text
