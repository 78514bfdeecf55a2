"""Who makes the groups of a surrogate set: this process, the ranks of torchrun, or tasks on a Ray cluster.

A group's images follow from its seeds alone, and a committed group is never made again. So nobody coordinates: ranks
take every n-th group, tasks take any, what a lost worker left undone another one makes, and the same set comes out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.device import usable_cores
from clipstill.core.errors import ClipstillError, ResourceError
from clipstill.core.files import read_json, read_manifest
from clipstill.core.progress import say
from clipstill.pipeline.run_folder import MARKER, STAGE_KEYS, STAGES_FOLDER
from clipstill.pipeline.synthesis_work import MadeGroup, SynthesisWork, Worker

if TYPE_CHECKING:
    from clipstill.pipeline.config import LaunchSection
    from clipstill.surrogate.shards import ShardWriter

# How often a rank looks what the others have done.
_LOOK_EVERY_S = 0.5
# Groups that wait in Ray's queue for each that is at work: enough that no worker waits for the driver.
_QUEUED = 2

# Told of each group that is safe, and of the mean loss of its images.
OnDone = Callable[[int, float], None]


def rank() -> int:
    """Number of this process among those that torchrun started; 0 without it."""
    return int(os.environ.get("RANK", "0")) if world() > 1 else 0


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


def wait_for_groups(shards: ShardWriter, groups: Sequence[int], on_done: OnDone) -> None:
    """Wait until the other ranks have made theirs. Where one is lost, torchrun ends or restarts all of them."""
    waiting = set(groups)
    while waiting:
        for group in sorted(shards.committed() & waiting):
            waiting.discard(group)
            on_done(group, float("nan"))
        if waiting:
            time.sleep(_LOOK_EVERY_S)


def wait_for_stage(out: Path, stage: str, key: str) -> int:
    """Wait until rank 0 has made a stage ready for work, and all before it.

    Returns:
        The number of threads that the run works with.
    """
    keys, marker = out / STAGES_FOLDER / STAGE_KEYS, out / MARKER
    while True:
        if marker.is_file() and keys.is_file() and read_json(keys).get(stage) == key:
            return int(read_json(marker)["threads"])
        time.sleep(_LOOK_EVERY_S)


def wait_for_manifest(folder: Path, key: str) -> None:
    """Wait until rank 0 has completed a folder."""
    while True:
        manifest = read_manifest(folder)
        if manifest is not None and manifest.key == key:
            return
        time.sleep(_LOOK_EVERY_S)


def make_by_ray(
    work: SynthesisWork,
    groups: Sequence[int],
    shards: ShardWriter,
    launch: LaunchSection,
    threads: int,
    on_done: OnDone,
) -> None:
    """Make groups as Ray tasks; what a lost worker or machine was at is made again on another one.

    Args:
        work: of the run.
        groups: numbers of those that are missing.
        shards: where they end up on this machine.
        launch: address, number of tasks and storage.
        threads: CPU threads a task, those of the run: sums depend on them.
        on_done: told of each group that is safe.

    Raises:
        ResourceError: Ray is not installed, its cluster is not there, or workers were lost too often.
        ClipstillError: what a task raised.
    """
    ray = _ray()
    owned = not ray.is_initialized()
    if owned:
        _connect(ray, launch.address)
    try:
        storage = None
        if launch.storage is not None:
            from clipstill.surrogate.storage import ShardStorage

            storage = ShardStorage(launch.storage, work.key)
            # What an earlier driver's tasks left there is not made again.
            found = storage.gather(shards, groups)
            groups = [group for group in groups if group not in found]
            for group in found:
                on_done(group, float("nan"))
        handle = ray.put(work)
        gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
        task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=launch.retries)(remote_group)
        slots = launch.workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        waiting = list(groups)
        running: dict[Any, int] = {}
        while waiting or running:
            while waiting and len(running) < (slots if launch.workers else slots * _QUEUED):
                group = waiting.pop(0)
                running[task.remote(handle, group, launch.storage, threads)] = group
            done, _ = ray.wait(list(running), num_returns=1)
            group = running.pop(done[0])
            made = _result(ray, done[0])
            if storage is not None:
                storage.gather(shards, [group])
                on_done(group, float(made))
            else:
                shards.write_group(group, made.images_NHW3, made.records, made.facts)
                on_done(group, made.loss)
    finally:
        if owned:
            ray.shutdown()


# Of the last run that this process worked for: tasks of one run share their models.
_worker: tuple[str, Worker] | None = None


def remote_group(work: SynthesisWork, group: int, storage: str | None, threads: int) -> MadeGroup | float:
    """What a Ray task does: one group, returned, or left in a storage and told of by its mean loss."""
    global _worker
    from clipstill.core.device import make_deterministic, pick_device
    from clipstill.core.progress import set_quiet

    set_quiet(True)
    make_deterministic(threads)
    if _worker is None or _worker[0] != work.key:
        _worker = (work.key, Worker.load(work, pick_device(work.config.device)))
    made = _worker[1].make(group)
    if storage is None:
        return made
    from clipstill.surrogate.storage import ShardStorage

    ShardStorage(storage, work.key).write(group, made.images_NHW3, made.records, made.facts)
    return made.loss


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ResourceError("Ray is not installed. Run: pip install 'clipstill[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
        raise ResourceError(f"{where} cannot be used ({error}). Check the address, or leave --launcher out.") from None
    say(f"surrogate: {int(ray.cluster_resources().get('CPU', 0))} CPUs on {len(ray.nodes())} machines of Ray")


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ClipstillError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise ResourceError(
            f"a Ray task was lost and could not be made again ({type(error).__name__}). Run the same command again: it "
            f"goes on where it stopped."
        ) from error
