"""Damaged bundles, and what else a hostile or a careless user gives to any verb.

The tables of verbs hold one row a verb and a kind of argument: a new verb adds its rows and is asked everything.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from typer.core import TyperGroup

from clipstill.cli.main import COMMAND, main
from clipstill.core.files import MANIFEST, commit_manifest, read_json, read_manifest, sha256_json, write_json
from clipstill.runtime import load_bundle
from clipstill.text.task import parse_task
from clipstill.workflow.photos import Photos
from clipstill.workflow.recipes import load_settings
from export_fixtures import LABELS, bundle_and_photos
from input_tables import failed

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnxruntime_only.py"

# Verb -> arguments before and after the bundle that it opens; {photos} and {out} are filled in.
OPENS_A_BUNDLE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "predict": (("predict",), ("{photo}",)),
    "evaluate": (("evaluate",), ("--images", "{photos}")),
    "fine-tune": (("fine-tune",), ("--examples", "{photos}", "--out", "{out}")),
    "serve": (("serve",), ("--port", "0")),
    "export": (("export",), ("--format", "onnx-fp16", "--out", "{out}")),
    "push": (("push",), ("user/name",)),
}
# Verb -> arguments before a folder of photos, one sub-folder a class.
TAKES_PHOTOS: dict[str, tuple[str, ...]] = {
    "evaluate": ("evaluate", "{bundle}", "--images"),
    "fine-tune": ("fine-tune", "{bundle}", "--out", "{out}", "--examples"),
    "fine-tune, measured": ("fine-tune", "{bundle}", "--out", "{out}", "--examples", "{photos}", "--images"),
    "run": ("run", "--classes", "dog,cat", "--out", "{out}", "--images"),
    "run, examples": ("run", "--classes", "dog,cat", "--out", "{out}", "--examples"),
    "zero-shot, examples": ("zero-shot", "--classes", "dog,cat", "--out", "{out}", "--examples"),
    "plan, examples": ("plan", "--classes", "dog,cat", "--examples"),
    "run, unlabelled": ("run", "--classes", "dog,cat", "--out", "{out}", "--unlabelled"),
}
# Verb -> arguments before a place for results that cannot be one: a file, or a folder of somebody else's.
WRITES: dict[str, tuple[str, ...]] = {
    "run": ("run", "--classes", "dog,cat", "--out"),
    # A plan would take seconds, and be told before the error.
    "run, budget": ("run", "--classes", "dog,cat", "--teacher", "embedded-s", "--budget", "10min", "--out"),
    "demo": ("demo", "--out"),
    "zero-shot": ("zero-shot", "--classes", "dog,cat", "--out"),
    "fine-tune": ("fine-tune", "{bundle}", "--examples", "{photos}", "--out"),
}
# Verb -> arguments before a labelled data set.
TAKES_A_DATASET: dict[str, tuple[str, ...]] = {
    "base-to-novel": ("base-to-novel", "--out", "{out}", "--data"),
    "transfer": ("transfer", "--out", "{out}", "--target", "{photos}", "--source"),
}
# Ways to name what there is not; each must name what was meant or what there is.
WRONG_USAGE: list[tuple[tuple[str, ...], str]] = [
    (("predictt", "x"), "predict"),
    (("evaluate", "{bundle}", "--images", "{photos}", "{photos}"), "give one folder"),
    (("run", "--classes", "dog,cat", "--set", "synthesis.steps", "=", "40"), "An option takes one value"),
    (("weights", "imprt"), "import"),
    (("list", "teacher"), "teachers"),
    (("serve", "x", "--prt", "1"), "--port"),
    (("serve", "{bundle}", "--port", "99999"), "65535"),
    (("serve", "{bundle}", "--host", "nowhere.invalid"), "127.0.0.1"),
    (("serve", "{bundle}", "--max-megabytes", "inf"), "--max-megabytes"),
    (("serve", "{bundle}", "--token", "short"), "8 to 1000"),
    (("serve", "{bundle}", "--token-file", "{out}"), "cannot be read"),
    (("serve", "{bundle}", "--token", "long enough", "--token-file", "{photo}"), "both given"),
    (("evaluate", "{bundle}", "--images", "{photos}", "--device", "cpuu"), "Did you mean 'cpu'?"),
    (("base-to-novel", "--data", "caltech:/x", "--out", "{out}"), "Did you mean 'caltech101'?"),
    (("base-to-novel", "--data", "x", "--out", "{out}", "--seeds", "1,-1"), "whole numbers"),
    (("weights", "import", "{photo}"), "code in weight files is never run"),
    (("run", "--classes", "dog,cat", "--out", "{out}", "--set", "threads=100000000"), "threads"),
    (("export", "{bundle}", "--format", "onxx", "--out", "{out}"), "onnx"),
    (("ladder", "{bundle}", "--images", "{photos}"), "is not a clipstill run"),
    (("ladder", "{photos}", "--images", "{photos}"), "is not a clipstill run"),
    (("add-class", "{photos}", "cow"), "is not a clipstill run"),
    (("remove-class", "{photos}", "cow"), "is not a clipstill run"),
    (("images", "{photos}", "--out", "{out}"), "is not a clipstill run"),
    (("images", "{photos}", "--out", "{out}", "--format", "zip"), "webdataset"),
    (("push", "{bundle}", "zoo"), "Write USER/NAME"),
    (("export", "hf:me/zoo", "--format", "onnx-fp16"), "--out FOLDER"),
    (("predict", "hf:zoo", "{photo}"), "hf:USER/NAME"),
    (("plan", "--classes", "dog"), "at least two"),
    (("plan", "--classes", "dog,cat", "--budget", "soon"), "10min"),
    (
        ("run", "--classes", "dog,cat", "--quick", "--budget", "10min", "--out", "{out}"),
        "Leave out the budget, or quick",
    ),
    (("plan", "--classes", "dog,cat", "--teacher", "embeded-s"), "Did you mean 'embedded-s'?"),
    (("zero-shot", "--classes", "dog,cat", "--teacher", "embeded-s", "--out", "{out}"), "Did you mean 'embedded-s'?"),
    (("ui", "--workspace", "{photo}"), "a.png: File exists"),
    (("ui", "--port", "99999"), "65535"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``bundle`` and ``photos``, that nothing may change."""
    return bundle_and_photos(tmp_path_factory.mktemp("made"))


