"""From a student to a bundle: export, gate, folder."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import nn

from clipstill.core.description import ExportFacts
from clipstill.core.errors import ArtifactError, ExportError, ResourceError
from clipstill.core.files import read_manifest, replacing, verify_files
from clipstill.core.onnx_session import open_session
from clipstill.export.bundle import write_bundle
from clipstill.export.measure import latency
from clipstill.export.onnx import Onnx, export_onnx
from clipstill.export.page import OWN_FILES, RUNTIME_FILES
from clipstill.export.parity import Reference, check_parity
from export_fixtures import LABELS, PREPROCESS, SIZE, TinyStudent, content, describe, new_student


@pytest.fixture(scope="module")
def student() -> TinyStudent:
    """The student that is exported, while it trains."""
    return new_student().train()


@pytest.fixture(scope="module")
def exported(student: TinyStudent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_onnx(student, path, SIZE)
    return path


@pytest.fixture(scope="module")
def replaced(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportFacts]:
    """A bundle in the place of an older one, and what its export measured."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("replaced") / "bundle"))
    return folder, write_bundle(folder, content(new_student()), describe, key="new")


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.read_bytes())
    return path


@pytest.mark.parametrize("n", [1, 2, 5])
def test_exported_model_takes_any_number_of_pictures(exported: Path, n: int) -> None:
    image = np.random.default_rng(n).random((n, 3, SIZE, SIZE), dtype=np.float32)
    with torch.inference_mode():
        expected = new_student().eval()(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(Onnx().open(exported)(image), expected, atol=1e-4)


def test_exported_model_knows_its_size_and_opset(exported: Path) -> None:
    assert open_session(exported).get_inputs()[0].shape[2:] == [SIZE, SIZE]
    assert [each.version for each in onnx.load(exported).opset_import if each.domain == ""] == [18]


def test_exported_model_holds_no_path_of_the_machine(exported: Path) -> None:
    raw = exported.read_bytes()
    assert b"stack_trace" not in raw
    assert b".py" not in raw


def test_export_is_one_file_and_leaves_the_student_as_it_was(student: TinyStudent, exported: Path) -> None:
    before = new_student().state_dict()
    assert [path.name for path in exported.parent.iterdir()] == ["model.onnx"]
    assert student.training
    assert student.backbone[2].inplace
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_export_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    export_onnx(new_student(), tmp_path / "model.onnx", SIZE)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_student_that_onnx_cannot_express_is_refused_in_one_line(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) if x.sum().item() > 0 else -x.flatten(1)

    with pytest.raises(ExportError, match=r"cannot be written as ONNX") as caught:
        export_onnx(Branching(), tmp_path / "model.onnx", SIZE)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_faithful_export_passes_the_gate(model: Path) -> None:
    parity = check_parity(new_student(), model, SIZE)
    assert parity["max_difference"] <= 1e-4
    assert parity["top1_agreement"] == 1.0
    assert (parity["n"], parity["pictures"]) == (32, "made")


def test_gate_uses_given_pictures_of_any_size(model: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 40, 52, 3), dtype=np.uint8)
    parity = check_parity(new_student(), model, SIZE, Reference.of(new_student(), SIZE, pictures))
    assert (parity["n"], parity["pictures"]) == (21, "given")


