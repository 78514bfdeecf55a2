"""The groups of a surrogate set as tasks on a Ray cluster; other workers repeat the tasks of a lost one.

The images are those of a run without Ray, bit for bit where threads, torch and the kind of processor are the same.
"""

from __future__ import annotations

import functools
import os
import platform
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import clipstill
from clipstill.core.device import configure_torch, pick_device
from clipstill.core.errors import ClipstillError, ResourceError
from clipstill.core.progress import say, warnings_only
from clipstill.distributed.torchrun import wait_until_visible, world
from clipstill.distributed.work import OnDone, SynthesisWork, Worker
from clipstill.surrogate.shards import ShardWriter, receipt_of, tar_bytes
from clipstill.surrogate.storage import ShardStorage, resolve_address

if TYPE_CHECKING:
    from clipstill.distributed.settings import LaunchSettings

# Tasks submitted for each one that the cluster holds at once, so that no worker waits for the driver.
_SUBMITTED_PER_SLOT = 2
# Spot machines may be lost several times.
_RETRIES = 5
# Ray itself would wait for ever at an address without a cluster.
_ANSWER_WITHIN_S = 10.0
# A growing cluster takes minutes to start a machine.
_CHECK_CLUSTER_EVERY_S, _MACHINE_WITHIN_S = 30.0, 900.0


def check_launcher(launch: LaunchSettings) -> None:
    """Check before any work starts that Ray, its cluster and the storage are there.

    Raises:
        ResourceError: Ray or fsspec is not installed, or nobody answers at the address of the cluster.
    """
    if launch.launcher != "ray" or world() > 1:
        return
    if not _import_ray().is_initialized():
        _check_address(launch.address or os.environ.get("RAY_ADDRESS"))
    if launch.storage is not None:
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
    """Make missing groups as Ray tasks. A connection to Ray that this process has already is used and kept.

    Args:
        shards: Where the groups are stored on this machine.
        threads: CPU threads of each task, those of the run, because sums depend on them.
        on_done: Called with each group that is safely stored.

    Raises:
        ResourceError: Ray, its cluster or a large enough machine is missing, or workers differ or were lost too often.
        ClipstillError: What a task raised.
    """
    if not groups:
        return
    ray = _import_ray()
    # Standard output is for results, but Ray reports lost workers there.
    with redirect_stdout(sys.stderr), _cluster(ray, launch.address):
        running: dict[Any, int] = {}
        storage = None if launch.storage is None else ShardStorage(launch.storage, work.key)
        address = None if storage is None else storage.address
        waiting = list(groups)
        # Take what tasks of an earlier call left in the storage.
        for group in storage.gather(shards, groups) if storage is not None else ():
            waiting.remove(group)
            on_done(group, None)
        size = TaskSize.of(ray, work.device, threads)
        task = ray.remote(num_cpus=size.cpus, num_gpus=size.gpus, max_retries=_RETRIES)(_make_group)
        with _readable_errors(ray):
            handle = ray.put(work)
        last = time.monotonic()
        while waiting or running:
            # The cluster may grow and shrink.
            most = launch.workers or _SUBMITTED_PER_SLOT * size.slots(ray)
            while waiting and len(running) < most:
                group = waiting.pop(0)
                running[task.remote(handle, group, address, threads=threads, versions=_versions())] = group
            done, _ = ray.wait(list(running), num_returns=1, timeout=_CHECK_CLUSTER_EVERY_S)
            if not done:
                size.check(ray, time.monotonic() - last)
                continue
            with _readable_errors(ray):
                data, receipt, loss = ray.get(done[0])
            last, group = time.monotonic(), running.pop(done[0])
            if storage is not None:
                wait_until_visible(
                    functools.partial(storage.gather, shards, [group]),
                    f"a task left group {group} in {storage.address}, but this machine does not find it there. The "
                    f"address must lead to one place from all machines.",
                )
            else:
                shards.adopt(group, data, receipt)
            on_done(group, loss)


# Tasks of one run share their models.
_worker: tuple[str, Worker] | None = None


def _make_group(
    work: SynthesisWork, group: int, address: str | None, *, threads: int, versions: str
) -> tuple[bytes | None, dict[str, Any], float]:
    """The Ray task: make one group and leave it in the storage at an address.

    Returns:
        The shard's bytes and receipt, both empty with an address; and the mean loss.
    """
    global _worker
    from clipstill.generators import load_generators
    from clipstill.teachers import load_teacher

    if versions != _versions():
        raise ResourceError(
            f"{platform.node()} has {_versions()}, but the run began with {versions}, which may draw other images. "
            f"Install the same versions on all machines."
        )
    warnings_only()
    # A task sees only its own GPU.
    device = pick_device("cuda" if work.device.startswith("cuda") else work.device)
    configure_torch(threads, device.type, work.deterministic)
    if _worker is None or _worker[0] != work.key:
        teacher = load_teacher(work.teacher, device, work.precision)
        generators = load_generators(work.generator.name, device, work.generator)
        _worker = (work.key, Worker(work, teacher, generators, device))
    made = _worker[1].make(group)
    data = tar_bytes(made.pixels_NHW3, made.records, made.features_ND)
    receipt = receipt_of(work.key, len(made.records), data, made.facts)
    if address is None:
        return data, receipt, made.loss
    ShardStorage(address, work.key).write(group, data, receipt)
    return None, {}, made.loss