@pytest.fixture
def words(made: Path, tmp_path: Path) -> dict[str, str]:
    return {
        "bundle": str(made / "bundle"),
        "photos": str(made / "photos"),
        "photo": str(made / "photos" / "dog" / "a.png"),
        "out": str(tmp_path / "out"),
    }


def filled(arguments: tuple[str, ...], words: dict[str, str]) -> list[str]:
    return [each.format(**words) for each in arguments]


@pytest.fixture
def misspelt(tmp_path: Path) -> Path:
    """Photos of a dog, and of elephants and cats in folders that no class of the tests is called."""
    for name in ("dog", "elephants", "cats"):
        (tmp_path / "misspelt" / name).mkdir(parents=True)
        Image.effect_noise((40, 40), 60 + len(name)).convert("RGB").save(tmp_path / "misspelt" / name / "a.png")
    return tmp_path / "misspelt"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "bundle", tmp_path / "copy"))


FILES = [
    "LICENCES.md",
    "card.md",
    "class_vectors.safetensors",
    "labels.json",
    "metrics.json",
    "model.onnx",
    "parity.json",
    "preprocess.json",
    "student.safetensors",
]


@pytest.mark.parametrize("verb", OPENS_A_BUNDLE)
@pytest.mark.parametrize("damage", ["missing", "altered", "a folder"])
def test_damaged_file_of_a_bundle_is_named(
    capsys: pytest.CaptureFixture[str], words: dict[str, str], copy: Path, verb: str, damage: str
) -> None:
    before, after = OPENS_A_BUNDLE[verb]
    assert sorted(path.name for path in copy.iterdir()) == sorted([*FILES, MANIFEST])
    for name in FILES:
        whole = (copy / name).read_bytes()
        if damage == "altered":
            (copy / name).write_bytes(whole + b" ")
        else:
            (copy / name).unlink()
        if damage == "a folder":
            (copy / name).mkdir()
        line = failed(capsys, *before, copy, *filled(after, words))
        assert str(copy / name) in line
        if damage == "a folder":
            (copy / name).rmdir()
        (copy / name).write_bytes(whole)
    assert not Path(words["out"]).exists()


@pytest.mark.parametrize("verb", OPENS_A_BUNDLE)
@pytest.mark.parametrize("place", ["a file", "an empty folder", "nothing", "a name too long"])
def test_what_is_no_bundle_is_told(
    capsys: pytest.CaptureFixture[str], words: dict[str, str], tmp_path: Path, verb: str, place: str
) -> None:
    (tmp_path / "a file").write_text("x")
    (tmp_path / "an empty folder").mkdir()
    before, after = OPENS_A_BUNDLE[verb]
    line = failed(
        capsys, *before, tmp_path / (place if place != "a name too long" else "x" * 4000), *filled(after, words)
    )
    told = {"a name too long": "too long", "nothing": "there is no file or folder"}
    assert told.get(place, "is not a clipstill bundle") in line


