"""The main job: class names in, a measured and exported classifier out.

Stages whose key is unchanged are skipped; a stage that was stopped goes on where it was. The same call after a kill
gives the same student, bit for bit on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from clipstill.assembly.photos import examples_of, unlabelled_of
from clipstill.core.device import make_deterministic
from clipstill.core.errors import ArtifactError, ClipstillError
from clipstill.core.files import (
    commit_manifest,
    is_whole,
    read_json,
    read_manifest,
    verify_files,
    write_json,
    write_text,
)
from clipstill.core.images import ImageFolder
from clipstill.core.progress import say, set_quiet, span
from clipstill.core.protocols import Provenance
from clipstill.distributed import launch
from clipstill.planning.plan import PLAN_FILE, Plan, plan, plan_key, say_plan, stored_plan, with_settings
from clipstill.report.licences import MEANINGS, most_restrictive, warning
from clipstill.stages import stages
from clipstill.stages.calibration import make_calibration
from clipstill.stages.ladder import LADDER_FILE, make_ladder
from clipstill.stages.near_misses import check_near_misses, make_near_misses
from clipstill.stages.report import REPORT_FILE, make_report
from clipstill.text.task import Task
from clipstill.workflow.cohorts import Growth, Ledger, Taught, kind_of
from clipstill.workflow.growth import COHORTS, CONFIG_FILE, PHOTOS_GIVEN, TASK_FILE, grown, read_ledger
from clipstill.workflow.keys import (
    BUNDLE,
    CALIBRATION,
    CLASS_VECTORS,
    EVALUATION,
    LADDER,
    NEAR_MISSES,
    PROMPTS,
    REPORT,
    STUDENT,
    SURROGATE,
    TEACHER_PROMPTS,
    SettingKeys,
    stage_keys,
    styles_of,
    templates_of,
)
from clipstill.workflow.settings import Settings
from clipstill.workflow.store import STAGES_FOLDER, RunFolder, read_events
from clipstill.workflow.workbench import CALIBRATION_FILE, Workbench

if TYPE_CHECKING:
    from clipstill.distillation.trainer import Watch

BUNDLE_FOLDER = "bundle"

_IN_STAGES: dict[str, Callable[..., None]] = {
    TEACHER_PROMPTS: stages.make_teacher_prompts,
    CLASS_VECTORS: stages.make_class_vectors,
    PROMPTS: stages.make_prompts,
    SURROGATE: stages.make_surrogate,
    STUDENT: stages.make_student,
    NEAR_MISSES: make_near_misses,
    CALIBRATION: make_calibration,
    EVALUATION: stages.make_evaluation,
    LADDER: make_ladder,
}
# Of these each cohort has one; what makes it is told which.
_OF_COHORTS = (PROMPTS, SURROGATE, NEAR_MISSES)


class _AgainError(Exception):
    """Something that was to be used again is damaged, and cannot be made as it was."""


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
        ladder: simpler and richer ways to the same classifier, and what is recommended, as
            ``clipstill.evaluation.ladder.ladder_json`` tells it; None where it was not measured.
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
    ladder: dict[str, Any] | None
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
    config: Settings,
    task: Task,
    out: Path,
    photos: Photos | None = None,
    watch: Watch | None = None,
    budget_seconds: float | None = None,
    given: Collection[str] = (),
) -> RunResult:
    """Do, or finish, or find done, the whole job in a folder.

    Args:
        config: all settings.
        task: at least two classes.
        out: an absent or empty folder, or one of an earlier run; its other stages are kept.
        photos: lists of files, instead of the folders that the settings name.
        watch: is shown the student's weights while it is taught, see ``clipstill.distillation.trainer.distil``.
        budget_seconds: for the whole run. The settings that fit are chosen once; a later call finds them in ``out``.
        given: dotted names of settings that the budget must leave alone.

    Raises:
        UnknownNameError: no such teacher, generator, student or prompt strategy.
        ConfigError: a setting cannot be used.
        DataError: a folder of photos or examples is missing, empty, or fits none of the classes.
        ArtifactError: ``out`` holds something else.
        ResourceError: the disk is full, another process works in ``out``, or the device is missing.
        ExportError: the exported model does not behave as the student.
    """
    config.check_together()
    lists_given = photos is not None
    photos = photos or photos_of(config, task)
    key = plan_key(config, task, photos.measured, photos.examples, budget_seconds)
    made = stored_plan(out, key)
    if budget_seconds is not None:
        if launch.rank() > 0:
            made = Plan.from_json(launch.heard())
        elif made is None:
            check_names(config)
            check_near_misses(config, task)
            made = plan(config, task, photos.measured, photos.examples, photos.unlabelled, budget_seconds, given)
            say_plan(made)
        if launch.rank() == 0:
            launch.tell(made.to_json())
        config = with_settings(config, made.settings)
    keys, skipped = _brought_to(REPORT, config, task, out, photos, lists_given, watch, _Planned(key, made))
    result = _result(out, task, keys, skipped)
    if result.up_to_date and launch.rank() == 0:
        say(f"nothing to do: {out} is up to date")
    return result


def is_done(config: Settings, task: Task, out: Path) -> bool:
    """Whether a folder holds all that these settings make of these classes; its files are not checked.

    Raises:
        ClipstillError: as ``run``.
    """
    return _looks_done(out, _agenda(config, task, photos_of(config, task), read_ledger(out)).keys)


def run_until_student(config: Settings, task: Task, out: Path, photos: Photos, watch: Watch | None = None) -> None:
    """As ``run``, up to the student itself: what is measured by a protocol needs no calibration, bundle and report.

    Raises:
        ClipstillError: as ``run``.
    """
    config.check_together()
    _brought_to(STUDENT, config, task, out, photos, True, watch, None)


def photos_of(config: Settings, task: Task) -> Photos:
    """Those of the folders that the settings name.

    Raises:
        DataError: one of them is missing, empty, or fits none of the classes.
    """
    measured = None if config.evaluation.images is None else ImageFolder.open(config.evaluation.images, task.names)
    return Photos(measured, examples_of(config, task), unlabelled_of(config))


@dataclass(frozen=True)
class _Planned:
    """What is known of a run before its first stage.

    Attributes:
        key: of the plan.
        made: the plan, where there is one.
    """

    key: str
    made: Plan | None


def _brought_to(
    last: str,
    config: Settings,
    task: Task,
    out: Path,
    photos: Photos,
    lists_given: bool,
    watch: Watch | None,
    planned: _Planned | None,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Bring the stages up to ``last`` up to date: keys of all stages, and those of them that were done before.

    ``lists_given`` says that the photos are lists of files, ``planned`` is None where nobody asks for a plan.
    """
    ledger = read_ledger(out)
    agenda = _agenda(config, task, photos, ledger)
    done = _looks_done(out, {stage: agenda.keys[stage] for stage in agenda.until(last)})
    if not done:
        # Before the folder is made or touched. A run that is done needs no models, and so no seconds to load torch.
        check_names(config)
        check_near_misses(config, task)

    def bench_in(folder: RunFolder) -> Workbench:
        given = (photos.measured, photos.examples, photos.unlabelled)
        return Workbench(config, task, folder, agenda.keys, *given, watch, agenda.growth)

    if launch.rank() > 0:
        _assist(bench_in(RunFolder.of_another(out)), agenda.until(last))
        return agenda.keys, ()
    with launch.leading(), RunFolder(out, config.threads or launch.threads_of_this_process()) as folder:
        while True:
            found = read_ledger(out)
            if found != ledger:
                # Another process was at work here meanwhile, or a part of the agenda was damaged.
                agenda = _agenda(config, task, photos, found)
            ledger = agenda.ledger
            # Before the settings: whoever finds a ledger asks them nothing.
            write_json(out / TASK_FILE, _stored(task, ledger, lists_given))
            write_text(
                out / CONFIG_FILE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            )
            folder.event("start", keys=agenda.keys)
            bench, skipped = bench_in(folder), []
            if planned is not None and not done:
                _plan(bench, planned)
                planned = None
            try:
                for stage in agenda.until(last):
                    if not _do(bench, stage):
                        skipped.append(stage)
                    told = agenda.told(ledger, stage)
                    if told != ledger:
                        ledger = told
                        write_json(out / TASK_FILE, _stored(task, ledger, lists_given))
                break
            except _AgainError as error:
                write_json(out / TASK_FILE, _stored(task, ledger.without(str(error)), lists_given))
        folder.event("end", skipped=skipped)
    return agenda.keys, tuple(skipped)


