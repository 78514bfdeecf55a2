"""Every format against the student that it was written from; refusals; bundles that hold all of them."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import Tensor, nn

from clipstill.core.description import Description, ExportFacts
from clipstill.core.errors import ArtifactError, ExportError, ResourceError, UnknownNameError
from clipstill.core.files import read_manifest, verify_files
from clipstill.core.protocols import Preprocess
from clipstill.core.seeds import generator_for
from clipstill.export import formats, load_format
from clipstill.export.bundle import BundleContent, add_formats, write_bundle
from clipstill.export.format import deployed_copy, frozen
from clipstill.export.measure import FormatFacts, FormatRequest, Photos, Pictures, write_formats
from clipstill.export.onnx import export_onnx
from clipstill.export.parity import check_parity, student_logits
from clipstill.export.settings import ExportSettings
from clipstill.report.card import with_formats
from clipstill.runtime import load_bundle
from clipstill.runtime.other_formats import open_other

SIZE = 32
CLASSES = 4
# By format, the first package that it needs.
PACKAGES = {
    "openvino": "openvino",
    "executorch": "executorch",
    "litert": "litert_torch",
    "ncnn": "ncnn",
    "coreml": "coremltools",
}
NEEDLESS = ("onnx", "onnx-fp16", "onnx-int8", "torch")
WRITTEN = [*NEEDLESS, *(name for name, package in PACKAGES.items() if importlib.util.find_spec(package))]
HERE = [name for name in WRITTEN if not load_format(name).not_run_here()]
EXACT = [name for name in HERE if name not in ("onnx-fp16", "onnx-int8")]


class Net(nn.Module):
    """Large enough that its weights are most of a file."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 96, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(96, CLASSES)
        generator = generator_for("net of formats")
        with torch.no_grad():
            for parameter in self.parameters():
                spread = 1.7 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)

    def forward(self, x_N3HW: Tensor) -> Tensor:
        return self.head(self.layers((x_N3HW - 0.5) / 0.25))


def with_outliers(net: Net) -> Net:
    """The same function, with channels a thousand times apart: one scale for all of them leaves most without levels."""
    first, second = net.layers[2], net.layers[4]
    factor_C = torch.ones(64)
    factor_C[0] = 5000.0
    with torch.no_grad():
        first.weight.mul_(factor_C[:, None, None, None])
        first.bias.mul_(factor_C)
        second.weight.div_(factor_C[None, :, None, None])
    return net


def coloured(n: int, seed: int = 0) -> np.ndarray:
    """Pictures that a net of random weights tells apart: each of a colour of its own."""
    rng = np.random.default_rng(seed)
    colour_N113 = rng.integers(0, 256, (n, 1, 1, 3))
    return (0.7 * colour_N113 + 0.3 * rng.integers(0, 256, (n, SIZE, SIZE, 3))).astype(np.uint8)


PICTURES = Pictures(coloured(32, seed=1), coloured(64, seed=2))


@pytest.fixture(scope="module")
def net() -> Net:
    return Net().eval()


@pytest.fixture(scope="module")
def made(net: Net, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, FormatFacts]]:
    """A bundle of all formats that can be written here, once."""
    folder = tmp_path_factory.mktemp("all") / "bundle"
    facts = write_bundle(folder, content(net, WRITTEN), describe, key="abc")
    return folder, {name: FormatFacts(name, **told) for name, told in facts.formats.items()}


@pytest.fixture(scope="module")
def bundle(made: tuple[Path, dict[str, FormatFacts]]) -> Path:
    return made[0]


@pytest.fixture(scope="module")
def far_apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Net, Path]:
    """A net with channels far apart, and its ``model.onnx``."""
    net, path = with_outliers(Net().eval()), tmp_path_factory.mktemp("far apart") / "model.onnx"
    export_onnx(net, path, SIZE)
    return net, path


def as_input(pixels_NHW3: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels_NHW3.transpose(0, 3, 1, 2), dtype=np.float32) / 255


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("n", [1, 3])
def test_format_in_float32_gives_the_students_logits_for_any_number_of_pictures(
    name: str, n: int, net: Net, made: tuple[Path, dict[str, FormatFacts]]
) -> None:
    image_N3HW = as_input(coloured(n, seed=7))
    form = load_format(name)
    with torch.inference_mode():
        expected = net(torch.from_numpy(image_N3HW)).numpy()
    np.testing.assert_allclose(form.open(made[0] / form.files[0], threads=1)(image_N3HW), expected, atol=1e-4)