NAMES = ["../../etc/passwd", "/etc/passwd", "a/../../b", "", ".", "..", "a\\..\\b", "C:\\x", "a\0b", "x" * 5000, "a//b"]


@pytest.mark.parametrize("name", NAMES)
def test_manifest_that_leaves_its_folder_is_refused(
    capsys: pytest.CaptureFixture[str], words: dict[str, str], copy: Path, name: str
) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"][name] = "0" * 64
    (copy / MANIFEST).write_text(json.dumps(manifest))
    assert "which is no file below its folder" in failed(capsys, "predict", copy, words["photo"])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"key": 1, "files": []}', '{"key": "", "files": {"a": 1}}', "[" * 50_000, "1" * 9_000],
)
def test_malformed_manifest_is_told(
    capsys: pytest.CaptureFixture[str], words: dict[str, str], copy: Path, text: str
) -> None:
    (copy / MANIFEST).write_text(text)
    assert MANIFEST in failed(capsys, "predict", copy, words["photo"])


def rewritten(copy: Path, name: str, data: bytes | str) -> Path:
    """The bundle with another file, and a manifest that says that all is well."""
    manifest = read_manifest(copy)
    assert manifest is not None
    (copy / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    commit_manifest(copy, manifest.key, list(manifest.files), manifest.info)
    return copy


GOOD_LABELS: dict[str, Any] = {"labels": list(LABELS), "temperature": 1.0, "refusal_threshold": None}


@pytest.mark.parametrize(
    "change",
    [
        {"labels": list(LABELS[:2])},
        {"labels": [*LABELS, "horse"]},
        {"labels": "dog"},
        {"labels": [1, 2, 3]},
        {"labels": {"dog": 1}},
        {"labels": ["dog", "dog", "cat"]},
        {"labels": ["\x1b[31mdog", "cat", "bird"]},
        {"labels": ["dog\ud800", "cat", "bird"]},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": 1e-320},
        {"temperature": 10**400},
        {"temperature": None},
        {"refusal_threshold": 7},
        {"refusal_threshold": "high"},
    ],
    ids=str,
)
def test_labels_that_cannot_be_are_refused(
    capsys: pytest.CaptureFixture[str], words: dict[str, str], copy: Path, change: dict[str, Any]
) -> None:
    line = failed(
        capsys, "predict", rewritten(copy, "labels.json", json.dumps({**GOOD_LABELS, **change})), words["photo"]
    )
    assert "labels" in line


@pytest.mark.parametrize(
    "change",
    [
        *({"size": size} for size in (10**9, 0, -1, 33, 32.5, "32", None, True, float("nan"))),
        *({"mean": mean} for mean in ([1, 2], "abc", [float("nan")] * 3)),
        *({"std": std} for std in ([0, 1, 1], [float("inf")] * 3)),
        *({"crop_fraction": share} for share in (0, 1e-9, 2, float("nan"), 10**400)),
        *({"size": sides} for sides in ([32], [32, "32"], [0, 32], [32, 32, 32])),
        *({"resize_mode": mode} for mode in ("crop", None, [])),
        *({"interpolation": kernel} for kernel in ("nearest", 3)),
        *({"fill": fill} for fill in (-1, 256, 0.5, True)),
    ],
    ids=lambda change: str(change)[:40],
)
def test_preprocessing_that_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str], words: dict[str, str], copy: Path, change: dict[str, Any]
) -> None:
    raw = json.loads((copy / "preprocess.json").read_text())
    failed(capsys, "predict", rewritten(copy, "preprocess.json", json.dumps({**raw, **change})), words["photo"])


