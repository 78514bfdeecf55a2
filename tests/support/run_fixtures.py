"""Finished runs that test files share, made once a session; runs that stop or are killed in the middle."""

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image

import kill_points
from clipstill.cli.main import main
from clipstill.core.files import sha256_file
from clipstill.core.seeds import generator_for
from clipstill.workflow.records import read_events
from kill_points import Point

CLASSES = ("dog", "guitar")
_TINY = (
    "threads=1",
    "device=cpu",
    "seed=3",
    "teacher.name=embedded-s",
    "generator.name=pixels",
    "prompts.styles=[photo, sketch]",
    "synthesis.steps=2",
    "curation.min_score=0",
    "curation.duplicate_cosine=1.0",
    "distillation.batch=4",
    "distillation.views=1",
    "distillation.held_out_styles=1",
)
# The quickest run there is: a network of a few thousand weights at 32 pixels, and no photos.
QUICK = (
    *_TINY,
    "evaluation.ladder=false",
    "export.formats=[onnx]",
    "export.zero_shot=false",
    "prompts.images_per_class=4",
    "synthesis.image_size=32",
    "synthesis.group_size=2",
    "refusal.images=1",
    "student.name=timm:test_efficientnet",
    "student.init=scratch",
    "student.image_size=32",
    "distillation.steps=3",
    "distillation.checkpoint_every=1",
)
# A network as it ships, with photos, their ladder and int8.
MEASURED = (
    *_TINY,
    "prompts.images_per_class=8",
    "synthesis.image_size=64",
    "synthesis.group_size=4",
    "refusal.near_misses=0",
    "student.name=lite0",
    "student.image_size=64",
    "distillation.steps=12",
    "distillation.checkpoint_every=4",
    # A student of so few steps is sure of nothing.
    "export.int8_refuse=1",
)

# A tower of the teacher's that learns from photos alone, beside QUICK.
PROMPTKD = (
    "prompts.images_per_class=0",
    "refusal.near_misses=0",
    "student.name=tower:embedded-s",
    "student.init=pretrained",
    "student.image_size=64",
    "student.head=class-vectors",
    "student.projector_layers=2",
    "distillation.keep=last",
    "distillation.held_out_styles=0",
)


def run_arguments(out: Path, settings: Sequence[str], *more: str, classes: str = ",".join(CLASSES)) -> list[str]:
    """Arguments of ``clipstill run``; what is in ``more`` wins."""
    return ["run", "--classes", classes, "--out", str(out), *(f"--set={each}" for each in settings), *more]


def noise_photos(folder: Path, names: Sequence[str], each: int, of: str = "") -> Path:
    """Random pictures, some in each sub-folder."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            pixels = torch.randint(0, 256, (9, 9, 3), generator=generator_for(of, name, number), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).resize((90, 70)).save(folder / name / f"{number}.png")
    return folder


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first process that asks for it makes, for all processes of this session."""
    base = factory.getbasetemp()
    place = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (place / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Made where it stays: a run writes its own path into commands that it recommends.
        finished = place / f"{name}.finished"
        if not finished.exists():
            make(place / name)
            finished.touch()
    return place / name


@contextmanager
def _own_torch_settings() -> Iterator[None]:
    """A run sets threads and determinism of the whole process; give it its own back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def own_torch_settings() -> Iterator[None]:
    """The test files behind one that runs get the settings of torch back."""
    with _own_torch_settings():
        yield


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ``QUICK``. Copy it to change it."""

    def make(folder: Path) -> None:
        with _own_torch_settings():
            assert main(run_arguments(folder, QUICK, "--quiet")) == 0

    return once(tmp_path_factory, "quick-run", make)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine photos of each class, and one that is cut short."""

    def make(folder: Path) -> None:
        noise_photos(folder, CLASSES, 9)
        (folder / "dog" / "cut.png").write_bytes((folder / "dog" / "0.png").read_bytes()[:200])

    return once(tmp_path_factory, "photos", make)


@pytest.fixture(scope="session")
def measured_run(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A finished run of ``MEASURED`` on ``photos``, made with sockets blocked. Copy it to change it."""

    def make(folder: Path) -> None:
        with _own_torch_settings(), _blocked_sockets(folder.with_name("measured-run-calls.json")):
            assert main(run_arguments(folder, MEASURED, "--images", str(photos), "--quiet")) == 0

    return once(tmp_path_factory, "measured-run", make)


@contextmanager
def _blocked_sockets(file: Path) -> Iterator[None]:
    """Let every attempt to reach the network fail, and write them down."""
    calls: list[str] = []

    def blocked(*address: object, **_: object) -> None:
        calls.append(repr(address))
        raise OSError(errno.ENETUNREACH, "sockets are blocked")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, blocked)
        patch.setattr(socket, "getaddrinfo", blocked)
        yield
    file.write_text(json.dumps(calls))


@pytest.fixture
def quick_copy(quick_run: Path, tmp_path: Path) -> Path:
    """A copy of ``quick_run``."""
    return Path(shutil.copytree(quick_run, tmp_path / "run"))


@contextmanager
def stopped_before(stage: str) -> Iterator[None]:
    """A run of this process that is not quiet ends, as by Ctrl-C, when it says that a stage begins."""

    def stop(record: logging.LogRecord) -> bool:
        if record.getMessage().startswith(f"{stage}: "):
            raise KeyboardInterrupt
        return True

    logger = logging.getLogger("clipstill")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addFilter(stop)
    try:
        yield
    finally:
        logger.removeFilter(stop)
        logger.setLevel(level)


def kill_before_file(pattern: str, arguments: Sequence[str], at: int = 1) -> None:
    """Do a command until a file is about to appear for the ``at``-th time, then kill the process."""
    kill_before(f"rename {pattern}", arguments, at)


def kill_before(change: str, arguments: Sequence[str], at: int = 1) -> None:
    """Do a command until the ``at``-th change of files of this pattern, see ``kill_points``, then kill the process."""
    point = Point("/", at, change=change)
    command = [sys.executable, kill_points.__file__, json.dumps(asdict(point)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


def shards_of(out: Path) -> dict[str, str]:
    """Every shard of images of classes -> its sha256."""
    found = (out / "stages").rglob("surrogate*/shard-*.tar")
    return {f"{path.parent.name}/{path.name}": sha256_file(path) for path in found}


def student_of(out: Path) -> str:
    """Hash of the trained student."""
    return sha256_file(out / "stages" / "student" / "student.safetensors")


def steps_done(out: Path) -> list[str]:
    """Names of the steps that the last call on a run folder did."""
    events = read_events(out)
    start = max(place for place, event in enumerate(events) if event["event"] == "start")
    return [str(event["stage"]) for event in events[start:] if event["event"] == "done"]
