"""One source of labels, measured on other data sets: cross-data-set transfer and domain generalisation.

The teacher learns prompts from a few labelled images of all classes of the source. The student sees the unlabelled
training images of each target, so that it is transductive and there is one a target; or those of the source; or
synthetic images alone. With the source's images one student serves all targets, whose classes must be among its own.

Source: Zhou et al., CVPR 2022 (CoCoOp), for the protocols; Li et al., CVPR 2024 (PromptKD), whose student is trained on
the unlabelled images of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.commands.protocol import Measured, Part, Protocol, learned_prompts, shown_photos, with_prompts
from clipstill.core.errors import ConfigError, DataError
from clipstill.core.files import make_folder
from clipstill.core.progress import say
from clipstill.datasets import Dataset
from clipstill.evaluation.transfer import Seen, Transfer

if TYPE_CHECKING:
    from clipstill.core.images import ImageFolder
    from clipstill.workflow.settings import Settings

# Settings of a run on a data set: what is published for some data sets differs.
ConfigOf = Callable[[Dataset], "Settings"]


@dataclass(frozen=True)
class _Pupil:
    """One student of a seed.

    Attributes:
        about: the data set whose classes and settings it has.
        shown: the data set whose training images it sees, unlabelled; None for synthetic images alone.
        targets: what it is measured on.
    """

    about: Dataset
    shown: Dataset | None
    targets: tuple[Dataset, ...]


def transfer(
    config_of: ConfigOf,
    source: Dataset,
    targets: Sequence[Dataset],
    shots: int,
    seeds: Sequence[int],
    out: Path,
    unlabelled: Seen = "target",
    baselines: bool = True,
) -> dict[str, Transfer]:
    """Run and measure; what was measured by an equal call is there already.

    Args:
        config_of: settings by data set; ``prompt_teacher`` of the source's says how the teacher learns.
        source: of the labels.
        targets: what is measured on, by their test images. The source may be one of them.
        shots: labelled images of each class of the source; 0 for none.
        seeds: one run each, or one for each target.
        out: a folder for the runs and what was measured.
        unlabelled: whose training images the student sees.
        baselines: also the teachers without prompts, and CoOp's text prompts.

    Returns:
        Rows by name, each with a column a target.

    Raises:
        ConfigError: two targets of one name.
        DataError: a target has classes that a student of the source does not know.
        ClipstillError: as a run.
    """
    names = [target.name for target in targets]
    if len(set(names)) < len(names):
        raise ConfigError(f"two targets are called '{max(names, key=names.count)}'. Give their folders other names.")
    pupils = _pupils(source, targets, unlabelled)
    make_folder(out)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        labelled = source.few(shots, seed).folder("train") if shots else None
        at_source = config_of(source).model_copy(update={"seed": seed})
        weights = learned_prompts(at_source, labelled, out)
        for pupil in pupils:
            config = with_prompts(config_of(pupil.about).model_copy(update={"seed": seed}), weights)
            say(f"seed {seed}: {source.name} -> {', '.join(target.name for target in pupil.targets)}")
            for name, measured in _rows(config, pupil, labelled, source.name, shots, out, baselines):
                for target, top1 in measured.items():
                    found.setdefault(name, {}).setdefault(target, []).append(top1)
    return {
        name: Transfer(
            {target: tuple(by_target[target]) for target in names},
            unlabelled if name.startswith("student") else "none",
        )
        for name, by_target in found.items()
    }


def _pupils(source: Dataset, targets: Sequence[Dataset], unlabelled: Seen) -> list[_Pupil]:
    if unlabelled == "source":
        for target in targets:
            unknown = [name for name in target.classes if name not in source.classes]
            if unknown:
                raise DataError(
                    f"'{unknown[0]}' is a class of {target.name} and not of {source.name}, so a student of the "
                    f"source's images cannot know it. Show it the target's: --unlabelled target."
                )
        return [_Pupil(source, source, tuple(targets))]
    if unlabelled == "target":
        return [_Pupil(target, target, (target,)) for target in targets]
    # Nothing but the classes tells such students apart.
    by_classes: dict[tuple[str, ...], list[Dataset]] = {}
    for target in targets:
        by_classes.setdefault(target.classes, []).append(target)
    return [_Pupil(group[0], None, tuple(group)) for group in by_classes.values()]


def _rows(
    config: Settings,
    pupil: _Pupil,
    labelled: ImageFolder | None,
    source: str,
    shots: int,
    out: Path,
    baselines: bool,
) -> Iterator[tuple[str, Measured]]:
    """What there is to measure of one student, its teacher and the baselines."""
    classes = pupil.about.classes
    parts = {
        target.name: Part(target.folder("test"), tuple(classes.index(name) for name in target.classes))
        for target in pupil.targets
    }
    config, shown = shown_photos(config, pupil.shown)
    protocol = Protocol(config, classes, parts, out)
    if baselines:
        yield from protocol.baselines(labelled)
    name = f"{'synthetic' if pupil.shown is None else pupil.shown.name}-{shots}-shot-seed-{config.seed}"
    prompts = f"{shots}-shot prompts of {source}"
    yield from protocol.taught(shown, name, prompts, by=tuple(parts), test_images="the test images")
