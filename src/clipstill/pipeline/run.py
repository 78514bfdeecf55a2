"""The main job: class names in, a measured and exported classifier out.

Stages whose key is unchanged are skipped; a stage that was stopped goes on where it was. The same call after a kill
gives the same student, bit for bit on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from clipstill.core.device import make_deterministic
from clipstill.core.errors import ArtifactError
from clipstill.core.files import commit_manifest, read_json, read_manifest, verify_files, write_json, write_text
from clipstill.core.images import ImageFolder
from clipstill.core.progress import say, set_quiet, span
from clipstill.core.protocols import Provenance
from clipstill.pipeline import launch, stages
from clipstill.pipeline.calibrating import make_calibration
from clipstill.pipeline.config import RunConfig
from clipstill.pipeline.keys import (
    BUNDLE,
    CALIBRATION,
    CLASS_VECTORS,
    EVALUATION,
    NEAR_MISSES,
    PROMPTS,
    REPORT,
    STUDENT,
    SURROGATE,
    TEACHER_PROMPTS,
    stage_keys,
    styles_of,
    templates_of,
)
from clipstill.pipeline.near_misses import check_near_misses, make_near_misses
from clipstill.pipeline.photos import examples_of, unlabelled_of
from clipstill.pipeline.report import REPORT_FILE, make_report
from clipstill.pipeline.run_folder import STAGES_FOLDER, RunFolder, read_events
from clipstill.pipeline.workbench import CALIBRATION_FILE, Workbench
from clipstill.report.licences import MEANINGS, most_restrictive, warning
from clipstill.text.task import Task

if TYPE_CHECKING:
    from clipstill.distillation.trainer import Watch

CONFIG_FILE = "config.yaml"
TASK_FILE = "task.json"
BUNDLE_FOLDER = "bundle"

_IN_STAGES: dict[str, Callable[[Workbench, Path], None]] = {
    TEACHER_PROMPTS: stages.make_teacher_prompts,
    CLASS_VECTORS: stages.make_class_vectors,
    PROMPTS: stages.make_prompts,
    SURROGATE: stages.make_surrogate,
    STUDENT: stages.make_student,
    NEAR_MISSES: make_near_misses,
    CALIBRATION: make_calibration,
    EVALUATION: stages.make_evaluation,
}


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Attributes:
        out: the run folder.
        bundle: the exported folder.
        report: the HTML report.
        classes: the class names.
        evaluation: teacher and student on real photos (``n``, ``classes``, ``teacher_top1``, ``student_top1``,
            ``chance`` and more); None where no photos were given.
        calibration: what is known of the scores without a photo: ``expected_top1``, ``temperature``, ``refusal`` and
            more.
        parameters: of the student.
        onnx_bytes: size of the exported model.
        latency_ms: median for one picture on one core.
        licence: the family of the most restrictive licence found.
        licence_warning: what it asks, where it forbids products or nothing is known; else None.
        seconds: of work a stage, those of earlier calls included.
        skipped: stages that were there already.
        up_to_date: all were; there was nothing to do.
    """

    out: Path
    bundle: Path
    report: Path
    classes: tuple[str, ...]
    evaluation: dict[str, Any] | None
    calibration: dict[str, Any]
    parameters: int
    onnx_bytes: int
    latency_ms: float
    licence: str
    licence_warning: str | None
    seconds: dict[str, float]
    skipped: tuple[str, ...]
    up_to_date: bool

    def to_json(self) -> dict[str, Any]:
        """The same as plain values, the main figures of the evaluation at the top."""
        values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        del values["evaluation"]
        evaluation = self.evaluation or {}
        measured = {name: evaluation.get(name) for name in ("n", "teacher_top1", "student_top1", "chance")}
        return {
            **values,
            "classes": list(self.classes),
            **measured,
            "skipped": list(self.skipped),
        }


@dataclass(frozen=True)
class Photos:
    """The real photos of a run, where they are not folders of the settings.

    Attributes:
        measured: labelled, to measure on.
        examples: labelled, to learn from.
        unlabelled: to learn from.
    """

    measured: ImageFolder | None
    examples: ImageFolder | None
    unlabelled: ImageFolder | None


