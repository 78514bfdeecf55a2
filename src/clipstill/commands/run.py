"""The main job: class names in, a measured and exported classifier out.

The same call after a kill gives the same student, bit for bit on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from clipstill.commands.log import check_log, logged
from clipstill.commands.results import Calibration, QuickResult, RunResult
from clipstill.core.device import configure_torch
from clipstill.core.errors import ArtifactError, ClipstillError, ConfigError
from clipstill.core.file_names import ADVICE_FILE, METRICS_FILE, PLAN_FILE
from clipstill.core.files import holding, write_json
from clipstill.core.foresight import Foresight
from clipstill.core.progress import listed, say, warn, warnings_only
from clipstill.core.records import read_record
from clipstill.distributed import ray_tasks, torchrun
from clipstill.evaluation.evaluate import Evaluation
from clipstill.evaluation.ladder import Ladder
from clipstill.export.bundle import check_replaceable
from clipstill.planning.plan import Plan, plan, plan_key, say_plan, stored_plan
from clipstill.report.licences import most_restrictive, warning
from clipstill.stages import STAGES, bundle, calibration, evaluation, images, ladder, report, student, zero_shot
from clipstill.stages.near_misses import check_near_misses
from clipstill.text.task import Task
from clipstill.text.word_checks import WARNING
from clipstill.workflow.cohorts import CohortsInUse, cohorts_in_use
from clipstill.workflow.keys import Keys
from clipstill.workflow.models import Models
from clipstill.workflow.photos import Photos
from clipstill.workflow.records import StoredMetrics
from clipstill.workflow.run import Run, Watch
from clipstill.workflow.runner import StaleCohortsError, looks_done, run_steps, seconds_of_work
from clipstill.workflow.settings import Settings
from clipstill.workflow.stage import STAGES_FOLDER, Step
from clipstill.workflow.store import LockedStore, Store, key_of, read_task, refuse_foreign


@dataclass(frozen=True)
class Job:
    """What is to be made, and where."""

    settings: Settings
    task: Task  # At least two classes.
    out: Path  # An absent or empty folder, or one of an earlier run.
    photos: Photos
    models: Models  # Teacher and generators; loaded by name unless the caller built them.
    watch: Watch | None = None  # Called with the student's weights at each validation.
    quick: bool = False  # Whether the small teacher's bundle is wanted, whatever its size.

    @classmethod
    def of(cls, settings: Settings, task: Task, out: Path, built: Mapping[str, Any] | None = None) -> Job:
        """The job with the photos and models that the settings name, except for parts that the caller built.

        Raises:
            ConfigError: Sections of the settings contradict each other, or a built part cannot reach other processes.
            DataError: A folder of photos is missing, empty, or fits none of the classes.
        """
        settings.check_together()
        if built and (settings.launch.launcher == "ray" or torchrun.world() > 1):
            raise ConfigError(
                f"a {next(iter(built))} that you built stays in this process, and the images are made in several. Give "
                f"its name, or leave Ray and torchrun out."
            )
        photos, models = Photos.of(settings, task), Models(settings, built or {})
        return cls(settings, task, out, photos=photos, models=models)

    @property
    def threads(self) -> int:
        """CPU threads of a new run."""
        return self.settings.threads or torchrun.threads_of_this_process()


@torchrun.rank_group()
def run(job: Job, *, budget_seconds: float | None = None, fixed: Collection[str] = ()) -> RunResult:
    """Do the whole job in a folder, finish it, or find it done.

    Args:
        job: Settings, classes, photos and folder.
        budget_seconds: Time for the whole run. The settings that fit are chosen once; a later call finds them in the
            folder.
        fixed: Dotted names of settings that the budget must leave alone.

    Raises:
        ClipstillError: A name, a setting, a photo, the folder or the device cannot be used; the message says which.
    """
    key = plan_key(job.settings, job.task, job.photos, budget_seconds)
    found = stored_plan(job.out, key)
    if budget_seconds is not None:
        if found is None and torchrun.rank() == 0:
            _check_place(job.out)
            check_names(job)
            check_near_misses(job.settings, job.task)
            configure_torch(job.threads, job.settings.device, job.settings.deterministic)
            found = plan(
                job.settings, job.task, job.photos, models=job.models, budget_seconds=budget_seconds, fixed=fixed
            )
            say_plan(found)
        found = torchrun.broadcast(found)
        settings = job.settings.changed(**found.settings)
        job = replace(job, settings=settings, models=replace(job.models, settings=settings))
    done, skipped = _bring_up_to(job, report.NAME, partial(_keep_plan, key=key, found=found))
    result = _result(done, skipped)
    if result.up_to_date and torchrun.rank() == 0:
        say(f"nothing to do: {job.out} is up to date")
    return result


@torchrun.rank_group()
def run_quick(job: Job) -> QuickResult:
    """Make the small teacher's bundle alone; a later ``run`` in the same folder finds it done."""
    from clipstill.assembly.zero_shot import read_zero_shot

    _refuse_other_classes(job)
    if job.settings.log != "none":
        warn(f"log={job.settings.log} writes nothing: a quick run has no curves. The run without --quick writes them.")
    job = replace(job, quick=True, settings=job.settings.changed(log="none"))
    run, _ = _bring_up_to(job, zero_shot.NAME)
    found = read_zero_shot(run.folder(zero_shot.NAME))
    result = QuickResult(run.store.path, found, _foretold(job), run.settings.student.name)
    if torchrun.rank() == 0 and not (job.out / report.REPORT_FILE).exists():
        # The page has no button for the steps of a bundle that cannot be tuned.
        advice = {**asdict(result.advice), "steps": {}, "which_to_ship": result.full_run}
        write_json(job.out / ADVICE_FILE, advice)
    return result


