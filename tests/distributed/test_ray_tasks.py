"""The same surrogate set from Ray, whoever is lost on the way.

The cluster, the workers and their deaths are real; the images are as small as they get.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import clipstill
from clipstill.cli.main import main
from clipstill.core.errors import ResourceError
from clipstill.distributed.ray_tasks import TaskSize
from distributed_fixtures import (
    GROUPS,
    PYTHONPATH,
    arguments,
    environment,
    shards_of,
    workers_of,
)

pytestmark = pytest.mark.usefixtures("own_torch_settings")
RAY = ("--launcher", "ray", "--set", "launch.workers=2")


# --- Checks before any work; no cluster of this process may be there yet ----------------------------------------------


def test_without_ray_the_first_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(arguments(tmp_path / "run", *RAY)) == 2
    assert capsys.readouterr().err == "error: Ray is not installed. Run: pip install 'clipstill[ray]'\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_answers_is_told_at_once(
    scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # And not listened to.
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        assert main(arguments(tmp_path / "run", *RAY, "--address", address)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: nobody answers at the address of the Ray cluster, {address} (")
    assert not (tmp_path / "run").exists()


def test_a_storage_of_no_known_kind_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    assert main(arguments(tmp_path / "run", *RAY, "--set", "launch.storage=nosuch://bucket")) == 2
    assert "install what fsspec needs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# --- Work on a cluster ------------------------------------------------------------------------------------------------


def watched(log: Path, armed: Path) -> Callable[[], None]:
    """What Ray runs in each new worker process: begun groups are logged; while ``armed`` exists, one kills itself."""

    def in_worker() -> None:
        from clipstill.distributed.work import Worker

        original = Worker.make

        def make(self: Any, number: int, watch: Any = None) -> Any:
            with log.open("a") as stream:
                stream.write(f"{number} {os.getpid()}\n")

            def killed(*_: object) -> None:  # Called once a step: the group is running.
                with suppress(FileNotFoundError):  # Only one process finds the file.
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
def test_a_lost_driver_and_then_a_killed_worker_change_no_image(
    cluster: Cluster, expected_shards: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
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

    cluster.armed.touch()
    assert main(command) == 130
    assert not cluster.armed.exists()
    assert shards_of(out) == expected_shards
    begun = cluster.begun()
    # What lies in the storage is not made again, and of the rest only the group of the killed worker is begun twice.
    missing = set(range(GROUPS)) - {int(path.stem.removeprefix("shard-")) for path in left}
    [twice] = [group for group in missing if sum(group == one for one, _ in begun) == 2]
    assert sorted(group for group, _ in begun) == sorted([*missing, twice])
    victim, heir = (pid for group, pid in begun if group == twice)
    assert victim != heir
    assert workers_of(out)[twice].endswith(f":{heir}")
    assert capsys.readouterr().out == ""  # Ray's word on it went to standard error.


@pytest.mark.usefixtures("synthesis_only")
def test_the_error_of_a_task_arrives_in_one_line(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clipstill, "__version__", "0.0.4")
    assert main([*arguments(tmp_path / "run", *RAY), "--quiet"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "began with" in lines[0]
    assert "clipstill 0.0.4 " in lines[0]


def test_tasks_never_ask_for_more_than_a_machine_has(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "clipstill")
    wide = TaskSize.of(cluster.ray, "cpu", threads=64)
    assert (wide.cpus, wide.slots(cluster.ray)) == (2, 1)
    assert "--set threads=2" in caplog.text
    narrow = TaskSize.of(cluster.ray, "auto", threads=1)
    assert (narrow.cpus, narrow.gpus, narrow.slots(cluster.ray)) == (1, 0, 2)


def test_a_cluster_without_gpus_does_not_keep_a_run_waiting_for_ever(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "clipstill")
    place = TaskSize.of(cluster.ray, "cuda", threads=1)
    place.check(cluster.ray, waited_s=30)
    assert "no machine of Ray has 1 CPUs and 1 GPU, waiting for one" in caplog.text
    with pytest.raises(ResourceError, match="no machine of Ray has 1 CPUs and 1 GPU"):
        place.check(cluster.ray, waited_s=1e6)
