"""Bundles on a hub: pushed, and loaded by their address. The hub is a stand-in on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, constants
from PIL import Image

from clipstill.cli.main import main
from clipstill.core.errors import ArtifactError, DataError, ResourceError
from clipstill.core.files import MANIFEST, commit_manifest, read_manifest
from clipstill.runtime import load_bundle
from hub_fixtures import TOKEN, Hub
from input_tables import failed

NAME = "me/zoo"
ADDRESS = f"hf:{NAME}"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    y, x = np.mgrid[0:50, 0:70]
    Image.fromarray(np.stack([x * 3, y * 5, x + y], axis=-1).astype(np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def pushed(hub: Hub, quick_run: Path, capsys: pytest.CaptureFixture[str]) -> Hub:
    assert main(["push", str(quick_run), NAME]) == 0
    capsys.readouterr()
    return hub


def changed(quick_run: Path, to: Path) -> Path:
    """The bundle with labels in capitals."""
    bundle = Path(shutil.copytree(quick_run / "bundle", to))
    labels = json.loads((bundle / "labels.json").read_text())
    (bundle / "labels.json").write_text(json.dumps({**labels, "labels": [each.upper() for each in labels["labels"]]}))
    manifest = read_manifest(bundle)
    assert manifest is not None
    commit_manifest(bundle, manifest.key, list(manifest.files), manifest.info)
    return bundle


def test_a_bundle_that_was_pushed_answers_by_its_address_as_before(pushed: Hub, quick_run: Path, photo: Path) -> None:
    local, remote = load_bundle(quick_run), load_bundle(ADDRESS)
    assert remote.predict(photo) == local.predict(photo)
    pixels = local.pixels(photo)[None]
    assert np.array_equal(remote.logits(pixels), local.logits(pixels))
    assert remote.info == local.info


def test_every_file_of_the_manifest_is_pushed_and_only_those_are_fetched(pushed: Hub, quick_run: Path) -> None:
    manifest = read_manifest(quick_run / "bundle")
    assert manifest is not None
    assert set(pushed.files(NAME)) == {MANIFEST, "README.md", "LICENSE.md", *manifest.files}
    folder = load_bundle(ADDRESS).folder
    assert {path.name for path in folder.iterdir()} == {MANIFEST, *manifest.files}


def test_the_card_is_a_page_that_the_hub_accepts(pushed: Hub, quick_run: Path) -> None:
    assert "POST /api/validate-yaml" in pushed.asked
    card = ModelCard(pushed.files(NAME)["README.md"].decode())
    matter = card.data.to_dict()
    assert matter["pipeline_tag"] == "image-classification"
    assert {"clipstill", "onnx"} <= set(matter["tags"])
    assert matter["library_name"] == "onnxruntime"
    assert matter["license"] == "other"  # The parts have several.
    assert matter["license_link"] == "LICENSE.md"
    assert pushed.files(NAME)["LICENSE.md"] == (quick_run / "bundle" / "LICENCES.md").read_bytes()
    assert f'load_bundle("{ADDRESS}")' in card.text
    assert "# Image classifier: dog, guitar" in card.text


@pytest.mark.slow
def test_the_card_of_a_measured_run_tells_the_hub_what_was_measured(hub: Hub, measured_run: Path) -> None:
    assert main(["push", str(measured_run), NAME, "--quiet"]) == 0
    card = ModelCard(hub.files(NAME)["README.md"].decode())
    own = yaml.safe_load((measured_run / "bundle" / "card.md").read_text().split("---\n", 2)[1])
    assert card.data.metrics == ["accuracy"]
    results = card.data.eval_results
    assert results is not None
    told = own["model-index"][0]["results"][0]["metrics"]
    assert [(each.metric_name, each.metric_value) for each in results] == [
        (each["name"], each["value"]) for each in told
    ]


def test_a_newer_version_is_fetched_and_an_older_one_is_had_by_its_revision(
    pushed: Hub, quick_run: Path, tmp_path: Path
) -> None:
    first = list(pushed.repositories[NAME].commits)[-1]
    assert load_bundle(ADDRESS).labels == ("dog", "guitar")
    assert main(["push", str(changed(quick_run, tmp_path / "new")), ADDRESS, "--quiet"]) == 0
    assert load_bundle(ADDRESS).labels == ("DOG", "GUITAR")
    assert load_bundle(f"{ADDRESS}@{first}").labels == ("dog", "guitar")


def test_a_second_load_fetches_nothing_and_works_without_the_hub(pushed: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    load_bundle(ADDRESS)
    pushed.asked.clear()
    load_bundle(ADDRESS)
    assert pushed.asked == [f"HEAD /{NAME}/resolve/main/{MANIFEST}"]
    nobody = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nobody + "/{repo_id}/resolve/{revision}/{filename}")
    assert load_bundle(ADDRESS).labels == ("dog", "guitar")


def test_verbs_take_the_address(
    pushed: Hub, quick_run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for place in (str(quick_run), ADDRESS):
        assert main(["predict", place, str(photo), "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    (tmp_path / "photos" / "dog").mkdir(parents=True)
    shutil.copy(photo, tmp_path / "photos" / "dog")
    assert main(["evaluate", ADDRESS, str(tmp_path / "photos"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 1
    out = tmp_path / "more"
    assert main(["export", ADDRESS, "--format", "onnx-fp16", "--out", str(out), "--json", "--quiet"]) == 0
    assert load_bundle(out, model="fp16").labels == ("dog", "guitar")


def test_export_never_writes_into_what_was_fetched(pushed: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    line = failed(capsys, "export", ADDRESS, "--format", "onnx-fp16")
    assert "--out FOLDER" in line


def test_the_address_needs_no_torch(pushed: Hub, quick_run: Path, photo: Path) -> None:
    code = (
        "import json, sys; from clipstill.runtime import load_bundle\n"
        "found = [load_bundle(place).predict(sys.argv[2])[0].label for place in (sys.argv[1], sys.argv[3])]\n"
        "print(json.dumps([found, 'torch' in sys.modules]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, ADDRESS, photo, quick_run], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    (remote, local), with_torch = json.loads(done.stdout)
    assert (remote, with_torch) == (local, False)


def test_a_file_that_was_altered_on_the_hub_is_refused(pushed: Hub) -> None:
    pushed.files(NAME)["labels.json"] += b" "
    with pytest.raises(ArtifactError, match=r"labels\.json was altered"):
        load_bundle(ADDRESS)


def test_a_file_that_the_repository_lacks_is_named(pushed: Hub) -> None:
    del pushed.files(NAME)["model.onnx"]
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing"):
        load_bundle(ADDRESS)


def test_a_private_repository_is_made_on_request_alone(
    hub: Hub,
    quick_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["push", str(quick_run), NAME, "--private", "--quiet"]) == 0
    assert main(["push", str(quick_run), "me/open", "--quiet"]) == 0
    assert {name: each.private for name, each in hub.repositories.items()} == {NAME: True, "me/open": False}
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    assert load_bundle("hf:me/open").labels == ("dog", "guitar")
    with pytest.raises(ResourceError, match="no such repository, or it is private"):
        load_bundle(ADDRESS)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert load_bundle(ADDRESS).labels == ("dog", "guitar")


def test_a_public_repository_is_not_taken_for_a_private_one(
    pushed: Hub, quick_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(pushed.repositories[NAME].commits)
    assert "exists and is public" in failed(capsys, "push", quick_run, NAME, "--private")
    assert pushed.repositories[NAME].commits == before


def test_pushing_needs_a_token(
    hub: Hub,
    quick_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    line = failed(capsys, "push", quick_run, NAME)
    assert "hf auth login" in line
    assert NAME in line
    assert not hub.repositories


@pytest.mark.parametrize("address", ["hf:zoo", "hf:", "hf:a/b/c", "hf:me/zoo zoo", "hf:@main"])
def test_an_address_that_names_no_repository_is_told(
    capsys: pytest.CaptureFixture[str], address: str, photo: Path
) -> None:
    assert "hf:USER/NAME" in failed(capsys, "predict", address, photo)
    with pytest.raises(DataError):
        load_bundle(address)


@pytest.mark.parametrize("name", ["zoo", "", "a/b/c", "me/zoo@main"])
def test_a_name_that_is_none_of_a_repository_is_told(
    capsys: pytest.CaptureFixture[str], quick_run: Path, name: str
) -> None:
    assert "Write USER/NAME" in failed(capsys, "push", quick_run, name)


def test_what_the_hub_lacks_is_told_in_one_line(pushed: Hub, capsys: pytest.CaptureFixture[str], photo: Path) -> None:
    assert "no such repository" in failed(capsys, "predict", "hf:me/gone", photo)
    assert "no such revision" in failed(capsys, "predict", f"{ADDRESS}@v9", photo)
    del pushed.files(NAME)[MANIFEST]
    assert "holds no clipstill bundle" in failed(capsys, "predict", ADDRESS, photo)


def test_without_a_network_the_repository_is_named_in_one_line(
    hub: Hub,
    quick_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    photo: Path,
) -> None:
    nobody = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nobody + "/{repo_id}/resolve/{revision}/{filename}")
    for arguments in (("predict", ADDRESS, photo), ("push", quick_run, NAME)):
        line = failed(capsys, *arguments)
        assert NAME in line
        assert "Check the name and the connection" in line
