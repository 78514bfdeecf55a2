"""The synthetic images of a run, one by one, also while others are being made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from clipstill.core.errors import ArtifactError
from clipstill.stages.images import NAME as SURROGATE
from clipstill.surrogate.dataset import ImageRecord, SurrogateSet
from clipstill.text.task import Task
from clipstill.workflow.store import Store


@dataclass(frozen=True)
class SyntheticImage:
    """One image: its number within the run, the place of its picture, and its record."""

    number: int
    shard: Path
    member: str
    record: ImageRecord


def images_of(run: Path, task: Task | None) -> list[SyntheticImage]:
    """All images of the present classes of a run folder, in their order; a class that was drawn again has the last.

    Raises:
        ArtifactError: A shard, or what the folder remembers of its classes, is damaged.
    """
    if task is None:
        return []
    found: dict[str, list[SyntheticImage]] = {name: [] for name in task.names}
    for folder, cohort in Store(run).cohorts(SURROGATE):
        images = _images_in(folder)
        if any(not 0 <= image.record.class_id < len(cohort.task.names) for image in images):
            raise ArtifactError(f"the images in {folder} are of other classes. Run the same command again.")
        for name in cohort.drawn:
            of_name = [image for image in images if cohort.task.names[image.record.class_id] == name]
            if name in found and of_name:
                found[name] = of_name
    ordered = [(class_id, image) for class_id, name in enumerate(task.names) for image in found[name]]
    return [
        replace(image, number=number, record=replace(image.record, class_id=class_id))
        for number, (class_id, image) in enumerate(ordered)
    ]


def _images_in(folder: Path) -> list[SyntheticImage]:
    """All images of a surrogate set that are safe on the disk, complete or not."""
    # A shard counts once its receipt stands beside it.
    receipts = sorted(folder.glob("shard-*.json"))
    shards = [shard for receipt in receipts if (shard := receipt.with_suffix(".tar")).is_file()]
    try:
        return _read(tuple((shard, shard.stat().st_mtime_ns) for shard in shards))
    except OSError as error:
        raise ArtifactError(f"the images in {folder} cannot be read ({error}). Run the same command again.") from None


# A page asks for the list with every picture of it.
@lru_cache(maxsize=4)
def _read(shards: tuple[tuple[Path, int], ...]) -> list[SyntheticImage]:
    surrogate = SurrogateSet.read([shard for shard, _ in shards])
    return [
        SyntheticImage(number, shard, member, record)
        for number, ((shard, member), record) in enumerate(zip(surrogate.members, surrogate.records, strict=True))
    ]


def picture_bytes(image: SyntheticImage) -> bytes:
    """The PNG file as it is stored, with the mark inside that says that it is synthetic.

    Raises:
        ArtifactError: The shard is damaged.
    """
    [data] = SurrogateSet([(image.shard, image.member)], [image.record]).decoded(".png", bytes)
    return data
