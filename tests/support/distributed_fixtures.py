"""A run as small as it gets, whose images one process, ranks of torchrun and Ray tasks make."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import clipstill
from clipstill.cli.main import main
from clipstill.core.files import read_json, sha256_file
from run_fixtures import stopped_before

TINY = (
    "threads=1",
    "device=cpu",
    "evaluation.ladder=false",
    "export.zero_shot=false",
    "export.formats=[onnx]",
    "prompts.images_per_class=6",
    "prompts.styles=[photo, sketch]",
    "synthesis.steps=2",
    "synthesis.image_size=32",
    "synthesis.group_size=2",
    "curation.min_score=0",
    "refusal.near_misses=0",
    "student.name=timm:test_efficientnet",
    "student.init=scratch",
    "student.image_size=32",
    "distillation.steps=2",
    "distillation.batch=4",
    "distillation.views=1",
    "distillation.freeze=none",
    "distillation.held_out_styles=1",
)
GROUPS = 6
PYTHONPATH = os.pathsep.join([str(Path(clipstill.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])


def environment() -> dict[str, str]:
    """Of a child process: this checkout, without a thread pool on each core, and what Ray asks those for who join."""
    return {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}


def arguments(out: Path, *more: str) -> list[str]:
    settings = [part for setting in TINY for part in ("--set", setting)]
    names = ["--classes", "dog,guitar", "--teacher", "embedded-s", "--generator", "pixels", "--seed", "3"]
    return ["run", *names, "--out", str(out), *settings, *more]


def shards_of(out: Path) -> dict[str, str]:
    """Name of each shard -> its sha256."""
    return {path.name: sha256_file(path) for path in sorted((out / "stages" / "surrogate").glob("*.tar"))}


def workers_of(out: Path) -> list[str]:
    """Who made each group."""
    receipts = sorted((out / "stages" / "surrogate").glob("shard-*.json"))
    return [read_json(receipt)["facts"]["worker"] for receipt in receipts]


@pytest.fixture
def synthesis_only() -> Iterator[None]:
    """A run of this process that is not quiet ends, as by Ctrl-C, once the surrogate set is whole."""
    with stopped_before("student"):
        yield


@pytest.fixture(scope="module")
def expected_shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The shards that one process makes."""
    out = tmp_path_factory.mktemp("alone") / "run"
    with stopped_before("student"):
        assert main(arguments(out)) == 130
    found = shards_of(out)
    assert len(found) == GROUPS
    assert len(set(workers_of(out))) == 1
    return found