@dataclass(frozen=True)
class TaskSize:
    """What a task takes of a machine."""

    cpus: int  # As Ray counts them.
    gpus: int  # 0 or 1.

    @classmethod
    def of(cls, ray: Any, device: str, threads: int) -> TaskSize:
        """A GPU where the device asks for one; otherwise a CPU per thread of the run, as far as a machine has them."""
        machines = _machines(ray)
        if device.startswith("cuda") or (device == "auto" and any(gpus for _, gpus in machines)):
            return cls(1, 1)
        most = max((cpus for cpus, _ in machines), default=0)
        if 1 <= most < threads:
            say(
                f"images: each task has {threads} threads, as the run has, but the largest machine of Ray has "
                f"{most} CPUs; a new run with --set threads={most} would be quicker"
            )
            return cls(most, 0)
        return cls(threads, 0)

    def slots(self, ray: Any) -> int:
        """Number of tasks that the cluster holds at once, at least 1."""
        return max(1, sum(min(cpus // self.cpus, gpus if self.gpus else cpus) for cpus, gpus in _machines(ray)))

    def check(self, ray: Any, waited_s: float) -> None:
        """Say so if no machine is large enough for a task; after 15 minutes, raise a ResourceError."""
        if any(cpus >= self.cpus and gpus >= self.gpus for cpus, gpus in _machines(ray)):
            return
        lacking = f"no machine of Ray has {self.cpus} CPUs" + (f" and {self.gpus} GPU" if self.gpus else "")
        if waited_s > _MACHINE_WITHIN_S:
            raise ResourceError(
                f"{lacking}. Add one, or begin a new run with smaller tasks, such as --set threads=1. The same command "
                f"goes on where it stopped."
            )
        say(f"images: {lacking}, waiting for one")


def _machines(ray: Any) -> list[tuple[int, int]]:
    """CPUs and GPUs of each machine of the cluster."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(resources.get("CPU", 0)), int(resources.get("GPU", 0))) for resources in found]


def _versions() -> str:
    """Versions that the images depend on."""
    import torch

    return f"clipstill {clipstill.__version__} and torch {torch.__version__}"


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ResourceError("Ray is not installed. Run: pip install 'clipstill[ray]'") from None
    return ray


def _check_address(address: str | None) -> None:
    """Check that somebody answers at an address with host and port."""
    host, colon, port = (address or "").rpartition("://")[2].split("/")[0].rpartition(":")
    if not colon or not port.isdigit():
        return  # Such as "auto" and "local".
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_WITHIN_S):
            pass
    except (OSError, OverflowError) as error:
        raise ResourceError(
            f"nobody answers at the address of the Ray cluster, {address} ({error}). Check it, or leave --launcher out."
        ) from None


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Join or start a cluster for the block, unless the caller has joined one.

    On the caller's cluster, tasks that an error leaves behind run to their end: Ray may abort the whole process where
    a task is cancelled while it ends (its issue 54260).
    """
    owned = not ray.is_initialized()
    if owned:
        _connect(ray, address or os.environ.get("RAY_ADDRESS"))
    try:
        yield
    finally:
        if owned:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    try:
        # "local" starts a cluster. Without it Ray would look for one of `ray start`, and wait for ever if it has ended.
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
    cpus = sum(cpus for cpus, _ in machines)
    say(f"images: {cpus} CPUs of Ray on {len(machines)} machine{'s' if len(machines) != 1 else ''}")


@contextmanager
def _readable_errors(ray: Any) -> Iterator[None]:
    """Raise errors of tasks as if they had happened here, and say what to do about Ray's own errors."""
    try:
        yield
    except (ImportError, ray.exceptions.RayError) as error:
        from_task = isinstance(error, ray.exceptions.RayTaskError)
        cause = getattr(error, "cause", None) if from_task else error
        if isinstance(cause, ClipstillError):
            raise cause from None
        # Objects are unpacked here or in a worker; the kind of the error is lost where the task itself is unpacked.
        if isinstance(cause, ImportError) or "ModuleNotFoundError" in str(error) or "failed to import" in str(error):
            last = str(cause or error).strip().splitlines()[-1:]
            raise ResourceError(
                f"a worker of Ray cannot import what it needs ({''.join(last)[:200]}). Install the same clipstill, "
                f"with all that this run needs, on all machines of the cluster."
            ) from None
        if from_task:
            # Keep the kind of error, so that exhausted memory is recognised.
            raise (cause if isinstance(cause, Exception) else error) from error
        raise ResourceError(
            f"a Ray task was lost and could not be made again ({type(error).__name__}). Run the same command again: it "
            f"goes on where it stopped."
        ) from error
