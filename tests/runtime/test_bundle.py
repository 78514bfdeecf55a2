"""A bundle in use, without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

import clipstill.core
from clipstill.core.description import Description
from clipstill.core.errors import ArtifactError, DataError
from clipstill.core.files import MANIFEST, commit_manifest, read_json, read_manifest, write_json
from clipstill.core.images import fit, load_rgb
from clipstill.core.protocols import RESIZE_MODES, Preprocess, ResizeMode, Size
from clipstill.export.bundle import BundleContent, write_bundle
from clipstill.runtime import Answer, Prediction, load_bundle
from export_fixtures import LABELS, PREPROCESS, SIZE, describe, new_student

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnxruntime_only.py"

# Everything outside the standard library that may be imported; the second line is what onnxruntime itself uses.
ALLOWED = ["clipstill", "numpy", "PIL", "onnxruntime"]
ALLOWED += ["flatbuffers", "google", "packaging", "sympy", "mpmath", "coloredlogs", "humanfriendly"]

ALONE = """
import sys
allowed = set(sys.argv[3].split(",")) | set(sys.stdlib_module_names)
class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and not top.startswith("_"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Blocker())
import json
from clipstill.runtime import load_bundle
found = load_bundle(sys.argv[1]).predict(sys.argv[2])
loaded = [name for name in ("torch", "onnx", "safetensors", "pydantic", "typer", "rich", "yaml") if name in sys.modules]
print(json.dumps([[each.label, each.score] for each in found] + loaded))
"""


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    y, x = np.mgrid[0:50, 0:70]
    Image.fromarray(np.stack([x * 3, y * 5, x + y], axis=-1).astype(np.uint8)).save(path)
    return path


def copy_with(folder: Path, to: Path, name: str, value: object) -> Path:
    """A bundle whose manifest is right but whose file ``name`` says something else."""
    manifest = read_manifest(folder)
    assert manifest is not None
    for each in folder.iterdir():
        (to / each.name).write_bytes(each.read_bytes())
    (to / name).write_text(json.dumps(value))
    commit_manifest(to, manifest.key, list(manifest.files))
    return to


def reference(photo: Path) -> np.ndarray:
    """Probabilities by torch and the student itself, pixels by the evaluation's own function."""
    pixels = fit(load_rgb(photo), PREPROCESS)
    with torch.inference_mode():
        logits = new_student().eval()(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    return logits.softmax(1)[0].numpy()


def test_prediction_equals_the_student_in_torch(tiny_bundle: Path, photo: Path) -> None:
    expected = reference(photo)
    found = load_bundle(tiny_bundle).predict(photo)
    assert [each.label for each in found] == [LABELS[i] for i in np.argsort(-expected)]
    np.testing.assert_allclose([each.score for each in found], np.sort(expected)[::-1], atol=1e-5)


def test_a_photo_has_one_answer_in_whichever_form_it_is_given(tiny_bundle: Path, photo: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = tmp_path / "turned.png"
    Image.open(photo).save(turned, exif=exif)
    bundle = load_bundle(tiny_bundle)
    expected = bundle.predict(turned)
    assert expected != bundle.predict(photo)
    with turned.open("rb") as stream:
        forms = [str(turned), Image.open(turned), turned.read_bytes(), stream, np.asarray(load_rgb(turned))]
        assert bundle.predict(forms) == [expected] * len(forms)
    assert bundle.predict(np.asarray(load_rgb(turned))) == expected


def test_runtime_needs_numpy_onnxruntime_and_pillow_only(tiny_bundle: Path, photo: Path) -> None:
    source = str(Path(clipstill.core.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tiny_bundle), str(photo), ",".join(ALLOWED)],
        env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = [[each.label, each.score] for each in load_bundle(tiny_bundle).predict(photo)]
    assert json.loads(done.stdout) == expected


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("size", [SIZE, (24, 40)])
def test_every_way_to_fit_a_photo_gives_the_same_answer_without_clipstill(
    mode: ResizeMode, size: Size, photo: Path, tmp_path: Path
) -> None:
    class Pooled(nn.Module):
        def forward(self, x_N3HW: Tensor) -> Tensor:
            return adaptive_avg_pool2d(x_N3HW, 4).flatten(1)[:, :3] * 9

    preprocess = Preprocess(size, interpolation="bilinear", resize_mode=mode, fill=77)
    folder = tmp_path / "bundle"
    write_bundle(folder, BundleContent(Pooled(), torch.eye(3), Description(LABELS, preprocess), page=False), describe)
    bundle = load_bundle(folder)
    assert bundle.preprocess == preprocess
    best = bundle.predict(photo)[0]
    done = subprocess.run(
        [sys.executable, EXAMPLE, folder, photo], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == f"{best.label} {best.score:.4f}"


def test_bundles_that_do_not_name_a_resize_mode_cut_the_middle(tiny_bundle: Path, photo: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    raw = read_json(folder / "preprocess.json")
    write_json(folder / "preprocess.json", {name: raw[name] for name in ("size", "mean", "std", "crop_fraction")})
    commit_manifest(folder, "", [path.name for path in folder.iterdir() if path.name != MANIFEST], {"kind": "bundle"})
    assert load_bundle(folder).preprocess == PREPROCESS
    assert load_bundle(folder).predict(photo) == load_bundle(tiny_bundle).predict(photo)


def test_run_folder_stands_for_its_bundle(tiny_bundle: Path) -> None:
    assert load_bundle(tiny_bundle.parent).folder == tiny_bundle


def test_top_asks_for_the_best_classes(tiny_bundle: Path, photo: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    assert bundle.predict(str(photo), top=2) == bundle.predict(photo)[:2]
    with pytest.raises(DataError, match="at least one class"):
        bundle.predict(photo, top=0)


def test_list_of_photos_gives_a_list_of_answers_in_its_order(tiny_bundle: Path, photo: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    other = Image.new("RGB", (40, 90), (255, 0, 0))
    both = bundle.predict([photo, other] * 20)
    assert len(both) == 40
    for single, batched in zip([bundle.predict(photo), bundle.predict(other)], both[-2:], strict=True):
        assert [each.label for each in single] == [each.label for each in batched]
        np.testing.assert_allclose([each.score for each in single], [each.score for each in batched], atol=1e-6)
    assert bundle.predict([]) == []


def test_logits_of_nothing_are_nothing(tiny_bundle: Path) -> None:
    assert load_bundle(tiny_bundle).logits(np.zeros((0, SIZE, SIZE, 3), np.uint8)).shape == (0, 3)


@pytest.mark.parametrize("pixels", [np.zeros((1, SIZE, SIZE, 3), np.float32), np.zeros((1, 3, SIZE, SIZE), np.uint8)])
def test_logits_of_other_shapes_and_types_are_refused(tiny_bundle: Path, pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"takes uint8 pixels of shape \(N, 32, 32, 3\)"):
        load_bundle(tiny_bundle).logits(pixels)


def test_temperature_softens_scores_and_keeps_their_order(tiny_bundle: Path, photo: Path, tmp_path: Path) -> None:
    soft = load_bundle(copy_with(tiny_bundle, tmp_path, "labels.json", {"labels": LABELS, "temperature": 1e6}))
    found = soft.predict(photo)
    assert [each.label for each in found] == [each.label for each in load_bundle(tiny_bundle).predict(photo)]
    np.testing.assert_allclose([each.score for each in found], 1 / 3, atol=1e-4)


def test_unreadable_photo_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        load_bundle(tiny_bundle).predict(tmp_path / "broken.jpg")


def test_altered_model_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    for each in tiny_bundle.iterdir():
        (tmp_path / each.name).write_bytes(each.read_bytes())
    with (tmp_path / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ArtifactError, match=r"model\.onnx was altered"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("place", ["lone", "run/bundle"])
def test_a_bundle_hidden_by_a_kill_between_two_renames_is_found(tiny_bundle: Path, tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    shutil.copytree(tiny_bundle, folder.with_name(f".{folder.name}.clipstill-previous"))
    folder.with_name(f".{folder.name}.clipstill-partial").mkdir()
    assert load_bundle(tmp_path / Path(place).parts[0]).folder == folder


def test_what_is_left_of_an_old_bundle_does_not_come_back(tiny_bundle: Path, tmp_path: Path) -> None:
    # Killed after both renames, while the old folder was being deleted; then the user deleted the new one.
    shutil.copytree(tiny_bundle, tmp_path / ".lone.clipstill-previous")
    with pytest.raises(ArtifactError, match="there is no file or folder"):
        load_bundle(tmp_path / "lone")


def test_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a clipstill bundle"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("labels.json", ["dog"], "does not hold labels"),
        ("labels.json", {"labels": [], "temperature": 1}, "does not hold labels"),
        ("labels.json", {"labels": ["a"], "temperature": 0}, "a temperature above 0"),
        ("preprocess.json", {"size": 32}, "does not hold a size"),
        ("model.onnx", "not a model", "cannot be run by onnxruntime"),
    ],
)
def test_file_of_another_form_is_refused(
    tiny_bundle: Path, tmp_path: Path, name: str, value: object, says: str
) -> None:
    with pytest.raises(ArtifactError, match=says) as caught:
        load_bundle(copy_with(tiny_bundle, tmp_path, name, value))
    assert "\n" not in str(caught.value)


def test_prediction_is_a_plain_value() -> None:
    assert Prediction("dog", 0.5) == Prediction(label="dog", score=0.5)


def test_notebook_shows_a_small_table(tiny_bundle: Path, tmp_path: Path) -> None:
    names = ["<b>dog</b>", "elephant", "guitar"]
    value = {"labels": names, "temperature": 1.5, "refusal_threshold": 0.4}
    shown = load_bundle(copy_with(tiny_bundle, tmp_path, "labels.json", value))._repr_html_()
    assert "&lt;b&gt;dog&lt;/b&gt;, elephant, guitar" in shown
    for part in ("<th>3 classes</th>", "model.onnx", "32 px", "not measured", "<td>1.5</td>", "below a score of 0.4"):
        assert part in shown


def test_a_refused_photo_is_told_before_the_classes(tiny_bundle: Path, photo: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    plain = bundle.predict(photo)
    bundle.refusal_threshold = 1.0  # Above any score but certainty.
    assert plain[0].score < 1.0
    assert bundle.predict(photo) == [Prediction("none of these", 1 - plain[0].score), *plain]
    assert bundle.predict([photo, photo], top=1) == [[Prediction("none of these", 1 - plain[0].score)]] * 2


def test_a_refused_photo_has_no_label_in_json() -> None:
    answer = Answer([Prediction("dog", 0.4), Prediction("cat", 0.3)], refused=True)
    shown = [{"label": "dog", "score": 0.4}]
    assert answer.to_json(top=1) == {"label": None, "score": 0.4, "predictions": shown, "refused": True}
    assert replace(answer, refused=False).to_json(top=1)["label"] == "dog"


def test_waiting_threads_of_a_bundle_sleep(tiny_bundle: Path) -> None:
    options = load_bundle(tiny_bundle, threads=2).session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.intra_op_num_threads == 2