def branched(name: str) -> nn.Module:
    """A network whose BatchNorm statistics are not 0 and 1, which any formula would fuse."""
    generator = generator_for(name)
    network: nn.Module = timm.create_model(name, num_classes=CLASSES)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(1, 2, generator=generator)
    return network


@pytest.mark.parametrize("name", ["fastvit_t8", "mobileone_s0", "repghostnet_050", "repvgg_a0", "repvit_m0_9"])
def test_a_copy_without_branches_answers_as_the_student_does(name: str) -> None:
    student = branched(name)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    with torch.inference_mode():
        x_N3HW = torch.from_numpy(as_input(coloured(4)))
        expected_NC, fused = frozen(student)(x_N3HW), deployed_copy(student)
        difference = float((fused(x_N3HW) - expected_NC).abs().max())
    assert difference < 1e-5 * float(expected_NC.abs().max())
    assert len(list(fused.modules())) < 0.7 * len(list(student.modules()))
    assert list(student.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


@pytest.mark.slow
def test_branches_are_fused_in_the_exported_file(tmp_path: Path) -> None:
    student, path = branched("mobileone_s0"), tmp_path / "model.onnx"
    export_onnx(student, path, SIZE)
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in student.modules())
    assert sum(node.op_type == "Conv" for node in onnx.load(path).graph.node) < convolutions / 2
    check_parity(student, path, SIZE)


@pytest.mark.parametrize("name", [name for name in HERE if name not in EXACT])
@pytest.mark.parametrize("n", [1, 3])
def test_smaller_format_answers_close_to_the_student_for_any_number_of_pictures(
    name: str, n: int, net: Net, made: tuple[Path, dict[str, FormatFacts]]
) -> None:
    image_N3HW = as_input(coloured(n, seed=7))
    form = load_format(name)
    found = form.open(made[0] / form.files[0])(image_N3HW)
    expected = student_logits(net, image_N3HW)
    assert 0 < np.abs(found - expected).max() < (0.02 if name == "onnx-fp16" else 0.3) * np.ptp(expected)


def test_what_is_told_of_a_format_is_what_its_file_does(net: Net, made: tuple[Path, dict[str, FormatFacts]]) -> None:
    folder, facts = made
    assert PICTURES.held_out_NHW3 is not None
    image_N3HW = as_input(PICTURES.held_out_NHW3)
    expected = student_logits(net, image_N3HW)
    for name in HERE:
        form = load_format(name)
        found = form.open(folder / form.files[0])(image_N3HW)
        told = facts[name]
        assert told.max_difference == pytest.approx(np.abs(found - expected).max(), abs=1e-5)
        assert told.top1_agreement == pytest.approx((found.argmax(1) == expected.argmax(1)).mean())
        assert told.bytes == sum((folder / file).stat().st_size for file in form.files)
        assert told.latency_ms is not None
        assert told.latency_ms > 0
        assert told.pictures == {"held out": 64}
    # The pictures are of more than one class, or the agreement would say nothing.
    assert len(set(expected.argmax(1))) > 1


def test_fp16_is_half_of_the_bytes_and_int8_less(made: tuple[Path, dict[str, FormatFacts]]) -> None:
    size = {name: facts.bytes for name, facts in made[1].items()}
    assert size["onnx-fp16"] == pytest.approx(size["onnx"] / 2, rel=0.05)
    assert size["onnx-int8"] < 0.4 * size["onnx"]


def test_program_of_torch_holds_nothing_pickled_and_no_path(made: tuple[Path, dict[str, FormatFacts]]) -> None:
    with zipfile.ZipFile(made[0] / "model.pt2") as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert not content.startswith((b"\x80", b"PK")), name
            if name.endswith(".json"):
                assert b"site-packages" not in content
                assert b".py" not in content


@pytest.mark.skipif("openvino" not in HERE, reason="openvino is not installed")
def test_openvino_is_written_without_its_reports_over_the_network(made: tuple[Path, dict[str, FormatFacts]]) -> None:
    assert (made[0] / "model.openvino.bin").is_file()
    assert "openvino" in sys.modules
    assert sys.modules["openvino_telemetry"] is None