def outside(place: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        entry = weight.external_data.add()
        entry.key, entry.value = "location", place

    return change


def without_numbers(model: Any) -> None:
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            weight.CopyFrom(numpy_helper.from_array(np.full(list(weight.dims), np.nan, np.float32), weight.name))


MODELS: dict[str, Callable[[Any], None]] = {
    "weights above the folder": outside("../secret.bin"),
    "weights by an absolute path": outside("/etc/passwd"),
    "weights that are not there": outside("gone.bin"),
    "weights from a device": outside("/dev/zero"),
    "weights of another file of the bundle": outside("labels.json"),
    "weights behind a link": outside("link.bin"),
    "weights that are no numbers": without_numbers,
}


@pytest.mark.parametrize("name", MODELS)
def test_model_that_cannot_be_trusted_is_refused(
    capsys: pytest.CaptureFixture[str], words: dict[str, str], copy: Path, name: str
) -> None:
    model = onnx.load(copy / "model.onnx")
    weight = numpy_helper.to_array(model.graph.initializer[0])
    (copy.parent / "secret.bin").write_bytes(weight.tobytes())
    (copy / "link.bin").symlink_to(copy.parent / "secret.bin")
    MODELS[name](model)
    line = failed(capsys, "predict", rewritten(copy, "model.onnx", model.SerializeToString()), words["photo"])
    assert "model.onnx" in line


@pytest.mark.parametrize("verb", TAKES_PHOTOS)
@pytest.mark.parametrize("place", ["a file", "an empty folder", "nothing", "a name too long"])
def test_photo_folder_that_is_none_is_told(
    capsys: pytest.CaptureFixture[str], words: dict[str, str], tmp_path: Path, verb: str, place: str
) -> None:
    (tmp_path / "a file").write_text("x")
    (tmp_path / "an empty folder").mkdir()
    failed(capsys, *filled(TAKES_PHOTOS[verb], words), tmp_path / (place if place != "a name too long" else "x" * 4000))
    assert not Path(words["out"]).exists()


@pytest.mark.parametrize("verb", [verb for verb in TAKES_PHOTOS if "unlabelled" not in verb])
def test_a_class_without_photos_beside_a_folder_that_is_nearly_its_name_is_refused_by_every_verb(
    capsys: pytest.CaptureFixture[str], words: dict[str, str], misspelt: Path, verb: str
) -> None:
    line = failed(capsys, *filled(TAKES_PHOTOS[verb], words), misspelt)
    assert "s' is of no class. Rename it to '" in line
    assert "--allow-unmatched" in line
    assert not Path(words["out"]).exists()


def test_such_a_folder_is_left_out_on_request_and_the_results_name_it(
    capsys: pytest.CaptureFixture[str], words: dict[str, str], misspelt: Path
) -> None:
    arguments = [*filled(TAKES_PHOTOS["evaluate"], words), str(misspelt), "--allow-unmatched"]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    skipped = {each["file"]: each["reason"] for each in json.loads(captured.out)["skipped"]}
    assert skipped[str(misspelt / "elephants")] == "no class is called 'elephants'"
    assert "not used: cats (no class is called 'cats'), elephants" in captured.err
    settings = load_settings(overrides=["allow_unmatched=true", f"evaluation.images={misspelt}"])
    measured = Photos.of(settings, parse_task("dog,cat")).measured
    assert measured is not None
    assert measured.classes_without_images == ["cat"]


def test_every_verb_that_takes_labelled_photos_can_be_asked_to_go_on_without_a_folder() -> None:
    assert isinstance(COMMAND, TyperGroup)
    options = {name: {param.name for param in verb.params} for name, verb in COMMAND.commands.items()}
    labelled = {name for name, names in options.items() if {"images", "examples"} & names}
    assert len(labelled) >= 8
    # Taking a class out opens the photos of the run again.
    assert {name for name, names in options.items() if "allow_unmatched" in names} == labelled | {"remove-class"}


def test_an_option_that_is_given_twice_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "synthesis", "--json", "--recipe", "ovc", "--recipe", "default"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("warning: --recipe is given twice; the last one counts") == 1
    assert main(["settings", "synthesis", "--json", "--recipe", "default"]) == 0
    assert capsys.readouterr().out == captured.out


def test_a_bundle_is_not_tuned_into_itself(capsys: pytest.CaptureFixture[str], words: dict[str, str]) -> None:
    before = read_manifest(Path(words["bundle"]))
    line = failed(capsys, "fine-tune", words["bundle"], "--examples", words["photos"], "--out", words["bundle"])
    assert "is the bundle that is tuned, and would be lost" in line
    assert read_manifest(Path(words["bundle"])) == before


@pytest.mark.parametrize("verb", WRITES)
@pytest.mark.parametrize("place", ["file", "file/below", "foreign"])
def test_results_never_replace_what_is_not_ours(
    capsys: pytest.CaptureFixture[str], words: dict[str, str], tmp_path: Path, verb: str, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("mine")
    failed(capsys, *filled(WRITES[verb], words), tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]


TABLES = {
    "empty": "",
    "other columns": "a,b\n1,2\n",
    "an absolute path": "path,class,split\n/etc/passwd,a,train\n",
    "a path above": "path,class,split\n../../x.png,a,train\n",
    "another split": "path,class,split\nx.png,a,foo\n",
    "a row cut short": "path,class,split\nx.png\n",
    "a field without end": "path,class,split\n" + "a" * 200_000 + ",b,train\n",
    "one class": "path,class,split\na.png,a,train\na.png,a,test\n",
    "an escape": "path,class,split\n"
    + "".join(f"a.png,{c},{s}\n" for c in ("\x1b[1m", "b") for s in ("train", "test")),
    "no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("verb", TAKES_A_DATASET)
@pytest.mark.parametrize("table", TABLES)
def test_malformed_data_set_is_told(
    capsys: pytest.CaptureFixture[str], words: dict[str, str], tmp_path: Path, verb: str, table: str
) -> None:
    text = TABLES[table]
    (tmp_path / "data.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    failed(capsys, *filled(TAKES_A_DATASET[verb], words), tmp_path / "data.csv")


@pytest.mark.parametrize(("arguments", "says"), WRONG_USAGE, ids=lambda value: " ".join(value)[:60])
def test_wrong_usage_says_what_there_is(
    capsys: pytest.CaptureFixture[str], words: dict[str, str], arguments: tuple[str, ...], says: str
) -> None:
    assert says in failed(capsys, *filled(arguments, words))


@pytest.mark.parametrize(
    "text",
    ["[]", '{"format": "clipstill-run", "version": 99}', '{"format": "clipstill-run", "version": 1, "threads": "x"}'],
)
def test_run_folder_of_something_else_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    line = failed(capsys, "run", "--classes", "dog,cat", "--out", tmp_path)
    assert str(tmp_path) in line
    assert (tmp_path / "run.json").read_text() == text


def test_ten_lines_without_clipstill_answer_as_the_runtime(made: Path, tmp_path: Path) -> None:
    assert "clipstill" not in EXAMPLE.read_text().split('"""')[2]
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    clear = Image.fromarray(np.dstack([pixels, pixels[..., 0]])).resize((90, 50))
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).resize((90, 50))
    for size in ((90, 50), (50, 91), (32, 32), (500, 333)):
        Image.fromarray(pixels).resize(size).save(tmp_path / f"{size[0]}.png")
    Image.fromarray(pixels).resize((90, 50)).save(tmp_path / "turned.jpg", exif=exif)
    clear.save(tmp_path / "clear.png")
    deep.save(tmp_path / "deep.png")
    bundle = load_bundle(made / "bundle")
    for photo in sorted(tmp_path.iterdir()):
        done = subprocess.run(
            [sys.executable, EXAMPLE, made / "bundle", photo], capture_output=True, text=True, check=True
        )
        best = bundle.predict(photo)[0]
        assert done.stdout == f"{best.label} {best.score:.4f}\n", photo


def test_names_of_files_that_are_no_utf8_are_hashed_and_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"photo\xff.png")
    write_json(tmp_path / "names.json", [name])
    assert read_json(tmp_path / "names.json") == [name]
    assert sha256_json([name]) != sha256_json([os.fsdecode(b"photo\xfe.png")])


@pytest.mark.parametrize("name", ["a%20b#c?d", "x\u202ey", "two\nlines", "a space behind ", "\U0001f4f7", "-rf"])
def test_a_bundle_answers_under_any_name(name: str, copy: Path, words: dict[str, str]) -> None:
    renamed = copy.rename(copy.with_name(name))
    assert load_bundle(renamed).predict(words["photo"])[0].label in LABELS


def test_files_beside_those_of_a_bundle_and_another_end_of_lines_do_not_matter(
    copy: Path, words: dict[str, str]
) -> None:
    for name in ("labels (conflicted copy 2026-01-01).json", "model (1).onnx", "desktop.ini", ".dropbox.attr"):
        (copy / name).write_text("x")
    (copy / MANIFEST).write_bytes(b"\xef\xbb\xbf" + (copy / MANIFEST).read_bytes().replace(b"\n", b"\r\n"))
    for path in copy.iterdir():
        os.utime(path, (4e9, 4e9))
    assert load_bundle(copy).predict(words["photo"])[0].label in LABELS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "model.onnx was altered"),
        (lambda path: path.rename(path.with_name("model.onnx.icloud")), "model.onnx is missing"),
        (lambda path: path.rename(path.with_name("MODEL.ONNX")), "model.onnx is missing"),
    ],
    ids=["zeros", "in the cloud", "in capitals"],
)
def test_a_bundle_that_was_half_copied_is_told(
    change: Callable[[Path], object], says: str, copy: Path, words: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    change(copy / "model.onnx")
    assert says in failed(capsys, "predict", copy, words["photo"])
