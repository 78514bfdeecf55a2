"""Names of files: what is the user's, where ``~`` is, and how a name is told that is no text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipstill.core.config import load_yaml
from clipstill.core.errors import ArtifactError, ConfigError, DataError, ResourceError
from clipstill.core.file_names import visible
from clipstill.core.files import make_folder, read_json, write_json, write_text
from clipstill.core.names import plain
from clipstill.core.notebook import html_table
from clipstill.core.paths import user_path
from clipstill.core.progress import say, warn
from clipstill.core.seeds import seed_for

NOT_UTF8 = os.fsdecode(b"caf\xe9.png")


def test_what_systems_leave_behind_is_not_visible(tmp_path: Path) -> None:
    for name in (".DS_Store", "._b.png", "Thumbs.db", "desktop.ini", "b.png", "a.png", "thumbs.png"):
        (tmp_path / name).touch()
    (tmp_path / "__MACOSX").mkdir()
    assert [path.name for path in visible(tmp_path.iterdir())] == ["a.png", "b.png", "thumbs.png"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (NOT_UTF8, r"caf\udce9.png"),
        ("a\x1b[31m\n.png", r"a\x1b[31m\n.png"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("çå 犬.png", "çå 犬.png"),
    ],
)
def test_a_name_is_told_as_plain_text(name: str, shown: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert plain(Path(name)) == plain(shown) == shown
    say(f"skipped: {name}")
    warn(f"skipped: {name}")
    assert caplog.messages == [f"skipped: {shown}"] * 2
    assert str(DataError(f"{name} is damaged")) == f"{shown} is damaged"


def test_text_with_a_name_that_is_not_utf8_is_written(tmp_path: Path) -> None:
    write_text(tmp_path / "report.html", f"<p>{NOT_UTF8}</p>")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == r"<p>caf\udce9.png</p>"
    write_json(tmp_path / "names.json", [NOT_UTF8])
    assert read_json(tmp_path / "names.json") == [NOT_UTF8]


def test_every_name_has_a_seed_of_its_own() -> None:
    assert seed_for(0, NOT_UTF8) != seed_for(0, os.fsdecode(b"caf\xe8.png"))


def test_a_tilde_at_the_start_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/zoo") == user_path(Path("~/zoo")) == tmp_path / "zoo"
    assert user_path("zoo~/~") == Path("zoo~/~")
    with pytest.raises(DataError, match="no home folder for ~nobody-of-that-name/zoo"):
        user_path("~nobody-of-that-name/zoo")


def test_no_folder_is_called_tilde_unless_there_is_one(tmp_path: Path) -> None:
    for write in (make_folder, lambda path: write_text(path, "x")):
        with pytest.raises(ResourceError, match="a new folder named '~'"):
            write(tmp_path / "~" / "zoo")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "~").mkdir()
    make_folder(tmp_path / "~" / "zoo")
    assert (tmp_path / "~" / "zoo").is_dir()


def test_a_notebook_shows_a_name_as_plain_text() -> None:
    assert r"<td>a&lt;caf\udce9.png</td>" in html_table({"file": Path(f"a<{NOT_UTF8}")})


def test_files_of_settings_and_facts_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    for name, size in (("a.yaml", (1 << 20) + 1), ("a.json", (64 << 20) + 1)):
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(size)
    with pytest.raises(ConfigError, match=r"a\.yaml cannot be read \(it is larger than 1 MB\)"):
        load_yaml(tmp_path / "a.yaml")
    with pytest.raises(ArtifactError, match=r"a\.json cannot be read as JSON \(it is larger than 64 MB\)"):
        read_json(tmp_path / "a.json")
