"""Who makes the groups of a surrogate set: this process, the ranks of torchrun, or tasks on a Ray cluster.

Ranks also teach together, where all weights of a student are in training.

A group's images follow from its seeds alone, and a committed group is never made again. So nobody coordinates: ranks
take every n-th group, tasks take any, what a lost worker left undone another one makes, and the same set comes out,
bit for bit where the workers have the same threads, the same torch and the same kind of processor.

Ranks are those of torchrun, and of what is built on it, such as ``accelerate launch``: it ends, or begins again, all of
them where one is lost. Other launchers that set ``RANK`` and ``WORLD_SIZE`` may not, and the others would wait forever;
under them each process is alone. On a cluster of SLURM: ``srun torchrun ...``.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clipstill
from clipstill.core.device import usable_cores
from clipstill.core.errors import ArtifactError, ClipstillError, ResourceError
from clipstill.core.files import read_manifest
from clipstill.core.progress import say
from clipstill.distributed.synthesis_work import SynthesisWork, Worker

if TYPE_CHECKING:
    from clipstill.distributed.settings import LaunchSettings
    from clipstill.surrogate.shards import ShardWriter
    from clipstill.surrogate.storage import ShardStorage

# How often a rank looks what the others have done.
_LOOK_EVERY_S = 0.5
# After this long, a file that another machine wrote is not late any more: it lies on another disk.
_SHARED_WITHIN_S = 60.0
# How often a group is begun again whose worker was lost; spot machines are lost more often than once.
_RETRIES = 5
# Tasks that Ray holds for each that is at work: enough that no worker waits for the driver.
_QUEUED = 2
# An address where nobody listens: Ray itself would ask again for ever.
_ANSWER_WITHIN_S = 10.0
# A cluster that grows by itself may have no machine yet; that it gets one takes minutes.
_LOOK_AT_CLUSTER_EVERY_S = 30.0
_MACHINE_WITHIN_S = 900.0

# Told of each group that is safe, or soon will be, and of the mean loss of its images where that is known.
OnDone = Callable[[int, float | None], None]


def worker_name() -> str:
    """This process among those that make groups: machine and process number."""
    return f"{platform.node()}:{os.getpid()}"


# --- torchrun ---------------------------------------------------------------------------------------------------------


def rank() -> int:
    """Number of this process among those that torchrun started; 0 without it."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def world() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def threads_of_this_process() -> int:
    """Cores that this process may use; the ranks of one machine divide them among themselves."""
    return max(1, usable_cores() // (int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world() > 1 else 1))


def local_device(name: str) -> str:
    """The device of this rank: ranks of one machine take its GPUs in turns, where ``auto`` or ``cuda`` is asked for."""
    if world() == 1 or name not in ("auto", "cuda"):
        return name
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % count}" if count else name


def share(groups: Sequence[int]) -> list[int]:
    """The groups that this rank makes: every n-th, so that all ranks have as many of each generator."""
    return [group for group in groups if group % world() == rank()]


@dataclass(frozen=True)
class Offer:
    """What the first rank asks the others to help with.

    Attributes:
        stage: that is at work.
        key: of what it makes.
        groups: numbers of all that are missing, in the synthesis; none where all ranks do the same.
        threads: that the run works with.
    """

    stage: str
    key: str
    groups: list[int]
    threads: int


# A process may do several runs, one after the other; all ranks do the same ones.
_runs = itertools.count()
_told: Iterator[str] = iter(())


@contextmanager
def leading() -> Iterator[None]:
    """While it lasts, this is the first rank of a run; the others are told how it ended.

    The files of a run cannot say that: those of an earlier call look the same.
    """
    global _told
    if world() == 1:
        yield
        return
    _told = _messages()
    fine = False
    try:
        yield
        fine = True
    finally:
        # Without torchrun nobody is left to be told.
        with suppress(RuntimeError):
            _store().set(next(_told), json.dumps({"fine": fine}))


def offer(asked: Offer) -> None:
    """Let the other ranks do their share."""
    if world() > 1:
        _store().set(next(_told), json.dumps(asdict(asked)))


_news = itertools.count()


def tell(value: Any) -> None:
    """Let the other ranks know what the first one found out, as plain values."""
    if world() > 1:
        _store().set(f"clipstill/news/{next(_news)}", json.dumps(value))


