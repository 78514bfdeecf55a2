"""The ranks of torchrun: the first one leads a run, and the others help with the stages that it offers.

The ranks divide the groups of a surrogate set, and train together where all weights of a student train. Launchers that
only set ``RANK`` and ``WORLD_SIZE`` are not enough, because nothing ends all processes when one is lost: each works
alone there. On a SLURM cluster, use ``srun torchrun``.
"""

from __future__ import annotations

import functools
import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from clipstill.core.cores import usable_cores
from clipstill.core.errors import ArtifactError, ResourceError
from clipstill.core.files import read_manifest
from clipstill.distributed.work import OnDone
from clipstill.surrogate.shards import ShardWriter, shard_name

_POLL_EVERY_S = 0.5
# A file of another machine that is not visible after this long is on another disk.
_VISIBLE_WITHIN_S = 60.0
# Longer than any stage takes.
_LONGEST_WAIT = timedelta(days=100)


def rank() -> int:
    """Number of this process among those that torchrun started; 0 without torchrun."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def world() -> int:
    """Number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def threads_of_this_process() -> int:
    """Cores that this process may use; the ranks of one machine share its cores equally."""
    return max(1, usable_cores() // (int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world() > 1 else 1))


def local_device(name: str) -> str:
    """The device of this rank: for ``auto`` and ``cuda``, the ranks of one machine take its GPUs in turns."""
    if world() == 1 or name not in ("auto", "cuda"):
        return name
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % count}" if count else name


def work_alone() -> None:
    """Let this rank be a process of its own from now on, with other work than the other ranks."""
    os.environ.pop("TORCHELASTIC_RUN_ID", None)


def share(groups: Sequence[int]) -> list[int]:
    """The groups that this rank makes: every n-th, so that the generators are spread over all ranks."""
    return [group for group in groups if group % world() == rank()]


@dataclass(frozen=True)
class Offer:
    """A stage that the first rank asks the others to help with."""

    stage: str
    key: str
    groups: list[int]  # Numbers of all missing groups in a synthesis; empty where all ranks do the same.
    threads: int  # CPU threads of the run.
    cohorts: Any = None  # Cohorts in use, which the other ranks take over.


# Number of the run in this process; all ranks do the same runs.
_runs = itertools.count()


@contextmanager
def rank_group() -> Iterator[None]:
    """Join all ranks in one ``torch.distributed`` group for one run; without torchrun this does nothing.

    When the first rank leaves without an error, ``offers`` ends on the others. When a rank leaves by an error, the
    ranks that wait for it get a ResourceError.
    """
    if world() == 1:
        yield
        return
    import torch
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore

    # Ranks that torchrun restarts find its store as it was, with the addresses of those that are gone.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(
        backend,
        store=PrefixStore(f"clipstill/{attempt}/{next(_runs)}", _store()),
        rank=rank(),
        world_size=world(),
        timeout=_LONGEST_WAIT,
    )
    try:
        yield
        if rank() == 0:
            broadcast(None)
    finally:
        distributed.destroy_process_group()


@functools.cache
def _store() -> Any:
    """The key-value store that torchrun keeps for its ranks."""
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", rank(), world()))
    store.set_timeout(_LONGEST_WAIT)
    return store


def broadcast(value: Any = None) -> Any:
    """Return the first rank's value on every rank; the others wait for it.

    Raises:
        ResourceError: Another rank has ended.
    """
    if world() == 1:
        return value
    from torch import distributed

    values = [value]
    try:
        distributed.broadcast_object_list(values, src=0)
    except RuntimeError as error:
        raise ResourceError(
            f"rank {rank()} ends because another rank did ({error}); that rank's own message says why. Run the same "
            f"command again: it goes on where it stopped."
        ) from None
    return values[0]


def offers() -> Iterator[Offer]:
    """What the first rank offers to this rank, until its run has ended."""
    while (offer := broadcast()) is not None:
        yield offer


def wait_for_groups(shards: ShardWriter, groups: Sequence[int], on_done: OnDone) -> None:
    """Wait until the other ranks have made these groups; when a rank is lost, torchrun ends or restarts all."""
    waiting = set(groups)
    while waiting:
        # Receipts are long, so read them only when there is a new one.
        if any((shards.folder / shard_name(group)).with_suffix(".json").exists() for group in waiting):
            for group in sorted(shards.committed() & waiting):
                waiting.discard(group)
                on_done(group, None)
        if waiting:
            time.sleep(_POLL_EVERY_S)


def wait_for_manifest(folder: Path, key: str) -> None:
    """Wait until this machine sees a stage folder that the first rank completed.

    Raises:
        ResourceError: It does not appear within a minute.
    """

    def is_visible() -> bool:
        with suppress(ArtifactError):
            manifest = read_manifest(folder)
            return manifest is not None and manifest.key == key
        return False

    wait_until_visible(
        is_visible,
        f"rank {rank()} on {platform.node()} does not see what the first rank wrote to {folder}. The run folder must "
        f"lie on a disk that all machines share.",
    )


def wait_until_visible(is_visible: Callable[[], object], problem: str) -> None:
    """Wait for files that another machine wrote; after a minute, raise the problem as a ResourceError."""
    end = time.monotonic() + _VISIBLE_WITHIN_S
    while not is_visible():
        if time.monotonic() > end:
            raise ResourceError(problem)
        time.sleep(_POLL_EVERY_S)
