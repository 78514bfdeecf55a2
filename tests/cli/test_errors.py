"""Every mistake of a user: one line that starts with "error:", exit code 2, and nothing of theirs lost."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from PIL import Image

from clipstill.cli.main import COMMAND, main
from input_tables import failed

CLASSES = ("--classes", "dog,cat")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("dog", "cat"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), "red").save(tmp_path / "photos" / name / "a.png")
    return tmp_path / "photos"


def test_no_classes_option_at_all(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    assert "no class" in failed(capsys, "run", "--out", out)


@pytest.mark.parametrize(
    ("option", "name", "meant"),
    [
        ("--teacher", "embeded-s", "embedded-s"),
        ("--generator", "pixel", "pixels"),
        ("--student", "lite00", "lite0"),
        ("--recipe", "defalt", "default"),
        ("--device", "cpuu", "cpu"),
    ],
)
def test_unknown_names_suggest_the_closest(
    capsys: pytest.CaptureFixture[str], out: Path, option: str, name: str, meant: str
) -> None:
    line = failed(capsys, "run", *CLASSES, "--out", out, option, name)
    assert f"'{name}'" in line
    assert f"Did you mean '{meant}'?" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("student", "advice"),
    [
        ("timm:vit_small_patch14_dinov2", "set student.image_size to 154"),  # 160 by default.
        ("timm:resnet188", "Did you mean 'resnet18'?"),
    ],
)
def test_a_network_of_timm_that_cannot_be_built_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], out: Path, student: str, advice: str
) -> None:
    assert advice in failed(capsys, "run", *CLASSES, "--out", out, "--student", student)
    assert not out.exists()


def test_missing_photo_folder(capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path) -> None:
    assert "no image folder" in failed(capsys, "run", *CLASSES, "--out", out, "--images", tmp_path / "gone")
    assert not out.exists()


def test_empty_photo_folder(capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path) -> None:
    (tmp_path / "photos" / "dog").mkdir(parents=True)
    assert "hold no images" in failed(capsys, "run", *CLASSES, "--out", out, "--images", tmp_path / "photos")


def test_photo_folder_of_other_classes(capsys: pytest.CaptureFixture[str], out: Path, photos: Path) -> None:
    line = failed(capsys, "run", "--classes", "car,bus", "--out", out, "--images", photos)
    assert "Expected: car, bus; found: cat, dog" in line


def test_output_folder_that_holds_something_else(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    assert "not a clipstill run" in failed(capsys, "run", *CLASSES, "--out", out)
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("thesis.tex", "years of work")]


def test_output_below_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "file is a file" in failed(capsys, "run", *CLASSES, "--out", tmp_path / "file" / "run")


def test_full_disk_at_the_first_write(
    capsys: pytest.CaptureFixture[str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "the disk is full" in failed(capsys, "run", *CLASSES, "--out", out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--clases", "dog,cat"),
        ("rum",),
        ("list", "teacher"),
        ("predict",),
        ("evaluate", "somewhere"),
        ("run", "--seed", "x", "--classes", "dog,cat"),
        ("run", "--seed", "-1", "--classes", "dog,cat"),
    ],
)
def test_wrong_usage_is_one_line_too(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    failed(capsys, *arguments)


def test_evaluating_what_is_no_bundle(capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: Path) -> None:
    assert "not a clipstill bundle" in failed(capsys, "evaluate", tmp_path, "--images", photos)


def test_predicting_with_what_is_no_bundle(capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: Path) -> None:
    assert "not a clipstill bundle" in failed(capsys, "predict", tmp_path, photos / "dog" / "a.png")


@pytest.fixture
def verb_that_raises(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Registers a verb ``fail`` that raises an error."""

    def register(error: BaseException) -> None:
        alone = typer.Typer(add_completion=False)

        @alone.command()
        def fail() -> None:
            raise error

        monkeypatch.setitem(COMMAND.commands, "fail", typer.main.get_command(alone))

    return register


def test_interrupt_is_one_line_and_130(
    capsys: pytest.CaptureFixture[str], verb_that_raises: Callable[[BaseException], None]
) -> None:
    verb_that_raises(KeyboardInterrupt())
    assert main(["fail"]) == 130
    assert capsys.readouterr().err.splitlines() == ["error: interrupted. The same command goes on where it stopped."]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (MemoryError(), "the memory is not enough"),
    ],
)
def test_what_libraries_raise_for_a_lack_of_room_is_one_line(
    capsys: pytest.CaptureFixture[str],
    verb_that_raises: Callable[[BaseException], None],
    error: Exception,
    message: str,
) -> None:
    verb_that_raises(error)
    assert message in failed(capsys, "fail")


def test_a_bug_is_not_dressed_up_as_a_mistake(verb_that_raises: Callable[[BaseException], None]) -> None:
    verb_that_raises(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["fail"])
