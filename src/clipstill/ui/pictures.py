"""The synthetic images of a run, one by one, also while further ones are at work."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from clipstill.core.errors import ArtifactError
from clipstill.surrogate.dataset import ImageRecord, SurrogateSet
from clipstill.text.task import Task
from clipstill.workflow.cohorts import stage_of
from clipstill.workflow.growth import read_ledger
from clipstill.workflow.keys import SURROGATE
from clipstill.workflow.store import STAGES_FOLDER


@dataclass(frozen=True)
class SyntheticImage:
    """One image: its number within the run, where its picture lies, and what is known of it."""

    number: int
    shard: Path
    member: str
    record: ImageRecord

    @property
    def version(self) -> int:
        """Changes where the picture behind the number may have changed."""
        return self.shard.stat().st_mtime_ns


def images_of(run: Path, task: Task | None) -> list[SyntheticImage]:
    """All images of the present classes of a run, numbered as they are; a class that was drawn again has the last.

    Args:
        run: the folder.
        task: the present classes; None where there are none yet.

    Raises:
        ArtifactError: a shard, or what the folder remembers of its classes, is damaged.
    """
    if task is None:
        return []
    found: dict[str, list[SyntheticImage]] = {name: [] for name in task.names}
    for cohort in read_ledger(run).images:
        made = images_in(run / STAGES_FOLDER / stage_of(SURROGATE, cohort))
        for name in cohort.drawn:
            of_name = [image for image in made if cohort.task.names[image.record.class_id] == name]
            if name in found and of_name:
                found[name] = of_name
    ordered = [
        replace(image, record=replace(image.record, class_id=class_id))
        for class_id, name in enumerate(task.names)
        for image in found[name]
    ]
    return [replace(image, number=number) for number, image in enumerate(ordered)]


def images_in(folder: Path) -> list[SyntheticImage]:
    """All images of a surrogate set that are safe on the disk, in the order of their groups.

    Args:
        folder: of the set, complete or not; an absent folder holds none.

    Raises:
        ArtifactError: a shard is damaged.
    """
    # A shard counts once its receipt stands beside it.
    shards = [
        shard for receipt in sorted(folder.glob("shard-*.json")) if (shard := receipt.with_suffix(".tar")).is_file()
    ]
    try:
        return _read(tuple((shard, shard.stat().st_mtime_ns) for shard in shards))
    except OSError as error:
        raise ArtifactError(f"the images in {folder} cannot be read ({error}). Run the same command again.") from None


# A page asks for the list with every picture of it.
@lru_cache(maxsize=4)
def _read(shards: tuple[tuple[Path, int], ...]) -> list[SyntheticImage]:
    made = SurrogateSet.read([shard for shard, _ in shards])
    return [
        SyntheticImage(number, shard, member, record)
        for number, ((shard, member), record) in enumerate(zip(made.members, made.records, strict=True))
    ]


def picture_bytes(image: SyntheticImage) -> bytes:
    """The PNG file as it is stored, with the mark inside that says that it is synthetic.

    Raises:
        ArtifactError: the shard is damaged.
    """
    try:
        with tarfile.open(image.shard, "r:") as tar:
            member = tar.extractfile(image.member)
            if member is not None:
                return member.read()
    except (OSError, KeyError, tarfile.TarError):
        pass
    raise ArtifactError(f"{image.member} of {image.shard} cannot be read. Run the same command again.")
