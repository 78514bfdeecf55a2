"""Where the demo takes its photos from; the run itself is tested elsewhere, and is refused here by its device."""

from pathlib import Path

import pytest

from input_tables import failed


def test_photos_come_from_the_named_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPSTILL_DATA", str(tmp_path))
    photos = tmp_path / "pacs" / "test" / "photo"
    (photos / "zebra").mkdir(parents=True)
    line = failed(capsys, "demo", "--out", tmp_path / "run")
    assert str(photos) in line
    assert "Expected: dog, elephant, giraffe, guitar, horse, house, person; found: zebra" in line


def test_photos_come_from_packages_where_no_folder_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    monkeypatch.delenv("CLIPSTILL_DATA", raising=False)
    assert "Did you mean 'cpu'?" in failed(capsys, "demo", "--out", tmp_path / "run", "--device", "cpuu")
    assert len(list((tmp_path / "run-photos").glob("*/*"))) >= 7
    assert not (tmp_path / "run").exists()