@dataclass(frozen=True)
class _Agenda:
    """What one call does in a folder.

    Attributes:
        growth: what of the folder is in use.
        ledger: of the folder, with what is new.
        keys: of all stages.
        student: who is taught; None where a student of before gets other class vectors.
    """

    growth: Growth
    ledger: Ledger
    keys: dict[str, str]
    student: Taught | None

    def until(self, last: str) -> list[str]:
        """The stages up to one."""
        return list(self.keys)[: list(self.keys).index(last) + 1]

    def told(self, ledger: Ledger, stage: str) -> Ledger:
        """A ledger after a stage is done."""
        if kind_of(stage) in (SURROGATE, NEAR_MISSES):
            return ledger.with_done(self.keys[stage])
        return ledger.with_taught(self.student) if stage == STUDENT and self.student is not None else ledger


def _agenda(config: Settings, task: Task, photos: Photos, ledger: Ledger) -> _Agenda:
    by = SettingKeys(config)
    growth, ledger = grown(by, task, photos.examples, photos.unlabelled, ledger)
    keys = stage_keys(config, task, photos.measured, photos.examples, photos.unlabelled, growth, by)
    student = None
    if growth.taught is None:
        surrogate = by.taught_on(task, growth.images)
        student = Taught(task, growth.evidence, surrogate, keys[STUDENT])
    return _Agenda(growth, ledger, keys, student)