def heard() -> Any:
    """What the first rank tells; waits for it. Where it fails, torchrun ends this rank."""
    name = f"clipstill/news/{next(_news)}"
    while not _store().check([name]):
        time.sleep(_LOOK_EVERY_S)
    return json.loads(_store().get(name))


_meetings = itertools.count()


@contextmanager
def together(wanted: bool) -> Iterator[None]:
    """While it lasts, all ranks are one group of ``torch.distributed``, where that is ``wanted``."""
    if not wanted:
        yield
        return
    import torch
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore

    # Numbers travel between processors by gloo, and between GPUs by what is made for them.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store = PrefixStore(f"clipstill/together/{next(_meetings)}", _store())
    distributed.init_process_group(backend, store=store, rank=rank(), world_size=world())
    try:
        yield
    finally:
        distributed.destroy_process_group()


def offers() -> Iterator[Offer]:
    """What the first rank offers to this one, until its run has ended.

    Raises:
        ResourceError: it ended by an error, or is not there any more.
    """
    for name in _messages():
        try:
            while not _store().check([name]):
                time.sleep(_LOOK_EVERY_S)
            message = json.loads(_store().get(name))
        except RuntimeError as error:  # All errors of torch's stores are.
            raise ResourceError(
                f"rank {rank()} cannot reach the first rank any more ({error}). Run the same command again: it goes on "
                f"where it stopped."
            ) from None
        if "fine" in message:
            if not message["fine"]:
                raise ResourceError(f"rank {rank()} ends because the first rank did; its own message says why.")
            return
        yield Offer(**message)


def wait_for_groups(shards: ShardWriter, groups: Sequence[int], on_done: OnDone) -> None:
    """Wait until the other ranks have made theirs. Where one is lost, torchrun ends or restarts all of them."""
    from clipstill.surrogate.shards import shard_name

    waiting = set(groups)
    while waiting:
        # Receipts are long; they are read once there is a new one.
        if any((shards.folder / shard_name(group)).with_suffix(".json").exists() for group in waiting):
            for group in sorted(shards.committed() & waiting):
                waiting.discard(group)
                on_done(group, None)
        if waiting:
            time.sleep(_LOOK_EVERY_S)


def wait_for_manifest(folder: Path, key: str) -> None:
    """Wait until this machine sees what the first rank completed.

    Raises:
        ResourceError: it does not.
    """
    end = time.monotonic() + _SHARED_WITHIN_S
    while time.monotonic() < end:
        with suppress(ArtifactError):
            manifest = read_manifest(folder)
            if manifest is not None and manifest.key == key:
                return
        time.sleep(_LOOK_EVERY_S)
    raise ResourceError(
        f"rank {rank()} on {platform.node()} does not see what the first rank wrote to {folder}. The run folder must "
        f"lie on a disk that all machines share."
    )


def _messages() -> Iterator[str]:
    """The names of what the first rank says in one run, in order."""
    run = next(_runs)
    return (f"clipstill/{run}/{number}" for number in itertools.count())


@functools.cache
def _store() -> Any:
    """The store that torchrun keeps for its ranks; it lasts as long as torchrun does."""
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", rank(), world()))
    return store


# --- Ray --------------------------------------------------------------------------------------------------------------


def check_launcher(launch: LaunchSettings) -> None:
    """Find out before any work starts what would end it: Ray or a storage that is not there.

    Raises:
        ResourceError: Ray or fsspec is not installed, or nobody answers at the address of the cluster.
    """
    if launch.launcher != "ray" or world() > 1:
        return
    if not _ray().is_initialized():
        _knock(launch.address or os.environ.get("RAY_ADDRESS"))
    if launch.storage is not None:
        from clipstill.surrogate.storage import resolve_address

        resolve_address(launch.storage)


