"""The same surrogate set from one process, from two ranks of torchrun and from Ray, whoever is lost on the way.

The torchrun, the cluster, the workers and their deaths are real; the images are as small as they get.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import clipstill
from clipstill.cli.main import main
from clipstill.commands import run as run_module
from clipstill.core.errors import ResourceError
from clipstill.core.files import read_json, sha256_file
from clipstill.distributed import launch
from clipstill.students import load_student
from clipstill.workflow.workbench import STUDENT_FILE

TINY = (
    "threads=1",
    "device=cpu",
    "evaluation.ladder=false",
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
pytestmark = pytest.mark.usefixtures("own_torch_settings")
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


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def synthesis_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of this process ends, as by Ctrl-C, once the surrogate set is whole."""
    monkeypatch.setitem(run_module._IN_STAGES, "student", stopped)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The shards that one process makes."""
    out = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(run_module._IN_STAGES, "student", stopped)
        assert main([*arguments(out), "--quiet"]) == 130
    found = shards_of(out)
    assert len(found) == GROUPS
    assert len(set(workers_of(out))) == 1
    return found


# --- torchrun ---------------------------------------------------------------------------------------------------------


def torchrun(*command: str, more: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *more]
    return subprocess.run([*launcher, *command], capture_output=True, text=True, env=environment(), timeout=250)


# Rank 1 dies in its second group, once.
LOST_RANK = """
import os, signal, sys
from pathlib import Path
from clipstill.cli.main import main
from clipstill.distributed.synthesis_work import Worker

marker, original = Path(sys.argv[1]), Worker.make

def make(self, number, watch=None):
    if number == 3 and os.environ["RANK"] == "1" and not marker.exists():
        marker.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, number, watch)

Worker.make = make
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def after_a_loss(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, str, subprocess.CompletedProcess[str]]":
    """A run of two ranks one of which was lost: its folder, the number of the lost process, and how torchrun ended."""
    folder = tmp_path_factory.mktemp("ranks")
    script, marker, out = folder / "lost.py", folder / "killed", folder / "run"
    script.write_text(LOST_RANK)
    done = torchrun(str(script), str(marker), *arguments(out), more=("--max-restarts", "1"))
    return out, marker.read_text(), done


def test_a_rank_that_is_lost_changes_no_image(
    after_a_loss: "tuple[Path, str, subprocess.CompletedProcess[str]]", expected: dict[str, str]
) -> None:
    out, killed, done = after_a_loss
    assert done.returncode == 0, done.stderr
    assert shards_of(out) == expected
    makers = workers_of(out)
    assert not makers[3].endswith(f":{killed}")
    assert not set(makers[0::2]) & set(makers[1::2])  # Every second group each.
    assert done.stdout.count("report.html") == 1


def test_two_ranks_make_a_damaged_set_again_and_neither_waits_for_what_was_there(
    after_a_loss: "tuple[Path, str, subprocess.CompletedProcess[str]]", expected: dict[str, str]
) -> None:
    out, _, _ = after_a_loss
    tar = out / "stages" / "surrogate" / "shard-00001.tar"
    tar.write_bytes(b"x" * tar.stat().st_size)
    done = torchrun("-m", "clipstill", *arguments(out))
    assert done.returncode == 0, done.stderr
    assert shards_of(out) == expected
    first, second = workers_of(out)[:2]
    assert first != second
    assert workers_of(out) == [first, second] * (GROUPS // 2)
    assert done.stdout.count("report.html") == 1
    assert done.stderr.count("surrogate: at work") == 1


def test_two_ranks_teach_the_student_that_one_process_teaches(tmp_path: Path) -> None:
    # Statistics of BatchNorm as they are: those of half a batch are others than those of the whole.
    settings = ("--set", "distillation.freeze=bn", "--set", "prompts.images_per_class=4", "--set", "distillation.ema=0")
    assert main([*arguments(tmp_path / "one", *settings), "--quiet"]) == 0
    done = torchrun("-m", "clipstill", *arguments(tmp_path / "two", *settings))
    assert done.returncode == 0, done.stderr
    alone, together = (load_file(tmp_path / name / "stages" / "student" / STUDENT_FILE) for name in ("one", "two"))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, atol=2e-5, rtol=1e-4, msg=name)
    untaught = load_student("timm:test_efficientnet", 2, "scratch", 32, seed=3).state_dict()
    moved = [name for name, value in untaught.items() if not torch.equal(value, alone[name])]
    assert "head.weight" in moved
    assert len(moved) > 10


def test_variables_of_another_launcher_make_no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (launch.rank(), launch.world(), launch.share(range(4))) == (0, 1, [0, 1, 2, 3])


def test_ranks_share_all_groups_and_the_cores_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(launch, "usable_cores", lambda: 8)
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(launch.share([0, 1, 2, 4, 5, 9]))
        assert launch.threads_of_this_process() == 2
    assert shares == [[0, 9], [1, 4], [2, 5]]


# --- Ray --------------------------------------------------------------------------------------------------------------


def watched(log: Path, armed: Path) -> Callable[[], None]:
    """What Ray runs in each new worker process: begun groups are logged, and one is killed where ``armed`` exists."""

    def in_worker() -> None:
        from clipstill.distributed.synthesis_work import Worker

        original = Worker.make

        def make(self: Any, number: int, watch: Any = None) -> Any:
            with log.open("a") as stream:
                stream.write(f"{number} {os.getpid()}\n")

            def killed(*_: object) -> None:  # Called once a step: the group is at work.
                if number == 3 and armed.exists():
                    armed.unlink()
                    os.kill(os.getpid(), signal.SIGKILL)

            return original(self, number, killed)

        Worker.make = make  # type: ignore[method-assign]

    return in_worker