def _stored(task: Task, ledger: Ledger, lists_given: bool) -> dict[str, Any]:
    """The content of ``task.json``; where photos were given as lists, the settings do not name them."""
    return {**task.to_json(), COHORTS: ledger.to_json(), **({PHOTOS_GIVEN: True} if lists_given else {})}


def _plan(bench: Workbench, planned: _Planned) -> None:
    """Lint and estimate, unless an earlier call of these settings did, and keep the plan in the run folder."""
    made = planned.made
    if made is None:
        make_deterministic(bench.run.threads)
        photos = (bench.photos, bench.examples, bench.unlabelled)
        try:
            made = plan(bench.config, bench.task, *photos, with_probe=False, models=bench.models())
        except ClipstillError:
            raise
        except Exception as error:
            # What cannot be estimated may well be done.
            say(f"plan: there is none ({type(error).__name__}: {error})")
            return
        say_plan(made)
    elif stored_plan(bench.run.path, planned.key) is not None:
        return
    write_json(bench.run.path / PLAN_FILE, made.to_json())
    # After the file, so that who reads the event finds it.
    bench.run.event("plan", key=planned.key, settings=made.settings)


def _assist(bench: Workbench, wanted: list[str]) -> None:
    """Do this rank's share of what ranks share, and wait for what the first rank makes of it."""
    set_quiet(True)  # The first rank speaks for all.
    for offer in launch.offers():
        stages.assist(bench, offer)
    for stage in wanted:
        launch.wait_for_manifest(_place(bench.run.path, stage), bench.keys[stage])


def check_names(config: Settings) -> None:
    """Resolve every part before any work starts, so that a typing mistake costs seconds.

    Raises:
        UnknownNameError: with the closest name.
        ConfigError: the device, styles or templates cannot be used.
        ResourceError: the device, Ray or the storage of a Ray cluster is not there.
    """
    from clipstill.assembly.students import check_student_name
    from clipstill.core.device import pick_device
    from clipstill.export import load_format
    from clipstill.generators import resolve_generators
    from clipstill.teachers import resolve_teachers
    from clipstill.text import prompt_strategies

    resolve_teachers(config.teacher.name)
    resolve_teachers(config.small_teacher)
    resolve_generators(config.generator.name)
    check_student_name(config.student)
    prompt_strategies.resolve(config.prompts.strategy)
    for name in config.export.formats:
        load_format(name)
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
    if kind_of(stage) in _IN_STAGES and bench.run.prepare_stage(stage, key):
        say(f"{stage}: settings or classes changed; what was there is kept in {bench.run.path / STAGES_FOLDER / 'old'}")
    if _is_complete(bench, stage, folder, key):
        say(f"{stage}: done already, skipped")
        bench.run.event("skipped", stage=stage, key=key)
        return False
    _refuse_what_cannot_be_made(bench, stage)
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
        work = _IN_STAGES[kind_of(stage)]
        work(bench, folder, *((bench.cohort_of(stage),) if kind_of(stage) in _OF_COHORTS else ()))
    seconds = time.monotonic() - start
    bench.run.event("done", stage=stage, key=key, seconds=round(seconds, 3))
    say(f"{stage}: done in {span(seconds)}")
    return True


def _refuse_what_cannot_be_made(bench: Workbench, stage: str) -> None:
    """Find out whether a stage would be made from what is not there any more.

    Raises:
        _AgainError: images are damaged that were told from other classes than the present ones, or from the same
            by other examples; or a student that was to be used again is.
    """
    assert bench.growth is not None
    taught = bench.growth.taught
    if kind_of(stage) in _OF_COHORTS:
        cohort = bench.cohort_of(stage)
        if not cohort.is_made_for(bench.task, bench.growth.evidence):
            say(f"{stage}: it was made among other classes, or with other examples; its classes are made anew")
            raise _AgainError(cohort.key)
    elif stage == STUDENT and taught is not None:
        try:
            source = bench.run.kept(STUDENT, taught.key)
            manifest = read_manifest(source)
            if manifest is None:
                raise ArtifactError(f"{source} is not complete.")
            verify_files(source, manifest)
        except ArtifactError as error:
            say(f"{stage}: {error} It is taught anew")
            raise _AgainError(taught.key) from None


def _place(out: Path, stage: str) -> Path:
    if stage == BUNDLE:
        return out / BUNDLE_FOLDER
    return out if stage == REPORT else out / STAGES_FOLDER / stage


def _is_complete(bench: Workbench, stage: str, folder: Path, key: str) -> bool:
    try:
        return is_whole(folder, key)
    except ArtifactError as error:
        say(f"{stage}: {error}")
        if kind_of(stage) in _IN_STAGES:
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
        manifest = read_manifest(_place(out, stage)) if kind_of(stage) in _IN_STAGES else None
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
        ladder=dict(read_json(_place(out, LADDER) / LADDER_FILE)) if LADDER in keys else None,
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
