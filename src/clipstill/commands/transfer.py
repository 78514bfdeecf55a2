"""Labels of one source, measured on other data sets: cross-data-set transfer and domain generalisation.

The teacher learns prompts from a few labelled images of all classes of the source. The student sees the unlabelled
training images of each target, so that it is transductive and there is one a target; or those of the source; or
synthetic images alone. With the source's images one student serves all targets, whose classes must be among its own.

Source: Zhou et al., CVPR 2022 (CoCoOp), for the protocols; Li et al., CVPR 2024 (PromptKD), whose student is trained on
the unlabelled images of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from clipstill.commands.protocol import (
    Accuracies,
    Part,
    Protocol,
    ProtocolRequest,
    Training,
    learned_prompts,
    with_photos,
    with_prompts,
)
from clipstill.core.errors import ConfigError, DataError
from clipstill.core.files import make_folder
from clipstill.core.images import ImageFolder
from clipstill.core.progress import say
from clipstill.datasets import Dataset
from clipstill.evaluation.protocols import Seen, Transfer
from clipstill.workflow.settings import Settings

# Settings of a run on a data set: what is published for some data sets differs.
SettingsOf = Callable[[Dataset], Settings]


@dataclass(frozen=True)
class _StudentPlan:
    """One student of a seed."""

    about: Dataset  # Data set whose classes and settings it has.
    seen: Dataset | None  # Data set whose training images it sees without labels; None for synthetic images alone.
    targets: tuple[Dataset, ...]  # Data sets that it is measured on.


def transfer(
    settings_of: SettingsOf,
    source: Dataset,
    targets: Sequence[Dataset],
    request: ProtocolRequest,
    *,
    unlabelled: Seen = "target",
) -> dict[str, Transfer]:
    """Run and measure, a row by name with a column a target; what an equal call measured is not measured again.

    Args:
        settings_of: Settings by data set; ``prompt_teacher`` of the source's says how the teacher learns.
        source: Data set of the labels; the shots are of each of its classes.
        targets: Data sets whose test images are measured on. The source may be one of them.
        request: Shots, seeds, folder and baselines.
        unlabelled: Whose training images the student sees.

    Raises:
        ConfigError: Two targets have one name.
        DataError: A target has classes that a student of the source does not know.
    """
    names = [target.name for target in targets]
    if len(set(names)) < len(names):
        raise ConfigError(f"two targets are called '{max(names, key=names.count)}'. Give their folders other names.")
    plans = _student_plans(source, targets, unlabelled)
    make_folder(request.out)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in request.seeds:
        labelled = source.few(request.shots, seed).folder("train") if request.shots else None
        for plan in plans:
            say(f"seed {seed}: {source.name} -> {', '.join(target.name for target in plan.targets)}")
            prompts = learned_prompts(settings_of(source).changed(seed=seed), labelled, request.out)
            settings = with_prompts(settings_of(plan.about).changed(seed=seed), prompts)
            prompts_name = f"{request.shots}-shot prompts of {source.name}"
            for name, accuracies in _rows(settings, plan, labelled, request=request, prompts=prompts_name):
                for target_name, top1 in accuracies.items():
                    found.setdefault(name, {}).setdefault(target_name, []).append(top1)
    return {
        name: Transfer(
            {target: tuple(by_target[target]) for target in names}, unlabelled if name.startswith("student") else "none"
        )
        for name, by_target in found.items()
    }


def _student_plans(source: Dataset, targets: Sequence[Dataset], unlabelled: Seen) -> list[_StudentPlan]:
    if unlabelled == "source":
        for target in targets:
            unknown = [name for name in target.classes if name not in source.classes]
            if unknown:
                raise DataError(
                    f"'{unknown[0]}' is a class of {target.name} and not of {source.name}, so a student of the "
                    f"source's images cannot know it. Show it the target's: --unlabelled target."
                )
        return [_StudentPlan(source, source, tuple(targets))]
    if unlabelled == "target":
        return [_StudentPlan(target, target, (target,)) for target in targets]
    # Nothing but the classes tells such students apart.
    by_classes: dict[tuple[str, ...], list[Dataset]] = {}
    for target in targets:
        by_classes.setdefault(target.classes, []).append(target)
    return [_StudentPlan(group[0], None, tuple(group)) for group in by_classes.values()]


def _rows(
    settings: Settings, plan: _StudentPlan, labelled: ImageFolder | None, *, request: ProtocolRequest, prompts: str
) -> Iterator[tuple[str, Accuracies]]:
    """What there is to measure of one student, its teacher and the baselines."""
    classes = plan.about.classes
    parts = {
        target.name: Part(target.folder("test"), tuple(classes.index(name) for name in target.classes))
        for target in plan.targets
    }
    settings, photos = with_photos(settings, plan.seen)
    protocol = Protocol(settings, classes, parts, request.out)
    if request.baselines:
        yield from protocol.baselines(labelled)
    seen = "synthetic" if plan.seen is None else plan.seen.name
    yield from protocol.trained(
        Training(
            photos=photos,
            name=f"{seen}-{request.shots}-shot-seed-{settings.seed}",
            prompts=prompts,
            chosen_by=tuple(parts),
            test_images="the test images",
        )
    )