def make_by_ray(
    work: SynthesisWork,
    groups: Sequence[int],
    shards: ShardWriter,
    launch: LaunchSettings,
    threads: int,
    on_done: OnDone,
) -> None:
    """Make groups as Ray tasks; what a lost worker or machine was at is made again on another one.

    A Ray that this process uses already is used, and left as it is.

    Args:
        work: of the run.
        groups: numbers of those that are missing.
        shards: where they end up on this machine.
        launch: address, number of tasks and storage.
        threads: CPU threads a task, those of the run: sums depend on them.
        on_done: told of each group that is safe.

    Raises:
        ResourceError: Ray is not installed, its cluster is not there or has no machine for such tasks, a worker cannot
            import clipstill or has another version of it, or workers were lost too often.
        ClipstillError: what a task raised.
    """
    if not groups:
        return
    # Ray tells of lost workers on standard output, which belongs to results.
    with redirect_stdout(sys.stderr):
        _make_by_ray(_ray(), work, groups, shards, launch, threads, on_done)


def _make_by_ray(
    ray: Any,
    work: SynthesisWork,
    groups: Sequence[int],
    shards: ShardWriter,
    launch: LaunchSettings,
    threads: int,
    on_done: OnDone,
) -> None:
    owned = not ray.is_initialized()
    if owned:
        _connect(ray, launch.address)
    running: dict[Any, int] = {}
    try:
        storage = None
        if launch.storage is not None:
            from clipstill.surrogate.storage import ShardStorage

            storage = ShardStorage(launch.storage, work.key)
            # What an earlier driver's tasks left there is not made again.
            found = storage.gather(shards, groups)
            groups = [group for group in groups if group not in found]
            for group in found:
                on_done(group, None)
        place = _Place.of(ray, work.config.device, threads)
        task = ray.remote(num_cpus=place.cpus, num_gpus=place.gpus, max_retries=_RETRIES)(remote_group)
        handle = _put(ray, work)
        waiting = list(groups)
        last = time.monotonic()
        while waiting or running:
            # A cluster may grow and shrink meanwhile.
            most = launch.workers or _QUEUED * place.slots(ray)
            while waiting and len(running) < most:
                group = waiting.pop(0)
                address = None if storage is None else storage.address
                running[task.remote(handle, group, address, threads, _versions())] = group
            done, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_AT_CLUSTER_EVERY_S)
            if not done:
                place.check(ray, time.monotonic() - last)
                continue
            last = time.monotonic()
            group = running.pop(done[0])
            made: RemoteGroup = _result(ray, done[0])
            if storage is None:
                assert made.data is not None
                shards.adopt(group, made.data, made.receipt)
            else:
                _bring(storage, shards, group)
            on_done(group, made.loss)
    finally:
        if owned:
            ray.shutdown()
        else:
            for reference in running:
                with suppress(ray.exceptions.RayError, RuntimeError, ValueError):
                    ray.cancel(reference, force=True)


@dataclass(frozen=True)
class RemoteGroup:
    """What a task tells of the group that it made.

    Attributes:
        data: bytes of the shard; None where they lie in a storage.
        receipt: of the shard; empty where it lies in a storage.
        loss: mean over the images.
    """

    data: bytes | None
    receipt: dict[str, Any]
    loss: float


# Of the last run that this process worked for: tasks of one run share their models.
_worker: tuple[str, Worker] | None = None


def remote_group(
    work: SynthesisWork, group: int, storage: str | None, threads: int, versions: dict[str, str]
) -> RemoteGroup:
    """What a Ray task does: one group, returned or left in a storage.

    Args:
        work: of the run.
        group: its number.
        storage: address; None to return it.
        threads: of the CPU.
        versions: of the driver.

    Raises:
        ResourceError: versions here differ, the device is missing, or the storage cannot be used.
        ClipstillError: the models cannot be loaded, or no image of the group could be made.
    """
    global _worker
    from clipstill.core.device import make_deterministic, pick_device
    from clipstill.core.progress import set_quiet
    from clipstill.surrogate.shards import receipt_of, tar_bytes

    if versions != _versions():
        raise ResourceError(
            f"{platform.node()} has {_listed(_versions())}, but the run began with {_listed(versions)}, which may draw "
            f"other images. Install the same versions on all machines."
        )
    set_quiet(True)
    make_deterministic(threads)
    if _worker is None or _worker[0] != work.key:
        # Ray shows a task no GPU but its own.
        device = "cuda" if work.config.device.startswith("cuda") else work.config.device
        _worker = (work.key, Worker.load(work, pick_device(device)))
    made = _worker[1].make(group)
    data = tar_bytes(made.pixels_NHW3, made.records, made.features_ND)
    receipt = receipt_of(work.key, len(made.records), data, {**made.facts, "worker": worker_name()})
    if storage is None:
        return RemoteGroup(data, receipt, made.loss)
    from clipstill.surrogate.storage import ShardStorage

    ShardStorage(storage, work.key).write(group, data, receipt)
    return RemoteGroup(None, {}, made.loss)


