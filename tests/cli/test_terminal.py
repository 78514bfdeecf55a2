"""What the command line shows on standard error: notes as lines, progress as a bar where a terminal is."""

import logging
import os
from contextlib import suppress

import pytest

from clipstill.cli.terminal import terminal
from clipstill.core.progress import Progress, say, warn, warnings_only


def test_notes_are_lines_and_warnings_have_a_word_before_them(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal():
        say("hello")
        warn("careful")
    say("nobody hears this")
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["hello", "warning: careful"]
    assert captured.out == ""


def test_a_warning_is_printed_once_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with terminal():
            say("warning: careful")
            warn("careful")
    assert capsys.readouterr().err.splitlines() == ["warning: careful"] * 2


def test_the_work_goes_on_where_nobody_reads_its_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as left:
        monkeypatch.setattr("sys.stderr", left)
        with terminal():
            say("hello")
            warn("careful")
        with suppress(BrokenPipeError):  # What a file that could not be written still holds.
            left.close()


def test_quiet_leaves_the_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal():
        warnings_only()
        say("hello")
        warn("careful")
        with Progress("synthesis", total=100) as bar:
            bar.advance(12)
    assert capsys.readouterr().err.splitlines() == ["warning: careful"]


def test_a_note_is_shown_once_also_where_a_library_has_set_up_logging(capsys: pytest.CaptureFixture[str]) -> None:
    root, handler = logging.getLogger(), logging.StreamHandler()
    root.addHandler(handler)
    try:
        with terminal():
            say("hello")
    finally:
        root.removeHandler(handler)
    assert capsys.readouterr().err.splitlines() == ["hello"]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with terminal(), Progress("synthesis", total=4, unit="img") as bar:
        bar.advance(4, loss=0.5)
    captured = capsys.readouterr()
    assert "synthesis" in captured.err
    assert "4/4" in captured.err
    assert captured.out == ""