def _refuse_other_classes(job: Job) -> None:
    """Refuse a quick run beside the student of other classes, and warn where it replaces their small teacher alone."""
    try:
        earlier = read_task(job.out)
    except ArtifactError:  # It was not begun, or what is damaged is told with the work.
        return
    if earlier == job.task:
        return
    if any((job.out / STAGES_FOLDER).glob("*")):
        raise ArtifactError(
            f"{job.out} holds a run of other classes or descriptions ({listed(earlier.names)}). Choose another --out, "
            f"or leave --quick out: a full run keeps the earlier results in {job.out / STAGES_FOLDER / 'old'}."
        )
    warn(f"{job.out} held the small teacher for other classes ({listed(earlier.names)}), which is replaced.")


def _foretold(job: Job) -> Foresight:
    """What the small teacher is expected to name right, by the names alone."""
    import torch

    from clipstill.assembly.class_vectors import text_vectors
    from clipstill.assembly.foresight import foresee_by_names, linter_of
    from clipstill.teachers import load_teacher

    settings = job.settings.changed(**{"teacher.name": job.settings.small_teacher})
    teacher = load_teacher(settings.teacher.name, torch.device("cpu"))
    linter = linter_of(teacher, job.task, text_vectors(teacher, job.task, settings), settings)
    findings = linter.findings()
    for finding in findings:
        if finding.level == WARNING:
            warn(finding.line())
    return foresee_by_names(linter, findings, teacher, settings)[0]


@torchrun.rank_group()
def run_until_student(job: Job) -> None:
    """Do the job up to the student itself: protocols need no calibration, bundle and report."""
    _bring_up_to(job, student.NAME)


def is_done(job: Job) -> bool:
    """Whether the folder holds all that the job makes; its files are not checked."""
    return looks_done(job.out, _chosen(job)[1].steps)


def _chosen(job: Job, store: Store | None = None, in_use: CohortsInUse | None = None) -> tuple[Keys, Run]:
    """The keys of a job, and the run with the cohorts that serve its classes."""
    store = store or Store(job.out)
    wanted = replace(zero_shot.STAGE, needed=lambda *_: True) if job.quick else zero_shot.STAGE
    keys = Keys(
        [wanted if stage is zero_shot.STAGE else stage for stage in STAGES],
        job.settings,
        job.photos,
        job.models.identity,
    )
    in_use = in_use or cohorts_in_use(keys, job.task, store.history())
    steps = keys.steps(job.task, in_use)
    run = Run(
        job.settings, job.task, job.photos, store=store, cohorts=in_use, steps=steps, models=job.models, watch=job.watch
    )
    return keys, run


def _for(steps: tuple[Step, ...], last: str) -> tuple[Step, ...]:
    """The steps of a stage and of all that it reads, in their order."""
    wanted = {last}
    for step in reversed(steps):
        if step.stage.name in wanted:
            wanted.update(step.stage.inputs)
    return tuple(step for step in steps if step.stage.name in wanted)


def _bring_up_to(
    job: Job, last: str, keep_plan: Callable[[Run, LockedStore], None] | None = None
) -> tuple[Run, list[str]]:
    """Bring the stages up to ``last`` up to date; return the run and the names of the steps that were done before."""
    _, run = _chosen(job)
    done = looks_done(job.out, _for(run.steps, last))
    if not done:
        # Before the folder is touched. A run that is done needs no models, and no seconds to load torch.
        check_names(job)
        check_near_misses(job.settings, job.task)
    if torchrun.rank() > 0:
        return _assist(job, last), []
    if not done and last != student.NAME:
        _check_place(job.out)
    with LockedStore(job.out, job.threads) as store, logged(run, store, done=done) as log:
        while True:
            keys, run = _chosen(job, store)
            steps = _for(run.steps, last)
            run.save()
            store.event("start", keys={step.name: step.key for step in steps})
            if keep_plan is not None and not done:
                keep_plan(run, store)
                keep_plan = None
            try:
                skipped = run_steps(run, store, steps, keys)
                break
            except StaleCohortsError:
                say("some earlier results cannot be used; choosing what to make again")
        store.event("end", skipped=skipped)
        if log is not None and last == report.NAME:
            log.finish(run, skipped)
    return run, skipped