def test_int8_of_channels_far_apart_is_refused_and_leaves_no_file(
    far_apart: tuple[Net, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="clipstill")
    net = far_apart[0]
    shutil.copy(far_apart[1], tmp_path)
    kept, refused = write_formats(tmp_path, net, SIZE, FormatRequest(["onnx-int8"], PICTURES))
    assert refused.refused is not None
    assert "it answers otherwise than the student for" in refused.refused
    assert (refused.file, kept.refused) == (None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert "export: onnx-int8 is refused" in caplog.text


def test_int8_between_the_limits_is_written_with_a_warning(
    far_apart: tuple[Net, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="clipstill")
    net = far_apart[0]
    shutil.copy(far_apart[1], tmp_path)
    request = FormatRequest(["onnx-int8"], PICTURES, ExportSettings(int8_refuse=1.0))
    _, found = write_formats(tmp_path, net, SIZE, request)
    assert found.refused is None
    assert found.warning is not None
    assert (tmp_path / "model.int8.onnx").is_file()
    assert "export: onnx-int8: it answers otherwise" in caplog.text


def test_int8_without_enough_pictures_is_refused_and_the_others_are_made(
    bundle: Path, net: Net, tmp_path: Path
) -> None:
    shutil.copy(bundle / "model.onnx", tmp_path)
    few = Pictures(coloured(3), coloured(2))
    _, refused, other = write_formats(tmp_path, net, SIZE, FormatRequest(["onnx-int8", "onnx-fp16"], few))
    assert refused.refused is not None
    assert "needs 8 pictures to calibrate on" in refused.refused
    assert other.file == "model.fp16.onnx"


def test_accuracy_is_that_of_the_file_on_the_photos(net: Net, made: tuple[Path, dict[str, FormatFacts]]) -> None:
    pixels_NHW3 = coloured(40, seed=9)
    answer_N = student_logits(net, as_input(pixels_NHW3)).argmax(1)
    label_N = np.where(np.arange(40) < 10, (answer_N + 1) % CLASSES, answer_N)
    pictures = replace(PICTURES, photos={"mine": Photos(pixels_NHW3, label_N)})
    (found,) = write_formats(made[0], net, SIZE, FormatRequest(pictures=pictures))
    assert found.accuracy == {"mine": 0.75}
    assert found.agreement == {"held out": 1.0, "mine": 1.0}


def test_unknown_format_has_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="no format named 'onnx-int9'. Did you mean 'onnx-int8'"):
        load_format("onnx-int9")
    assert set(HERE) <= set(formats.names())


@pytest.mark.parametrize("name", PACKAGES)
def test_missing_package_is_one_line_that_says_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = PACKAGES[name]
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"needs the package {package}.*pip install 'clipstill\[{name}\]'"
    with pytest.raises(ResourceError, match=message) as caught:
        load_format(name)
    assert "\n" not in str(caught.value)


def content(net: Net, names: Sequence[str]) -> BundleContent:
    preprocess = Preprocess(SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    description = Description(("red", "green", "blue", "grey"), preprocess)
    return BundleContent(net, torch.eye(CLASSES, 5), description, FormatRequest(names, PICTURES))


def describe(facts: ExportFacts) -> dict[str, str]:
    return {"card.md": "# A card\n\n## Quality on real photos\n\nNone.\n"}


def test_bundle_of_all_formats_is_verified_and_opens_by_precision(bundle: Path, net: Net) -> None:
    manifest = read_manifest(bundle)
    assert manifest is not None
    verify_files(bundle, manifest)
    assert {file for name in WRITTEN for file in load_format(name).files} <= set(manifest.files)
    pixels_NHW3 = coloured(5, seed=3)
    whole, half, eighth = (load_bundle(bundle, model=name).logits(pixels_NHW3) for name in ("fp32", "fp16", "int8"))
    np.testing.assert_allclose(whole, student_logits(net, as_input(pixels_NHW3)), atol=1e-4)
    assert 0 < np.abs(half - whole).max() < np.abs(eighth - whole).max()
    np.testing.assert_array_equal(load_bundle(bundle).logits(pixels_NHW3), whole)


def test_bundle_tells_of_each_format(bundle: Path) -> None:
    export = json.loads((bundle / "metrics.json").read_text())["export"]
    parity = json.loads((bundle / "parity.json").read_text())
    assert set(export["formats"]) == set(parity["formats"]) == set(WRITTEN)
    assert export["formats"]["onnx"]["bytes"] == export["onnx_bytes"] == (bundle / "model.onnx").stat().st_size
    assert export["formats"]["onnx"]["latency_ms"] == export["latency_ms"]
    assert parity["n"] == 32
    assert parity["formats"]["onnx-int8"]["file"] == "model.int8.onnx"


def test_altered_format_is_named(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    copy.mkdir()
    for path in bundle.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    with (copy / "model.int8.onnx").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(ArtifactError, match=r"model\.int8\.onnx was altered"):
        load_bundle(copy, model="int8")


def test_formats_added_later_leave_the_bundle_whole(net: Net, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    write_bundle(folder, content(net, ()), describe, key="abc")
    with pytest.raises(ArtifactError, match=r"holds no model\.int8\.onnx.*clipstill export .* --format onnx-int8"):
        load_bundle(folder, model="int8")
    found = add_formats(folder, folder, net, FormatRequest(["onnx-int8"], PICTURES), with_formats)
    assert [each.format for each in found] == ["onnx", "onnx-int8"]
    manifest = read_manifest(folder)
    assert manifest is not None
    assert (manifest.key, manifest.info["kind"]) == ("abc", "bundle")
    assert set(manifest.files) == {path.name for path in folder.iterdir()} - {"MANIFEST.json"}
    assert load_bundle(folder, model="int8").labels == ("red", "green", "blue", "grey")
    card = (folder / "card.md").read_text()
    assert card.startswith("# A card\n\n## Formats\n")
    assert card.endswith("\n\n## Quality on real photos\n\nNone.\n")
    assert "`model.int8.onnx`" in card
    assert list(json.loads((folder / "metrics.json").read_text())["export"]["formats"]) == ["onnx", "onnx-int8"]
    # Again: the table is renewed, not repeated.
    add_formats(folder, folder, net, FormatRequest(["onnx-fp16"], PICTURES), with_formats)
    card = (folder / "card.md").read_text()
    assert (card.count("## Formats"), card.count("## Quality"), card.count("model.int8.onnx")) == (1, 1, 1)
    assert "`model.fp16.onnx`" in card


def test_formats_added_to_a_copy_leave_the_bundle_as_it_was(bundle: Path, net: Net, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    add_formats(bundle, tmp_path / "new", net, FormatRequest(["onnx-fp16"], PICTURES), with_formats)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert load_bundle(tmp_path / "new", model="fp16").folder == tmp_path / "new"


def test_other_student_than_the_bundles_is_refused_and_nothing_changes(bundle: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    other = Net().eval()
    with torch.no_grad():
        other.head.bias.add_(torch.arange(CLASSES))
    with pytest.raises(ExportError, match="is not the student"):
        add_formats(bundle, bundle, other, FormatRequest(["onnx-fp16"], PICTURES), with_formats)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", [name for name in EXACT if name != "onnx"])
def test_another_format_answers_as_the_runtimes_own(bundle: Path, name: str) -> None:
    pictures = list(coloured(3, seed=7))
    found, expected = load_bundle(bundle, threads=1, model=name), load_bundle(bundle)
    assert found.file == load_format(name).files[0]
    for one, other in zip(found.answer(pictures), expected.answer(pictures), strict=True):
        assert [each.label for each in one.predictions] == [each.label for each in other.predictions]
        assert [each.score for each in one.predictions] == pytest.approx([each.score for each in other.predictions])
    again = copy.copy(found)  # By the folder, as another process opens it.
    assert (again.model, again.threads) == (name, 1)
    assert again.session is not found.session
    assert again.predict(pictures[0]) == found.predict(pictures[0])


def test_a_model_of_another_form_than_the_labels_is_refused(bundle: Path) -> None:
    with pytest.raises(ArtifactError, match=r"gives \(4,\), not 99 logits"):
        open_other("torch", bundle / "model.pt2", threads=1, classes=99, shape=(SIZE, SIZE))


def test_a_format_that_the_bundle_lacks_is_refused_with_the_command(tiny_bundle: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no model\.pt2\. Make it: clipstill export .* --format torch"):
        load_bundle(tiny_bundle, model="torch")


def test_model_that_nobody_knows_has_a_suggestion(bundle: Path) -> None:
    with pytest.raises(ArtifactError, match="has no model 'int9'. Did you mean 'int8'"):
        load_bundle(bundle, model="int9")
