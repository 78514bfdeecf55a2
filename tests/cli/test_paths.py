"""Paths that users give: ``~`` in every option and setting, photos in folders, names that are no text."""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251 - users do
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from PIL import Image
from typer.models import CommandInfo, ParameterInfo

import clipstill
from clipstill.cli.main import app, main
from clipstill.cli.weights import weights_app
from clipstill.core.config_fields import declared
from clipstill.core.names import is_plain, plain
from clipstill.core.paths import user_path
from clipstill.export.bundle import check_replaceable
from clipstill.runtime import load_bundle
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.settings import Settings
from export_fixtures import LABELS, bundle_and_photos
from input_tables import failed

NOT_UTF8 = os.fsdecode(b"caf\xe9.png")
VERBS = [each for of in (app, weights_app) for each in of.registered_commands]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with ``bundle`` and ``photos``, that nothing may change."""
    return bundle_and_photos(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def _at_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.callback.__name__)
def test_every_option_that_is_a_path_knows_the_home_folder(verb: CommandInfo) -> None:
    assert verb.callback is not None
    for name, hint in get_type_hints(verb.callback, include_extras=True).items():
        if get_origin(hint) is Annotated and Path in _members(get_args(hint)[0]):
            (info,) = [each for each in get_args(hint)[1:] if isinstance(each, ParameterInfo)]
            assert info.parser is user_path, name


def test_every_setting_that_is_a_path_is_stored_absolute(home: Path) -> None:
    names = [each.name for each in declared(Settings) if "path" in each.type]
    assert {"evaluation.images", "examples.images", "unlabelled.images", "prompt_teacher.weights"} == set(names)
    for name in (*names, "student.init", "launch.storage"):
        for given, stored in (("~/x", home / "x"), ("x", Path.cwd() / "x")):
            section, _, setting = name.partition(".")
            value = getattr(getattr(load_settings(overrides=[f"{name}={given}"]), section), setting)
            assert str(value) == str(stored), name
            assert isinstance(value, Path) == (name in names)
    assert load_settings().student.init == "pretrained"
    assert load_settings(overrides=["launch.storage=s3://bucket/x"]).launch.storage == "s3://bucket/x"


NAMES_WITH_PATHS = [
    ("openclip:ViT-B-32/w/file.pt", "openclip:ViT-B-32/{here}/w/file.pt"),
    ("openclip:ViT-B-32/file.pt", "openclip:ViT-B-32/{here}/file.pt"),
    ("openclip:ViT-B-32/~/bundle/x.pt", "openclip:ViT-B-32/{home}/bundle/x.pt"),
    ("embedded-s + openclip:ViT-B-32/w/file.pt", "embedded-s + openclip:ViT-B-32/{here}/w/file.pt"),
    ("tower:openclip:ViT-B-32/w/file.pt", "tower:openclip:ViT-B-32/{here}/w/file.pt"),
    ("vqgan:w/", "vqgan:{here}/w"),
    ("vqgan:hub:w/", "vqgan:hub:{here}/w"),
    ("text-to-image:./w", "text-to-image:{here}/w"),
    ("pixels+tiny-autoencoder:w/file.pt", "pixels+tiny-autoencoder:{here}/w/file.pt"),
    ("openclip:ViT-B-32/openai/w/file.pt", "openclip:ViT-B-32/openai/{here}/w/file.pt"),
    (
        "openclip:ViT-B-32/file.pt+openclip:ViT-B-32/w/file.pt+lite0",
        "openclip:ViT-B-32/{here}/file.pt+openclip:ViT-B-32/{here}/w/file.pt+lite0",
    ),
    ("vqgan:a+b/", "vqgan:{here}/a+b"),
    ("pixels+vqgan:a+b/+dead-leaves", "pixels+vqgan:{here}/a+b+dead-leaves"),
]
# Names of parts, tags, imported weights and hub models.
NAMES_WITHOUT_PATHS = [
    *("embedded-m", "embedded+pixels", "lite0", "openclip:ViT-B-32/openai", "openclip:ViT-B-32/laion2b_s34b_b79k"),
    *("vqgan:photos", "vqgan", "timm:resnet18", "tiny-autoencoder:madebyollin/taesd", "text-to-image:owner/model"),
    *("vqgan:hub:owner/model", "vqgan:gone/", "openclip:ViT-B-32/gone.pt", "tower:embedded-s", "w/", "file.pt", "auto"),
    "vqgan:a+c/",
]
NAMED = ("teacher.name", "generator.name", "student.name", "evaluation.small_teacher")


def test_paths_in_names_of_parts_are_stored_absolute_and_other_names_as_they_are(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("w", "openai", "photos", "vqgan", "resnet18", "ViT-B-32/openai", "a", "b", "a+b"):
        (tmp_path / name).mkdir(parents=True)
    for file in (tmp_path / "w" / "file.pt", tmp_path / "file.pt", home / "bundle" / "x.pt"):
        file.touch()
    for setting in NAMED:
        section, _, key = setting.partition(".")
        for given, stored in NAMES_WITH_PATHS:
            settings = load_settings(overrides=[f"{setting}={given}"])
            assert getattr(getattr(settings, section), key) == stored.format(here=tmp_path, home=home)
            with monkeypatch.context() as moved:
                moved.chdir("/")
                assert settings.changed(seed=1) == settings.model_copy(update={"seed": 1})
        for given in NAMES_WITHOUT_PATHS:
            assert getattr(getattr(load_settings(overrides=[f"{setting}={given}"]), section), key) == given
    (home / "bundle" / "x.pt").unlink()


def test_every_part_that_is_named_by_a_setting_may_be_named_by_its_path() -> None:
    from clipstill.workflow.keys import _FILES

    assert set(NAMED) | {"student.init", "prompt_teacher.weights"} == set(_FILES)


def test_a_setting_holds_a_path_that_is_not_utf8() -> None:
    settings = Settings().changed(**{"evaluation.images": NOT_UTF8})
    assert settings.evaluation.images == Path.cwd() / NOT_UTF8
    assert settings.model_dump(mode="json")["evaluation"]["images"] == str(Path.cwd() / NOT_UTF8)


READS: list[tuple[Callable[[], Any], str]] = [
    (lambda: clipstill.load_bundle("~/none"), "no file or folder {home}/none"),
    (lambda: clipstill.load_bundle("~/bundle").predict("~/none.png"), "there is no image {home}/none.png"),
    (lambda: clipstill.evaluate(run="~/bundle", images="~/none"), "there is no image folder {home}/none"),
    (lambda: clipstill.fine_tune(run="~/none", examples="~/photos", out="~/out"), "{home}/none"),
    (lambda: clipstill.export_formats(run="~/bundle", formats=["torch"], images={"a": "~/none"}), "{home}/none"),
    (lambda: clipstill.zero_shot(classes="~/none.txt", out="~/out"), "{home}/none.txt does not exist"),
    (lambda: clipstill.zero_shot(classes=Path("~/none.txt"), out="~/out"), "{home}/none.txt does not exist"),
    (lambda: clipstill.zero_shot(classes="dog,cat", examples="~/none", out="~/out"), "no image folder {home}/none"),
    (lambda: clipstill.plan(classes="dog,cat", examples="~/none"), "no image folder {home}/none"),
    (lambda: clipstill.plan(classes="dog,cat", config="~/none.yaml"), "no settings file {home}/none.yaml"),
    (lambda: clipstill.plan(classes="dog,cat", recipe="~/none.yaml"), "no settings file {home}/none.yaml"),
    (lambda: clipstill.ladder(run="~/none", images="~/photos"), "there is no folder {home}/none"),
    (lambda: clipstill.add_class(run="~/none", classes="cow"), "there is no folder {home}/none"),
    (lambda: clipstill.remove_class(run="~/none", classes="cow"), "there is no folder {home}/none"),
]


@pytest.mark.parametrize(("call", "message"), READS, ids=[message for _, message in READS])
def test_python_arguments_know_the_home_folder(home: Path, call: Callable[[], Any], message: str) -> None:
    with pytest.raises(clipstill.ClipstillError) as caught:
        call()
    assert message.format(home=home) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "~/bundle", "--images=~/none"), "there is no image folder {home}/none"),
        (("export", "~/bundle", "--format=torch", "--images=mine=~/none"), "no image folder {home}/none"),
        (("base-to-novel", "--data=~/none", "--out=x"), "there is no data set {home}/none"),
        (("base-to-novel", "--data=dtd:~/none", "--out=x"), "there is no folder {home}/none/dtd"),
        (("run", "--classes=~/none.txt"), "{home}/none.txt does not exist"),
        (("run", "--classes=dog,cat", "--set=evaluation.images=~/none"), "no image folder {home}/none"),
        (("run", "--classes=dog,cat", "--out=x/~/zoo", "--teacher=embedded-s"), "a new folder named '~'"),
    ],
)
def test_options_know_the_home_folder(
    capsys: pytest.CaptureFixture[str], home: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message.format(home=home) in failed(capsys, *arguments)
    assert list(Path().rglob("~")) == []


UNMEANT = (
    "C:\\zoo",
    "\\\\nas\\zoo",
    "$HOME/zoo",
    "${HOME}/zoo",
    "%TEMP%\\zoo",
    "'zoo'",
    '"zoo"',
    "zoo ",
    "zoo\n",
    "me@nas:/zoo",
)


@pytest.mark.parametrize("out", UNMEANT)
@pytest.mark.parametrize("verb", ["run", "zero-shot"])
def test_a_folder_that_nobody_meant_is_not_made(
    out: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = (verb, "--classes=dog,cat", "--teacher=embedded-s", "--out", out)
    assert "would be in a new folder named" in failed(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


LOOPS: dict[str, tuple[str, ...]] = {
    "predict": ("predict", "loop", "a.png"),
    "predict, a photo": ("predict", "bundle", "loop"),
    "evaluate": ("evaluate", "bundle", "--images", "loop"),
    "export": ("export", "bundle", "--format", "onnx-fp16", "--out", "loop"),
    "run": ("run", "--classes", "dog,cat", "--out", "loop"),
    "run, below": ("run", "--classes", "dog,cat", "--out", "loop/below"),
    "fine-tune": ("fine-tune", "bundle", "--examples", "loop", "--out", "out"),
    "add-class": ("add-class", "loop", "cow"),
    "ladder": ("ladder", "loop", "--images", "photos"),
    "settings": ("settings", "--set", "evaluation.images=loop"),
    "settings, a file": ("settings", "--config", "loop"),
}


@pytest.mark.parametrize("verb", LOOPS)
def test_a_link_to_itself_is_told_by_every_verb(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    assert "leads in a circle of symbolic links" in failed(capsys, *LOOPS[verb])


def test_predict_takes_a_folder_and_answers_in_order(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "below/c.png", "._a.png"):
        (tmp_path / "mine" / name).parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (40, 40), "blue").save(tmp_path / "mine" / name)
    assert main(["predict", "~/bundle", "mine", "mine/b.png", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [each["photo"] for each in answers] == ["mine/a.png", "mine/b.png", "mine/below/c.png", "mine/b.png"]
    assert all(len(each["predictions"]) == 3 for each in answers)
    (tmp_path / "empty").mkdir()
    assert "empty holds no images" in failed(capsys, "predict", "~/bundle", "empty")


@pytest.mark.parametrize("as_json", [False, True])
def test_names_that_are_no_text_are_printed_escaped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, as_json: bool
) -> None:
    for name in (NOT_UTF8, "a\x1b[31m\nb.png"):
        (tmp_path / "photos" / LABELS[0]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), "blue").save(tmp_path / "photos" / LABELS[0] / name)
        (tmp_path / "photos" / LABELS[0] / f"damaged {name}").write_text("x")
    more = ["--json"] if as_json else []
    assert main(["predict", "~/bundle", "photos", *more]) == 2
    assert main(["evaluate", "~/bundle", "--images", "photos", *more]) == 0
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert "\x1b" not in shown
    for name in (r"caf\udce9.png", r"a\x1b[31m\nb.png"):
        assert json.dumps(name)[1:-1] in captured.out if as_json else name in shown
        assert f"damaged {name} cannot be read" in captured.err or as_json


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_settings_and_json_hold_nothing_that_a_terminal_obeys(
    capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    name = "a\x1b[31m\x9b1m\u202eb"
    assert main(["settings", "evaluation.images", f"--set=evaluation.images={json.dumps(name)}", *more]) == 0
    shown = capsys.readouterr().out
    assert {letter for letter in shown if not is_plain(letter)} == {"\n"}
    if more:
        assert json.loads(shown)[0]["value"] == str(Path.cwd() / name)
    else:
        assert plain(name) in shown


def test_an_empty_weights_store_is_named_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLIPSTILL_WEIGHTS", str(tmp_path / "a\x1bb"))
    assert main(["weights", "list"]) == 0
    assert r"a\x1bb" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [("run", "--classes=dog,cat", "--teacher=embedded-s", "--out"), ("zero-shot", "--classes=dog,cat", "--out")],
)
def test_a_place_for_results_that_is_not_utf8_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert r"caf\udce9.png has a name that is not UTF-8" in failed(capsys, *arguments, NOT_UTF8)
    assert not Path(NOT_UTF8).exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [("x/~/zoo", "named '~'"), ("file/below", "file is a file"), (NOT_UTF8, "not UTF-8"), ("shut/zoo", "not writable")],
)
def test_a_bundle_that_could_not_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "shut").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("shut"))
    with pytest.raises(clipstill.ClipstillError, match=message):
        check_replaceable(Path(place))
    with pytest.raises(clipstill.ClipstillError, match=message):
        check_replaceable(tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "shut"]


def test_a_bundle_whose_name_is_not_utf8_says_so(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    Path(NOT_UTF8).symlink_to(home / "bundle")
    assert r"caf\udce9.png has a name that is not UTF-8" in failed(capsys, "predict", NOT_UTF8, "x.png")


def test_evaluation_says_how_many_classes_its_photos_show(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = f"2 labelled photos in 2 of the 3 classes (none of {LABELS[2]})"
    for name in LABELS[:2]:
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), "red").save(tmp_path / "photos" / name / "a.png")
    assert main(["evaluate", "~/bundle", "--images", "photos"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split(maxsplit=1)[1] == told
    (tmp_path / "photos" / LABELS[0] / "notes.txt").touch()
    assert main(["evaluate", "~/bundle", "--images", "photos"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.split(maxsplit=1)[1] == f"{told}, 1 file or folder left out"


def test_a_bundle_is_pickled_by_its_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    bundle = load_bundle("bundle", threads=1)
    stored = pickle.dumps(bundle)
    assert len(stored) < 500
    monkeypatch.chdir(home / "photos")
    again = pickle.loads(stored)
    assert again.predict(f"{LABELS[0]}/a.png") == bundle.predict(f"{LABELS[0]}/a.png")
    assert (again.labels, again.file, again.folder) == (bundle.labels, bundle.file, home / "bundle")
    assert again.session.get_session_options().intra_op_num_threads == 1


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType, list) else (hint,)