def _check_place(out: Path) -> None:
    """Refuse a place that could not take a run and its bundle; call it before the work, which would be lost."""
    refuse_foreign(out)
    for place in (out / bundle.STAGE.folder, out / zero_shot.STAGE.folder):
        # The runner moves a bundle whose manifest cannot be read aside.
        if key_of(place) is not None or not place.exists():
            check_replaceable(place)


def _assist(job: Job, last: str) -> Run:
    """Do this rank's share of what the first rank offers, and wait for its results."""
    warnings_only()  # The first rank reports for all.
    _, run = _chosen(job)
    for offer in torchrun.offers():
        _, run = _chosen(job, in_use=offer.cohorts)
        names = [step.name for step in run.steps]
        step = run.steps[names.index(offer.stage)]
        if offer.key != step.key:
            raise ConfigError(
                f"rank {torchrun.rank()} would make another {offer.stage} than the first rank: settings, class names "
                f"or weights differ. Give all ranks the same command, version and files."
            )
        for earlier in run.steps[: names.index(offer.stage)]:
            torchrun.wait_for_manifest(run.store.folder(earlier), earlier.key)
        configure_torch(offer.threads, run.settings.device, run.settings.deterministic)
        with holding(job.out):
            if step.stage.name == images.NAME:
                images.assist(run, offer)
            else:
                student.assist(run)
    for step in _for(run.steps, last):
        torchrun.wait_for_manifest(run.store.folder(step), step.key)
    return run


def _keep_plan(run: Run, store: LockedStore, *, key: str, found: Plan | None) -> None:
    """Keep the plan in the run folder; make it first, unless an earlier call of these settings did."""
    if found is None:
        configure_torch(store.threads, run.settings.device, run.settings.deterministic)
        try:
            found = plan(run.settings, run.task, run.photos, models=run.models, quick=True)
        except ClipstillError:
            raise
        except Exception as error:
            # A run that cannot be planned may still succeed.
            say(f"plan: skipped ({type(error).__name__}: {error})")
            return
        say_plan(found)
    elif stored_plan(store.path, key) is not None:
        return
    write_json(store.path / PLAN_FILE, found.to_json())
    # After the file, so that a reader of the event finds it.
    store.event("plan", key=key, settings=found.settings)


def check_names(job: Job) -> None:
    """Resolve every part before any work starts, so that a typing mistake costs seconds.

    Raises:
        UnknownNameError: With the closest name.
        ConfigError: The device cannot be used, or the student takes no images of the size that is set.
        ResourceError: The device, Ray or the storage of a Ray cluster is missing.
    """
    from clipstill.assembly.students import check_student_name, new_student
    from clipstill.core.device import pick_device
    from clipstill.core.packaged_weights import LITE
    from clipstill.export import load_format
    from clipstill.generators import resolve_generators
    from clipstill.teachers import resolve_teachers
    from clipstill.text import prompt_strategies
    from clipstill.text.templates import template_set

    settings, built = job.settings, job.models.built
    if "teacher" not in built:
        resolve_teachers(settings.teacher.name)
        resolve_teachers(settings.small_teacher)
    if "generator" not in built:
        resolve_generators(settings.generator.name)
    if "student" not in built:
        check_student_name(settings.student)
    prompt_strategies.resolve(settings.prompts.strategy)
    for name in settings.export.formats:
        load_format(name)
    pick_device(settings.device)
    ray_tasks.check_launcher(settings.launch)
    check_log(settings.log)
    if isinstance(settings.prompts.templates, str):
        template_set(settings.prompts.templates, "plain")  # Any set: the one that suits the teacher is not known yet.
    section = settings.student
    if "student" not in built and section.tower_of is None and section.name not in LITE:  # Those take every size.
        new_student(section, 2, "scratch", settings.seed)  # Tells sizes that the network does not take.


def _result(run: Run, skipped: list[str]) -> RunResult:
    metrics = read_record(run.folder(bundle.NAME) / METRICS_FILE, StoredMetrics)
    export, parts = metrics["export"], metrics["provenance"]
    measured, climbed = evaluation.read_evaluation(run), ladder.read_ladder(run)
    return RunResult(
        out=run.store.path,
        bundle_folder=run.folder(bundle.NAME),
        report=run.store.path / report.REPORT_FILE,
        classes=run.task.names,
        evaluation=None if measured is None else Evaluation.from_json(measured),
        ladder=None if climbed is None else Ladder.from_json(climbed),
        calibration=Calibration.from_json(calibration.read_calibration(run)),
        advice=report.advice_of(run),
        which_to_ship=report.two_bundles(run),
        zero_shot_folder=run.folder(zero_shot.NAME) if run.has(zero_shot.NAME) else None,
        parameters=export["parameters"],
        onnx_bytes=export["onnx_bytes"],
        latency_ms=export["latency_ms"],
        licence=most_restrictive(parts)[0].title,
        licence_warning=warning(parts),
        seconds=seconds_of_work(run.store, run.steps),
        skipped=tuple(skipped),
        up_to_date=set(skipped) == {step.name for step in run.steps},
    )