class Cluster:
    """A Ray cluster of this machine with two workers."""

    def __init__(self, ray: Any, folder: Path) -> None:
        self.ray, self.log, self.armed = ray, folder / "begun", folder / "armed"
        self.address = ray.get_runtime_context().gcs_address

    def begun(self) -> list[tuple[int, int]]:
        """Group and process of each beginning since the last call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [(int(group), int(pid)) for group, pid in (line.split() for line in lines)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    ray = pytest.importorskip("ray")
    folder = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", PYTHONPATH)
        try:
            ray.init(
                address="local",
                num_cpus=2,
                num_gpus=0,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                object_store_memory=100_000_000,
                runtime_env={"worker_process_setup_hook": watched(folder / "begun", folder / "armed")},
            )
        except Exception as error:
            pytest.skip(f"no Ray cluster can be started here: {error}")
        session = Path(ray._private.worker._global_node.get_session_dir_path()).name
        try:
            yield Cluster(ray, folder)
        finally:
            ray.shutdown()
    left = []
    for _ in range(50):
        left = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if session in _text(path)]
        if not left:
            break
        time.sleep(0.2)
    assert left == []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # It ended meanwhile.
        return ""


RAY = ("--launcher", "ray", "--set", "launch.workers=2")


@pytest.mark.usefixtures("synthesis_only")
def test_a_killed_ray_worker_changes_no_image(
    cluster: Cluster, expected: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.begun()
    cluster.armed.touch()
    out = tmp_path / "run"
    assert main([*arguments(out, *RAY), "--quiet"]) == 130
    assert not cluster.armed.exists()
    assert shards_of(out) == expected
    begun = cluster.begun()
    victim, heir = (pid for group, pid in begun if group == 3)
    assert victim != heir
    assert workers_of(out)[3].endswith(f":{heir}")
    assert sorted(group for group, _ in begun) == [0, 1, 2, 3, 3, 4, 5]
    assert capsys.readouterr().out == ""  # Ray's word on it went to standard error.


# A driver that is killed before it gathers its third group.
KILLED_DRIVER = """
import os, signal, sys
from clipstill.cli.main import main
from clipstill.surrogate.shards import ShardWriter

calls, original = 0, ShardWriter.adopt

def adopt(self, *arguments):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, *arguments)

ShardWriter.adopt = adopt
main(sys.argv[1:])
"""


@pytest.mark.usefixtures("synthesis_only")
def test_what_a_lost_driver_left_in_the_storage_is_not_made_again(
    cluster: Cluster, expected: dict[str, str], tmp_path: Path
) -> None:
    out, storage = tmp_path / "run", tmp_path / "storage"
    command = arguments(out, *RAY, "--set", f"launch.storage={storage.as_uri()}")
    first = [sys.executable, "-c", KILLED_DRIVER, *command, "--address", cluster.address]
    done = subprocess.run(first, capture_output=True, text=True, env=environment(), timeout=250)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(shards_of(out)) == 2
    # Ray ends the tasks of a driver that is gone.
    cluster.begun()
    before, left = None, sorted(storage.rglob("shard-*.json"))
    while before != left:
        time.sleep(1)
        before, left = left, sorted(storage.rglob("shard-*.json"))
    assert len(left) >= 3

    assert main([*command, "--quiet"]) == 130
    assert shards_of(out) == expected
    made_again = {group for group, _ in cluster.begun()}
    assert made_again == set(range(GROUPS)) - {int(path.stem.removeprefix("shard-")) for path in left}


@pytest.mark.usefixtures("synthesis_only")
def test_the_error_of_a_task_arrives_in_one_line(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "_versions", lambda: {"clipstill": clipstill.__version__, "torch": "0.4"})
    assert main([*arguments(tmp_path / "run", *RAY), "--quiet"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "began with" in lines[0]
    assert "torch 0.4" in lines[0]


def test_tasks_never_ask_for_more_than_a_machine_has(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    wide = launch._Place.of(cluster.ray, "cpu", threads=64)
    assert (wide.cpus, wide.slots(cluster.ray)) == (2, 1)
    assert "--set threads=2" in capsys.readouterr().err
    narrow = launch._Place.of(cluster.ray, "auto", threads=1)
    assert (narrow.cpus, narrow.gpus, narrow.slots(cluster.ray)) == (1, 0, 2)


def test_a_cluster_without_gpus_does_not_keep_a_run_waiting_for_ever(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    place = launch._Place.of(cluster.ray, "cuda", threads=1)
    place.check(cluster.ray, waited_s=30)
    assert "no machine of Ray has 1 CPUs and 1 GPU, waiting for one" in capsys.readouterr().err
    with pytest.raises(ResourceError, match="no machine of Ray has 1 CPUs and 1 GPU"):
        place.check(cluster.ray, waited_s=1e6)


# --- What is found out before any work --------------------------------------------------------------------------------


def test_without_ray_the_first_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(arguments(tmp_path / "run", *RAY)) == 2
    assert capsys.readouterr().err == "error: Ray is not installed. Run: pip install 'clipstill[ray]'\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_answers_is_told_at_once(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # And not listened to.
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        assert main(arguments(tmp_path / "run", *RAY, "--address", address)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: nobody answers at the address of the Ray cluster, {address} (")
    assert not (tmp_path / "run").exists()


def test_a_storage_of_no_known_kind_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert main(arguments(tmp_path / "run", *RAY, "--set", "launch.storage=nosuch://bucket")) == 2
    assert "install what fsspec needs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