def run(
    config: RunConfig, task: Task, out: Path, photos: Photos | None = None, watch: Watch | None = None
) -> RunResult:
    """Do, or finish, or find done, the whole job in a folder.

    Args:
        config: all settings.
        task: at least two classes.
        out: an absent or empty folder, or one of an earlier run; its other stages are kept.
        photos: lists of files, instead of the folders that the settings name.
        watch: is shown the student's weights while it is taught, see ``clipstill.distillation.trainer.distil``.

    Raises:
        UnknownNameError: no such teacher, generator, student or prompt strategy.
        ConfigError: a setting cannot be used.
        DataError: a folder of photos or examples is missing, empty, or fits none of the classes.
        ArtifactError: ``out`` holds something else.
        ResourceError: the disk is full, another process works in ``out``, or the device is missing.
        ExportError: the exported model does not behave as the student.
    """
    keys, skipped = _brought_to(REPORT, config, task, out, photos, watch)
    result = _result(out, task, keys, skipped)
    if result.up_to_date and launch.rank() == 0:
        say(f"nothing to do: {out} is up to date")
    return result


def run_until_student(config: RunConfig, task: Task, out: Path, photos: Photos, watch: Watch | None = None) -> None:
    """As ``run``, up to the student itself: what is measured by a protocol needs no calibration, bundle and report.

    Raises:
        ClipstillError: as ``run``.
    """
    _brought_to(STUDENT, config, task, out, photos, watch)


