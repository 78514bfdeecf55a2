"""Labels of one source, measured on other data sets: cross-data-set transfer and domain generalisation.

The teacher learns prompts from a few labelled images of all classes of the source, or has prompts that were learned
elsewhere, which needs no image of a source. The student sees the unlabelled
training images of each target, so that it is transductive and there is one a target; or those of the source; or
synthetic images alone. With the source's images one student serves all targets, whose classes must be among its own.

Source: Zhou et al., CVPR 2022 (CoCoOp), for the protocols; Li et al., CVPR 2024 (PromptKD), whose student is trained on
the unlabelled images of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from clipstill.commands.protocol import (
    Accuracies,
    Part,
    Protocol,
    ProtocolRequest,
    prompts_of,
    with_photos,
    with_prompts,
)
from clipstill.core.errors import ConfigError, DataError
from clipstill.core.files import make_folder
from clipstill.core.image_folder import ImageFolder
from clipstill.core.progress import say
from clipstill.datasets import Dataset
from clipstill.datasets.split import refuse_shown
from clipstill.evaluation.protocols import Seen, Transfer
from clipstill.workflow.settings import Settings

# Settings of a run on a data set: what is published for some data sets differs.
SettingsOf = Callable[[Dataset], Settings]


def transfer(
    settings_of: SettingsOf,
    source: Dataset | None,
    targets: Sequence[Dataset],
    request: ProtocolRequest,
    *,
    unlabelled: Seen = "target",
) -> dict[str, Transfer]:
    """Run and measure, a row by name with a column a target; what an equal call measured is not measured again.

    The source's settings say by ``prompt_teacher`` how the teacher learns; without a source its prompts are given, or
    it has none. The source may be one of the targets. The student sees the training images that ``unlabelled`` says;
    none for synthetic images alone.

    Raises:
        ConfigError: Two targets have one name, or a source is needed and there is none.
        DataError: A target has classes that a student of the source does not know, or the source's labelled images.
    """
    names = [target.name for target in targets]
    if len(set(names)) < len(names):
        raise ConfigError(f"two targets are called '{max(names, key=names.count)}'. Give their folders other names.")
    if source is None:
        _check_without_source(settings_of(targets[0]), request, unlabelled)
    students = _targets_by_student(source, targets, unlabelled)
    if source is not None and request.shots:
        refuse_shown(source, targets)
    make_folder(request.out)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in request.seeds:
        labelled = source.few(request.shots, seed).folder("train") if source is not None and request.shots else None
        for shown, measured in students:
            learner, settings = (settings_of(each).changed(seed=seed) for each in (source or shown, shown))
            prompts = prompts_of(learner, request.shots, source.name if source else "")
            say(f"seed {seed}: {prompts} -> {', '.join(target.name for target in measured)}")
            if request.as_examples:
                settings = settings.changed(
                    **{"examples.images": source and source.root, "prompt_teacher.method": "none"}
                )
            else:
                settings = with_prompts(settings, learner, labelled, request.out)
            for name, accuracies in _rows(
                settings, shown, measured, labelled, request=request, prompts=prompts, has_photos=unlabelled != "none"
            ):
                for target_name, top1 in accuracies.items():
                    found.setdefault(name, {}).setdefault(target_name, []).append(top1)
    return {
        name: Transfer(
            {target: tuple(by_target[target]) for target in names}, unlabelled if name.startswith("student") else "none"
        )
        for name, by_target in found.items()
    }


def _check_without_source(settings: Settings, request: ProtocolRequest, unlabelled: Seen) -> None:
    if unlabelled == "source":
        raise ConfigError("there is no source whose images the student could see. Name one: --source DATA.")
    if request.shots and settings.prompt_teacher.weights is None:
        raise ConfigError(
            f"there is no source whose {request.shots} images of each class the teacher could learn from. Name one "
            "(--source DATA), or learned prompts (--set prompt_teacher.weights=FILE), or leave the teacher as it is "
            "(--shots 0)."
        )


def _targets_by_student(
    source: Dataset | None, targets: Sequence[Dataset], unlabelled: Seen
) -> list[tuple[Dataset, Sequence[Dataset]]]:
    """The data set whose classes a student has, and its training images if any, and the targets it is measured on."""
    if unlabelled == "target":
        return [(target, [target]) for target in targets]
    if unlabelled == "none":
        # Nothing but the classes tells such students apart.
        by_classes: dict[tuple[str, ...], list[Dataset]] = {}
        for target in targets:
            by_classes.setdefault(target.classes, []).append(target)
        return [(group[0], group) for group in by_classes.values()]
    assert source is not None
    for target in targets:
        unknown = [name for name in target.classes if name not in source.classes]
        if unknown:
            raise DataError(
                f"'{unknown[0]}' is a class of {target.name} and not of {source.name}, so a student of the "
                f"source's images cannot know it. Show it the target's: --unlabelled target."
            )
    return [(source, targets)]


def _rows(
    settings: Settings,
    shown: Dataset,
    targets: Sequence[Dataset],
    labelled: ImageFolder | None,
    *,
    request: ProtocolRequest,
    prompts: str,
    has_photos: bool,
) -> Iterator[tuple[str, Accuracies]]:
    """What there is to measure of one student, its teacher and the baselines."""
    parts = {
        target.name: Part(target.folder("test"), tuple(shown.classes.index(name) for name in target.classes))
        for target in targets
    }
    settings, photos = with_photos(settings, shown if has_photos else None, request.photos_per_class)
    protocol = Protocol(settings, shown.classes, parts, request.out)
    examples = labelled if request.as_examples else None
    if request.baselines:
        yield from protocol.baselines(None if examples else labelled)
    name = f"{shown.name if has_photos else 'synthetic'}-{prompts.partition(' ')[0]}-seed-{settings.seed}"
    chosen_by = tuple(parts)
    yield from protocol.trained(
        photos, examples, name=name, prompts=prompts, chosen_by=chosen_by, test_images="the test images"
    )
