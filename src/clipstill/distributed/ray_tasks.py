"""The groups of a surrogate set as tasks on a Ray cluster.

Any worker makes any group, and what a lost worker left undone another one makes again. The same set comes out, bit for
bit where the workers have the same threads, the same torch and the same kind of processor.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import clipstill
from clipstill.core.errors import ClipstillError, ResourceError
from clipstill.core.progress import say
from clipstill.distributed.torchrun import POLL_EVERY_S, VISIBLE_WITHIN_S, world
from clipstill.distributed.work import OnDone, SynthesisWork, Worker, worker_name

if TYPE_CHECKING:
    from clipstill.distributed.settings import LaunchSettings
    from clipstill.surrogate.shards import ShardWriter
    from clipstill.surrogate.storage import ShardStorage

# Tasks given to Ray per task at work: enough that no worker waits for the driver.
_QUEUED = 2
# Spot machines are lost more often than once.
_RETRIES = 5
# Ray itself would try an address where nobody listens for ever.
_ANSWER_WITHIN_S = 10.0
# A cluster that grows by itself may have no machine yet; starting one takes minutes.
_CHECK_CLUSTER_EVERY_S = 30.0
_MACHINE_WITHIN_S = 900.0


def check_launcher(launch: LaunchSettings) -> None:
    """Find out before any work starts whether Ray, its cluster and the storage are there.

    Raises:
        ResourceError: Ray or fsspec is not installed, or nobody answers at the address of the cluster.
    """
    if launch.launcher != "ray" or world() > 1:
        return
    if not _import_ray().is_initialized():
        _check_address(launch.address or os.environ.get("RAY_ADDRESS"))
    if launch.storage is not None:
        from clipstill.surrogate.storage import resolve_address

        resolve_address(launch.storage)


def make_groups(
    work: SynthesisWork,
    groups: Sequence[int],
    shards: ShardWriter,
    *,
    launch: LaunchSettings,
    threads: int,
    on_done: OnDone,
) -> None:
    """Make groups as Ray tasks. A Ray that this process uses already is used, and left as it is.

    Args:
        work: What to make.
        groups: Numbers of the missing groups.
        shards: Where the groups are stored on this machine.
        launch: Address, number of tasks and storage.
        threads: CPU threads of each task, those of the run, because sums depend on them.
        on_done: Called with each group that is safely stored.

    Raises:
        ResourceError: Ray, its cluster or a machine large enough is missing, a worker has another clipstill or none,
            or workers were lost too often.
        ClipstillError: What a task raised.
    """
    if not groups:
        return
    ray = _import_ray()
    # Ray reports lost workers on standard output, which belongs to results.
    with redirect_stdout(sys.stderr), _cluster(ray, launch.address) as running:
        storage = _storage(launch.storage, work.key)
        address = None if storage is None else storage.address
        waiting = list(groups)
        # Do not make again what an earlier driver's tasks left in the storage.
        for group in storage.gather(shards, groups) if storage is not None else ():
            waiting.remove(group)
            on_done(group, None)
        size = TaskSize.of(ray, work.device, threads)
        task = ray.remote(num_cpus=size.cpus, num_gpus=size.gpus, max_retries=_RETRIES)(_make_group)
        with _readable_errors(ray):
            handle = ray.put(work)
        last = time.monotonic()
        while waiting or running:
            # The cluster may grow and shrink meanwhile.
            most = launch.workers or _QUEUED * size.slots(ray)
            while waiting and len(running) < most:
                group = waiting.pop(0)
                running[task.remote(handle, group, address, threads=threads, versions=_versions())] = group
            done, _ = ray.wait(list(running), num_returns=1, timeout=_CHECK_CLUSTER_EVERY_S)
            if not done:
                size.check(ray, time.monotonic() - last)
                continue
            last = time.monotonic()
            with _readable_errors(ray):
                data, receipt, loss = ray.get(done[0])
            group = running.pop(done[0])
            if storage is not None:
                _fetch(storage, shards, group)
            else:
                shards.adopt(group, data, receipt)
            on_done(group, loss)


def _storage(address: str | None, key: str) -> ShardStorage | None:
    if address is None:
        return None
    from clipstill.surrogate.storage import ShardStorage

    return ShardStorage(address, key)


# Tasks of one run share their models.
_worker: tuple[str, Worker] | None = None


def _make_group(
    work: SynthesisWork, group: int, address: str | None, *, threads: int, versions: str
) -> tuple[bytes | None, dict[str, Any], float]:
    """The Ray task: make one group with the driver's threads and versions, and leave it in the storage at an address.

    Without an address the shard's bytes and receipt are returned. Last comes the mean loss.
    """
    global _worker
    from clipstill.core.device import make_deterministic, pick_device
    from clipstill.core.progress import warnings_only
    from clipstill.surrogate.shards import receipt_of, tar_bytes

    if versions != _versions():
        raise ResourceError(
            f"{platform.node()} has {_versions()}, but the run began with {versions}, which may draw other images. "
            f"Install the same versions on all machines."
        )
    warnings_only()
    make_deterministic(threads)
    if _worker is None or _worker[0] != work.key:
        # Ray shows a task no GPU but its own.
        device = "cuda" if work.device.startswith("cuda") else work.device
        _worker = (work.key, Worker.load(work, pick_device(device)))
    made = _worker[1].make(group)
    data = tar_bytes(made.pixels_NHW3, made.records, made.features_ND)
    receipt = receipt_of(work.key, len(made.records), data, {**made.facts, "worker": worker_name()})
    storage = _storage(address, work.key)
    if storage is None:
        return data, receipt, made.loss
    storage.write(group, data, receipt)
    return None, {}, made.loss


@dataclass(frozen=True)
class TaskSize:
    """What a task takes of a machine.

    Attributes:
        cpus: CPUs as Ray counts them.
        gpus: 0 or 1.
    """

    cpus: int
    gpus: int

    @classmethod
    def of(cls, ray: Any, device: str, threads: int) -> TaskSize:
        """A GPU where the device asks for one, else as many CPUs as the run has threads and a machine has."""
        machines = _machines(ray)
        if device.startswith("cuda") or (device == "auto" and any(machine.get("GPU", 0) >= 1 for machine in machines)):
            return cls(1, 1)  # The CPU only feeds it.
        most = int(max((machine.get("CPU", 0) for machine in machines), default=0))
        if 1 <= most < threads:
            say(
                f"surrogate: each task has {threads} threads, as the run has, but the largest machine of Ray has "
                f"{most} CPUs; a new run with --set threads={most} would be quicker"
            )
            return cls(most, 0)
        return cls(threads, 0)

    def slots(self, ray: Any) -> int:
        """Number of tasks that the cluster holds at once, at least 1."""
        found = 0
        for machine in _machines(ray):
            by_cpu = int(machine.get("CPU", 0)) // self.cpus
            found += min(by_cpu, int(machine.get("GPU", 0)) // self.gpus) if self.gpus else by_cpu
        return max(1, found)

    def check(self, ray: Any, waited_s: float) -> None:
        """Say that no machine is large enough for a task, if that is so; called while nothing comes back.

        Raises:
            ResourceError: No large enough machine has come for 15 minutes.
        """
        machines = _machines(ray)
        if any(machine.get("CPU", 0) >= self.cpus and machine.get("GPU", 0) >= self.gpus for machine in machines):
            return
        lacking = f"no machine of Ray has {self.cpus} CPUs" + (f" and {self.gpus} GPU" if self.gpus else "")
        if waited_s > _MACHINE_WITHIN_S:
            raise ResourceError(
                f"{lacking}. Add one, or begin a new run with smaller tasks, such as --set threads=1. The same command "
                f"goes on where it stopped."
            )
        say(f"surrogate: {lacking}, waiting for one")


def _machines(ray: Any) -> list[dict[str, float]]:
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _versions() -> str:
    """What the images depend on besides their settings."""
    import torch

    return f"clipstill {clipstill.__version__} and torch {torch.__version__}"


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ResourceError("Ray is not installed. Run: pip install 'clipstill[ray]'") from None
    return ray


def _check_address(address: str | None) -> None:
    """Connect to an address, if it names a host and port."""
    host, colon, port = (address or "").rpartition("://")[2].split("/")[0].rpartition(":")
    if not colon or not port.isdigit():
        return  # Ray understands "auto" and "local".
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_WITHIN_S):
            pass
    except (OSError, OverflowError) as error:
        raise ResourceError(
            f"nobody answers at the address of the Ray cluster, {address} ({error}). Check it, or leave --launcher out."
        ) from None


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[dict[Any, int]]:
    """Join or start a cluster; yields the tasks at work and their groups, empty at first, and ends them at the end."""
    running: dict[Any, int] = {}
    owned = not ray.is_initialized()
    if owned:
        _connect(ray, address or os.environ.get("RAY_ADDRESS"))
    try:
        yield running
    finally:
        if owned:
            ray.shutdown()
        else:
            for task in running:
                with suppress(ray.exceptions.RayError, RuntimeError, ValueError):
                    ray.cancel(task, force=True)


def _connect(ray: Any, address: str | None) -> None:
    _check_address(address)
    try:
        # "local" starts a cluster. By default Ray would look for one that `ray start` left a note of, and wait for ever
        # where that is gone.
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level="error",
            include_dashboard=False if address is None else None,
        )
    except Exception as error:  # Ray raises many kinds.
        where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
        raise ResourceError(
            f"{where} cannot be used ({error}). Check the address, and RAY_AUTH_TOKEN where the cluster wants a token; "
            f"or leave --launcher out."
        ) from None
    machines = _machines(ray)
    cpus = int(sum(machine.get("CPU", 0) for machine in machines))
    say(f"surrogate: {cpus} CPUs of Ray on {len(machines)} machine{'s' if len(machines) != 1 else ''}")


@contextmanager
def _readable_errors(ray: Any) -> Iterator[None]:
    """Raise what a task raised as if it had happened here, and say of Ray's own errors what to do."""
    try:
        yield
    except ImportError as error:  # A driver outside the cluster has its objects unpacked by a process inside.
        raise _not_importable(error) from None
    except ray.exceptions.RayError as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else None
        if isinstance(cause, ClipstillError):
            raise cause from None
        # When a task cannot even be unpacked, the kind of its error is lost on the way.
        if isinstance(cause, ImportError) or "ModuleNotFoundError" in str(error) or "failed to import" in str(error):
            raise _not_importable(error if cause is None else cause) from None
        if isinstance(error, ray.exceptions.RayTaskError):
            # Keep the task's kind of error, so that exhausted memory is recognised; its traceback stands above.
            raise (cause if isinstance(cause, Exception) else error) from error
        raise ResourceError(
            f"a Ray task was lost and could not be made again ({type(error).__name__}). Run the same command again: it "
            f"goes on where it stopped."
        ) from error


def _not_importable(error: BaseException) -> ResourceError:
    last = str(error).strip().splitlines()[-1:]
    return ResourceError(
        f"a worker of Ray cannot import what it needs ({''.join(last)[:200]}). Install the same clipstill, with all "
        f"that this run needs, on all machines of the cluster."
    )


def _fetch(storage: ShardStorage, shards: ShardWriter, group: int) -> None:
    """Copy a group that a task has just left in a storage."""
    end = time.monotonic() + VISIBLE_WITHIN_S
    while not storage.gather(shards, [group]):
        if time.monotonic() > end:
            raise ResourceError(
                f"a task left group {group} in {storage.address}, but this machine does not find it there. The address "
                f"must lead to one place from all machines."
            )
        time.sleep(POLL_EVERY_S)