def _brought_to(
    last: str, config: RunConfig, task: Task, out: Path, photos: Photos | None, watch: Watch | None
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Bring the stages up to ``last`` up to date: keys of all stages, and those of them that were done before."""
    config.check_together()
    if photos is None:
        measured = None if config.evaluation.images is None else ImageFolder.open(config.evaluation.images, task.names)
        photos = Photos(measured, examples_of(config, task), unlabelled_of(config))
    keys = stage_keys(config, task, photos.measured, photos.examples, photos.unlabelled)
    wanted = list(keys)[: list(keys).index(last) + 1]
    if not _looks_done(out, {stage: keys[stage] for stage in wanted}):
        # Before the folder is made or touched. A run that is done needs no models, and so no seconds to load torch.
        check_names(config)
        check_near_misses(config, task)

    def bench_in(folder: RunFolder) -> Workbench:
        return Workbench(config, task, folder, keys, photos.measured, photos.examples, photos.unlabelled, watch)

    if launch.rank() > 0:
        _assist(bench_in(RunFolder.of_another(out)), wanted)
        return keys, ()
    with launch.leading(), RunFolder(out, config.threads or launch.threads_of_this_process()) as folder:
        bench = bench_in(folder)
        write_text(
            out / CONFIG_FILE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        )
        write_json(out / TASK_FILE, task.to_json())
        folder.event("start", keys=keys)
        skipped = tuple(stage for stage in wanted if not _do(bench, stage))
        folder.event("end", skipped=skipped)
    return keys, skipped


def _assist(bench: Workbench, wanted: list[str]) -> None:
    """Do this rank's share of what ranks share, and wait for what the first rank makes of it."""
    set_quiet(True)  # The first rank speaks for all.
    for offer in launch.offers():
        stages.assist(bench, offer)
    for stage in wanted:
        launch.wait_for_manifest(_place(bench.run.path, stage), bench.keys[stage])


def check_names(config: RunConfig) -> None:
    """Resolve every part before any work starts, so that a typing mistake costs seconds.

    Raises:
        UnknownNameError: with the closest name.
        ConfigError: the device, styles or templates cannot be used.
        ResourceError: the device, Ray or the storage of a Ray cluster is not there.
    """
    from clipstill.core.device import pick_device
    from clipstill.generators import resolve_generators
    from clipstill.pipeline.new_student import check_student_name
    from clipstill.teachers import resolve_teachers
    from clipstill.text import prompt_strategies

    resolve_teachers(config.teacher.name)
    resolve_generators(config.generator.name)
    check_student_name(config.student)
    prompt_strategies.resolve(config.prompts.strategy)
    pick_device(config.device)
    launch.check_launcher(config.launch)
    styles_of(config)
    templates_of(config, suited="plain")  # Any: the teacher, which knows what suits it, is not loaded yet.


def _looks_done(out: Path, keys: dict[str, str]) -> bool:
    """Whether every stage has a manifest of its key; the files behind them are checked later."""
    try:
        manifests = {stage: read_manifest(_place(out, stage)) for stage in keys}
    except ArtifactError:
        return False
    return all(manifest is not None and manifest.key == keys[stage] for stage, manifest in manifests.items())


def _do(bench: Workbench, stage: str) -> bool:
    """Bring one stage up to date; False if it was."""
    folder, key = _place(bench.run.path, stage), bench.keys[stage]
    if stage in _IN_STAGES and bench.run.prepare_stage(stage, key):
        say(f"{stage}: the settings changed; what was there is kept in {bench.run.path / STAGES_FOLDER / 'old'}")
    if _is_complete(bench, stage, folder, key):
        say(f"{stage}: done already, skipped")
        bench.run.event("skipped", stage=stage, key=key)
        return False
    say(f"{stage}: at work")
    make_deterministic(bench.run.threads)
    start = time.monotonic()
    bench.run.event("stage", stage=stage, key=key)
    if stage == BUNDLE:
        stages.make_bundle(bench, folder)
    elif stage == REPORT:
        make_report(bench, _seconds(bench.run.path, bench.keys))
        commit_manifest(folder, key, [REPORT_FILE])
    else:
        _IN_STAGES[stage](bench, folder)
    seconds = time.monotonic() - start
    bench.run.event("done", stage=stage, key=key, seconds=round(seconds, 3))
    say(f"{stage}: done in {span(seconds)}")
    return True


def _place(out: Path, stage: str) -> Path:
    if stage == BUNDLE:
        return out / BUNDLE_FOLDER
    return out if stage == REPORT else out / STAGES_FOLDER / stage


def _is_complete(bench: Workbench, stage: str, folder: Path, key: str) -> bool:
    try:
        manifest = read_manifest(folder)
        if manifest is None or manifest.key != key:
            return False
        verify_files(folder, manifest)
        return True
    except ArtifactError as error:
        say(f"{stage}: {error}")
        if stage in _IN_STAGES:
            bench.run.set_aside(stage)
            bench.run.prepare_stage(stage, key)
        return False


def _seconds(out: Path, keys: Mapping[str, str]) -> dict[str, float]:
    """Seconds of work a stage: from its manifest where the stage counts itself, else from the story."""
    told = {
        event["key"]: float(event["seconds"])
        for event in read_events(out)
        if event.get("event") == "done" and "key" in event
    }
    counted: dict[str, float] = {}
    for stage, key in keys.items():
        manifest = read_manifest(_place(out, stage)) if stage in _IN_STAGES else None
        own = manifest.info.get("seconds") if manifest is not None and manifest.key == key else None
        if own is not None or key in told:
            counted[stage] = float(own) if own is not None else told[key]
    return counted


def _result(out: Path, task: Task, keys: Mapping[str, str], skipped: tuple[str, ...]) -> RunResult:
    bundle = out / BUNDLE_FOLDER
    told = read_json(bundle / "metrics.json")
    export, parts = told["export"], [Provenance(**part) for part in told["provenance"]]
    measured = EVALUATION in keys
    return RunResult(
        out=out,
        bundle=bundle,
        report=out / REPORT_FILE,
        classes=task.names,
        evaluation=dict(read_json(_place(out, EVALUATION) / stages.RESULT_FILE)) if measured else None,
        calibration=dict(read_json(_place(out, CALIBRATION) / CALIBRATION_FILE)),
        parameters=int(export["parameters"]),
        onnx_bytes=int(export["onnx_bytes"]),
        latency_ms=float(export["latency_ms"]),
        licence=MEANINGS[most_restrictive(parts)[0]].title,
        licence_warning=warning(parts),
        seconds=_seconds(out, keys),
        skipped=skipped,
        up_to_date=set(skipped) == set(keys),
    )
