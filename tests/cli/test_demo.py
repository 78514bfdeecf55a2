"""Where the demo takes its photos from; the run itself is tested elsewhere."""

from pathlib import Path
from typing import Any

import pytest

from clipstill.cli.main import main


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the demo asks of the Python interface."""
    calls: list[dict[str, Any]] = []

    def run(task: Any, out: Path, **arguments: Any) -> None:
        calls.append({"names": task.names, "out": out, **arguments})

    monkeypatch.setattr("clipstill.api.run", run)
    monkeypatch.setattr("clipstill.cli.run.show", lambda result, as_json: None)
    return calls


def test_photos_come_from_the_named_folder(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPSTILL_DATA", str(tmp_path))
    assert main(["demo", "--out", str(tmp_path / "run")]) == 0
    assert asked[0]["images"] == tmp_path / "pacs" / "test" / "photo"
    assert asked[0]["names"] == ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


def test_photos_come_from_packages_where_no_folder_is_named(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    monkeypatch.delenv("CLIPSTILL_DATA", raising=False)
    assert main(["demo", "--out", str(tmp_path / "run")]) == 0
    assert sorted(path.name for path in asked[0]["images"].iterdir()) == sorted(asked[0]["names"])
    assert asked[0]["images"].parent == tmp_path
