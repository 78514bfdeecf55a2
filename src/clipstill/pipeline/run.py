"""The main job: class names in, a measured and exported classifier out.

Stages whose key is unchanged are skipped; a stage that was stopped goes on where it was. The same call after a kill
gives the same student, bit for bit on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from clipstill.core.device import make_deterministic, usable_cores
from clipstill.core.errors import ArtifactError
from clipstill.core.files import commit_manifest, read_json, read_manifest, verify_files, write_json, write_text
from clipstill.core.images import ImageFolder
from clipstill.core.progress import say, span
from clipstill.pipeline import stages
from clipstill.pipeline.config import RunConfig
from clipstill.pipeline.keys import (
    BUNDLE,
    CLASS_VECTORS,
    EVALUATION,
    PROMPTS,
    REPORT,
    STUDENT,
    SURROGATE,
    stage_keys,
    styles_of,
    templates_of,
)
from clipstill.pipeline.report import REPORT_FILE, make_report
from clipstill.pipeline.run_folder import STAGES_FOLDER, RunFolder, read_events
from clipstill.pipeline.workbench import Workbench
from clipstill.text.task import Task

CONFIG_FILE = "config.yaml"
TASK_FILE = "task.json"
BUNDLE_FOLDER = "bundle"

_IN_STAGES: dict[str, Callable[[Workbench, Path], None]] = {
    CLASS_VECTORS: stages.make_class_vectors,
    PROMPTS: stages.make_prompts,
    SURROGATE: stages.make_surrogate,
    STUDENT: stages.make_student,
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
        parameters: of the student.
        onnx_bytes: size of the exported model.
        latency_ms: median for one picture on one core.
        seconds: of work a stage, those of earlier calls included.
        skipped: stages that were there already.
        up_to_date: all were; there was nothing to do.
    """

    out: Path
    bundle: Path
    report: Path
    classes: tuple[str, ...]
    evaluation: dict[str, Any] | None
    parameters: int
    onnx_bytes: int
    latency_ms: float
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


def run(config: RunConfig, task: Task, out: Path) -> RunResult:
    """Do, or finish, or find done, the whole job in a folder.

    Args:
        config: all settings.
        task: at least two classes.
        out: an absent or empty folder, or one of an earlier run; its other stages are kept.

    Raises:
        UnknownNameError: no such teacher, generator, student or prompt strategy.
        ConfigError: a setting cannot be used.
        DataError: the photo folder is missing, empty, or fits none of the classes.
        ArtifactError: ``out`` holds something else.
        ResourceError: the disk is full, another process works in ``out``, or the device is missing.
        ExportError: the exported model does not behave as the student.
    """
    photos = None if config.evaluation.images is None else ImageFolder.open(config.evaluation.images, task.names)
    keys = stage_keys(config, task, photos)
    if not _looks_done(out, keys):
        # Before the folder is made or touched. A run that is done needs no models, and so no seconds to load torch.
        check_names(config)
    with RunFolder(out, config.threads or usable_cores()) as folder:
        bench = Workbench(config, task, folder, keys, photos)
        write_text(
            out / CONFIG_FILE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        )
        write_json(out / TASK_FILE, task.to_json())
        folder.event("start", keys=keys)
        skipped = tuple(stage for stage in keys if not _do(bench, stage))
        folder.event("end", skipped=skipped)
        result = _result(bench, skipped)
    if result.up_to_date:
        say(f"nothing to do: {out} is up to date")
    return result


def check_names(config: RunConfig) -> None:
    """Resolve every part before any work starts, so that a typing mistake costs seconds.

    Raises:
        UnknownNameError: with the closest name.
        ConfigError: the device, styles or templates cannot be used.
    """
    from clipstill.core.device import pick_device
    from clipstill.generators import resolve_generators
    from clipstill.students import students
    from clipstill.teachers import teachers
    from clipstill.text import prompt_strategies

    teachers.resolve(config.teacher.name)
    resolve_generators(config.generator.name)
    students.resolve(config.student.name)
    prompt_strategies.resolve(config.prompts.strategy)
    pick_device(config.device)
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
        make_report(bench, _seconds(bench))
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


def _seconds(bench: Workbench) -> dict[str, float]:
    """Seconds of work a stage: from its manifest where the stage counts itself, else from the story."""
    told = {
        event["key"]: float(event["seconds"])
        for event in read_events(bench.run.path)
        if event.get("event") == "done" and "key" in event
    }
    counted: dict[str, float] = {}
    for stage, key in bench.keys.items():
        manifest = read_manifest(_place(bench.run.path, stage)) if stage in _IN_STAGES else None
        own = manifest.info.get("seconds") if manifest is not None and manifest.key == key else None
        if own is not None or key in told:
            counted[stage] = float(own) if own is not None else told[key]
    return counted


def _result(bench: Workbench, skipped: tuple[str, ...]) -> RunResult:
    bundle = bench.run.path / BUNDLE_FOLDER
    export = read_json(bundle / "metrics.json")["export"]
    return RunResult(
        out=bench.run.path,
        bundle=bundle,
        report=bench.run.path / REPORT_FILE,
        classes=bench.task.names,
        evaluation=stages.read_evaluation(bench),
        parameters=int(export["parameters"]),
        onnx_bytes=int(export["onnx_bytes"]),
        latency_ms=float(export["latency_ms"]),
        seconds=_seconds(bench),
        skipped=skipped,
        up_to_date=set(skipped) == set(bench.keys),
    )