@dataclass(frozen=True)
class _Place:
    """What a task takes of a machine.

    Attributes:
        cpus: of Ray's count.
        gpus: 0 or 1.
    """

    cpus: int
    gpus: int

    @classmethod
    def of(cls, ray: Any, device: str, threads: int) -> _Place:
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
        """Tasks that the cluster holds at once; at least 1."""
        found = 0
        for machine in _machines(ray):
            by_cpu = int(machine.get("CPU", 0)) // self.cpus
            found += min(by_cpu, int(machine.get("GPU", 0)) // self.gpus) if self.gpus else by_cpu
        return max(1, found)

    def check(self, ray: Any, waited_s: float) -> None:
        """Called now and then while nothing comes back.

        Raises:
            ResourceError: no machine could do a task, and none has come for long.
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
    """What each machine of the cluster has in total."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _versions() -> dict[str, str]:
    """What the images depend on beside their settings."""
    import torch

    return {"clipstill": clipstill.__version__, "torch": str(torch.__version__)}


def _listed(versions: dict[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in versions.items())


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ResourceError("Ray is not installed. Run: pip install 'clipstill[ray]'") from None
    return ray


def _knock(address: str | None) -> None:
    """Ask whether somebody listens at an address, if it names one."""
    host, colon, port = (address or "").rpartition("://")[2].split("/")[0].rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", "local": for Ray to understand.
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_WITHIN_S):
            pass
    except (OSError, OverflowError) as error:
        raise ResourceError(
            f"nobody answers at the address of the Ray cluster, {address} ({error}). Check it, or leave --launcher out."
        ) from None


def _connect(ray: Any, address: str | None) -> None:
    named = address or os.environ.get("RAY_ADDRESS")
    _knock(named)
    try:
        # "local" starts one. Left to itself Ray would look for a cluster that `ray start` left a note of, and wait for
        # ever where that one is gone.
        ray.init(
            address=named or "local",
            log_to_driver=False,
            logging_level="error",
            include_dashboard=False if named is None else None,
        )
    except Exception as error:  # It knows many.
        where = f"the Ray cluster at {named}" if named else "a Ray cluster on this machine"
        raise ResourceError(
            f"{where} cannot be used ({error}). Check the address, and RAY_AUTH_TOKEN where the cluster wants a token; "
            f"or leave --launcher out."
        ) from None
    machines = _machines(ray)
    cpus = int(sum(machine.get("CPU", 0) for machine in machines))
    say(f"surrogate: {cpus} CPUs of Ray on {len(machines)} machine{'s' if len(machines) != 1 else ''}")


def _put(ray: Any, work: SynthesisWork) -> Any:
    try:
        return ray.put(work)
    except ImportError as error:  # A driver outside of the cluster leaves it to a process inside.
        raise _not_importable(error) from None


def _result(ray: Any, reference: Any) -> RemoteGroup:
    try:
        made: RemoteGroup = ray.get(reference)
        return made
    except ray.exceptions.RayError as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else None
        if isinstance(cause, ClipstillError):
            raise cause from None
        # Where a task cannot even be unpacked, the kind of the error is lost on its way.
        if isinstance(cause, ImportError) or "ModuleNotFoundError" in str(error) or "failed to import" in str(error):
            raise _not_importable(error if cause is None else cause) from None
        if isinstance(error, ray.exceptions.RayTaskError):
            # Of its own kind, so that an exhausted memory is told as one; what happened over there stands above it.
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


def _bring(storage: ShardStorage, shards: ShardWriter, group: int) -> None:
    """Bring a group that a task has just left in a storage."""
    end = time.monotonic() + _SHARED_WITHIN_S
    while not storage.gather(shards, [group]):
        if time.monotonic() > end:
            raise ResourceError(
                f"a task left group {group} in {storage.address}, but this machine does not find it there. The address "
                f"must lead to one place from all machines."
            )
        time.sleep(_LOOK_EVERY_S)