@pytest.mark.parametrize("factor", [1.05, float("nan")])
def test_tampered_graph_is_refused(model: Path, factor: float) -> None:
    graph = onnx.load(model)
    weight = max(graph.graph.initializer, key=lambda each: len(each.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    onnx.save(graph, model)
    with pytest.raises(ExportError, match=r"is not the student: a logit differs by .* allowed is 0\.00481"):
        check_parity(new_student(), model, SIZE)


@pytest.mark.parametrize("size", [1e-5, 1e5])
def test_a_difference_counts_beside_the_size_of_the_logits(tmp_path: Path, size: float) -> None:
    student, other = new_student(), new_student()
    with torch.no_grad():
        for head, factor in ((student.head, size), (other.head, size * 1.01)):
            head.weight.mul_(factor)
            head.bias.mul_(factor)
    export_onnx(student, tmp_path / "model.onnx", SIZE)
    parity = check_parity(student, tmp_path / "model.onnx", SIZE)
    assert parity["tolerance"] == pytest.approx(0.00481 * size, rel=0.01)
    with pytest.raises(ExportError, match="a logit differs by"):
        check_parity(other, tmp_path / "model.onnx", SIZE)


def test_swapped_classes_are_refused_however_lax_the_tolerance(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipstill.export.parity.TOLERANCE", 1e6)
    student = new_student()
    with torch.no_grad():
        student.head.weight.copy_(student.head.weight.flip(0))
        student.head.bias.copy_(student.head.bias.flip(0))
    with pytest.raises(ExportError, match="names the same class for only"):
        check_parity(student, model, SIZE)


def test_graph_with_a_fixed_batch_is_refused(model: Path) -> None:
    graph = onnx.load(model)
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(graph, model)
    with pytest.raises(ExportError, match="it does not run"):
        check_parity(new_student(), model, SIZE)


def test_latency_is_a_positive_number_of_milliseconds(exported: Path) -> None:
    assert 0 < latency(Onnx().open(exported, threads=1), SIZE) < 1000


def test_bundle_holds_every_file_that_the_design_names(replaced: tuple[Path, ExportFacts]) -> None:
    folder, facts = replaced
    assert {path.name for path in folder.iterdir()} == {
        "LICENCES.md", "MANIFEST.json", "card.md", "class_vectors.safetensors", "labels.json", "metrics.json",
        "model.onnx", "parity.json", "preprocess.json", "student.safetensors", *OWN_FILES, *RUNTIME_FILES,
    }  # fmt: skip
    manifest = read_manifest(folder)
    assert manifest is not None
    assert (manifest.key, manifest.info["kind"]) == ("new", "bundle")
    verify_files(folder, manifest)
    expected = {"labels": list(LABELS), "temperature": 1.0, "refusal_threshold": None}
    assert json.loads((folder / "labels.json").read_text()) == expected
    assert json.loads((folder / "preprocess.json").read_text())["size"] == PREPROCESS.size
    assert json.loads((folder / "parity.json").read_text())["max_difference"] == facts.parity["max_difference"]
    assert json.loads((folder / "metrics.json").read_text())["export"]["onnx_bytes"] == facts.onnx_bytes
    stored = load_file(folder / "student.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in new_student().state_dict().items())
    assert load_file(folder / "class_vectors.safetensors")["class_vectors"].shape == (3, 4)


def test_new_bundle_replaces_the_old_one(tiny_bundle: Path, replaced: tuple[Path, ExportFacts]) -> None:
    old, new = read_manifest(tiny_bundle), read_manifest(replaced[0])
    assert old is not None
    assert new is not None
    assert (old.key, new.key) == ("tiny", "new")
    assert [path.name for path in replaced[0].parent.iterdir()] == ["bundle"]


def test_folder_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"holds 'thesis\.txt'"):
        write_bundle(tmp_path / "bundle", content(new_student()), describe)
    assert (tmp_path / "bundle" / "thesis.txt").read_text() == "years of work"


def test_files_of_the_system_in_a_bundle_are_kept_and_are_no_part_of_it(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    for name in (".DS_Store", "._card.md", "Thumbs.db", ".git/objects/a"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / ".link").symlink_to("nowhere")
    made = content(new_student())

    def texts(facts: ExportFacts) -> dict[str, str]:
        (tmp_path / ".bundle.clipstill-partial" / "desktop.ini").touch()  # As a file manager does at any moment.
        return dict(describe(facts))

    write_bundle(folder, made, texts, key="new")
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.key == "new"
    left = {path.name for path in folder.iterdir()} - set(manifest.files)
    assert left == {"MANIFEST.json", ".DS_Store", "._card.md", "Thumbs.db", ".git", ".link", "desktop.ini"}
    assert (folder / ".git" / "objects" / "a").read_text() == ".git/objects/a"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


class Refused(nn.Module):
    """Gives logits that no export may have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :3] * float("nan")


def test_failed_export_leaves_the_old_bundle_and_no_rest(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()

    with pytest.raises(ExportError, match="is not the student"):
        write_bundle(tmp_path / "bundle", replace(content(new_student()), student=Refused()), describe)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_bundle_hidden_by_a_kill_between_two_renames_comes_back(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / ".bundle.clipstill-previous")
    (tmp_path / ".bundle.clipstill-partial").mkdir()
    with pytest.raises(ExportError, match="is not the student"):
        write_bundle(tmp_path / "bundle", replace(content(new_student()), student=Refused()), describe)
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest is not None
    assert manifest.key == "tiny"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_reader_between_the_two_renames_disturbs_no_replacement(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    found: list[object] = []

    def read_once(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and not found and str(arguments[1]) == str(folder):
            found.append(None)
            found[0] = read_manifest(folder)

    sys.addaudithook(read_once)
    with replacing(folder) as partial:
        (partial / "new").touch()
    assert found != [None]
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_link_to_a_bundle_stays_a_link(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    for _ in range(2):
        with replacing(tmp_path / "link") as partial:
            (partial / "new").touch()
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    def full(_facts: object) -> dict[str, str]:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ResourceError, match="the disk is full"):
        write_bundle(tmp_path / "bundle", content(new_student()), full)
    assert list(tmp_path.iterdir()) == []
