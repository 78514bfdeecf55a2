"""Makes and measures one rung of the ladder: a teacher, the student, or the student trained on something else.

Shapes: N photos, C classes, D teacher dimensions.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipstill.core.errors import ConfigError, DataError, ExportError
from clipstill.core.file_names import METRICS_FILE, VECTORS_FILE, VECTORS_NAME
from clipstill.core.files import commit_manifest, is_whole, read_json, sha256_json, write_json
from clipstill.core.image_folder import ImageFolder
from clipstill.core.protocols import Preprocess
from clipstill.core.tensors import write_tensors
from clipstill.core.verdict import ENOUGH_PHOTOS
from clipstill.evaluation import ladder as rungs
from clipstill.evaluation.evaluate import Calibration, evaluate, student_predictor, teacher_predictor
from clipstill.evaluation.ladder import Cost, Measured, Rung
from clipstill.export.measure import gflop, latency
from clipstill.export.onnx import Onnx, export_onnx
from clipstill.export.parity import check_parity
from clipstill.generators.procedural import DeadLeaves, Noise
from clipstill.runtime import load_bundle
from clipstill.stages import (
    adaptation,
    bundle,
    calibration,
    class_vectors,
    images,
    near_misses,
    prompts,
    student,
    teacher_prompts,
    zero_shot,
)
from clipstill.stages.ladder import FACTS_FILE, LadderInputs
from clipstill.workflow.photos import Photos, photos_digest
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.run import Run
from clipstill.workflow.runner import seconds_of_work

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.distillation.training_data import TrainingData
    from clipstill.evaluation.evaluate import PredictLogits

_MODEL = "model.onnx"
_TOO_SLOW = "it takes as long as the student did"
_VECTORS = (teacher_prompts.NAME, class_vectors.NAME, adaptation.FEATURES_NAME, adaptation.NAME)
_BESIDE_THE_STUDENT = (*_VECTORS, *(stage.NAME for stage in (prompts, images, near_misses, calibration)))


@dataclass(frozen=True)
class _Classifier:
    """Something that answers, how photos are prepared for it, and what it costs."""

    predict: PredictLogits
    preprocess: Preprocess
    temperature: float
    cost: Cost
    bundle: Path | None = None  # The run's bundle that it is; None where it is none.

    def costing(self, **values: Any) -> _Classifier:
        """The same classifier with other values of its cost."""
        return replace(self, cost=replace(self.cost, **values))


class RungMaker:
    """Makes and measures rungs of a run whose bundle is complete; ``place`` keeps trained students for a later call."""

    def __init__(self, run: Run, inputs: LadderInputs, place: Path) -> None:
        self._run, self._inputs, self._place = run, inputs, place
        self._path = _quoted(run.store.path)

    def make(self, name: str) -> Rung:
        """One rung, measured, or with what is missing."""
        makers: dict[str, Callable[[], Rung]] = {
            rungs.TEACHER: self._teacher,
            rungs.SMALL_TEACHER: partial(self._small_teacher, name),
            rungs.SMALL_TEACHER_EXAMPLES: partial(self._small_teacher, name),
            rungs.NOISE: partial(self._control, name, "pictures of noise", Noise()),
            rungs.PROCEDURAL: partial(self._control, name, "procedural pictures (dead leaves)", DeadLeaves()),
            rungs.OURS: self._ours,
            rungs.EXAMPLES: self._tuned,
            rungs.UNLABELLED: self._with_unlabelled,
        }
        return makers[name]()

    # Rungs without training.

    def _teacher(self) -> Rung:
        run, labels = self._run, self._trained_on["labels"]
        name, learned = run.settings.teacher.name, run.has(teacher_prompts.NAME)
        how = "prompts learned from examples" if learned else "names and examples" if labels else "names"
        photos = self._trained_on["unlabelled"] if run.has(adaptation.NAME) else 0
        if photos:
            how += f", adapted to {photos} unlabelled photos"
        note = command = ""
        try:
            if learned:
                raise ConfigError("A teacher with learned prompts is not exported.")
            vectors_CD = adaptation.read_taught_vectors(run)
            classifier = self._exported(rungs.TEACHER, name, vectors_CD=vectors_CD)
            section = run.settings.examples
            command = self._zero_shot_command(name, section.images, section.per_class, adapted=photos > 0)
        except (ConfigError, ExportError) as error:
            classifier, note = self._teacher_as_it_is(), str(error)
        measured = self._measured(rungs.TEACHER, classifier.costing(labels=labels, photos=photos))
        return Rung(rungs.TEACHER, f"Teacher ({name}) by {how}, no training", measured, note=note, command=command)

    def _small_teacher(self, rung: str) -> Rung:
        """The small teacher with class vectors of names, or of names and examples."""
        inputs, examples, folder = self._inputs, None, None
        name, title = inputs.small_teacher, f"Small teacher ({inputs.small_teacher}), no training"
        if rung == rungs.SMALL_TEACHER_EXAMPLES:
            examples = inputs.examples
            if examples is None:
                return self._not_given(rung, f"Small teacher ({name}) with photos, no training", "--examples DIR")
            folder = examples.path
            title = f"Small teacher ({name}) with {len(examples.items)} photos, no training"
        elif name == self._run.settings.teacher.name and not self._trained_on["labels"]:
            missing = "it is the teacher itself; name a smaller one: --set evaluation.small_teacher=NAME"
            return Rung(rung, title, missing=missing)
        try:
            classifier = self._exported(rung, name, examples=examples)
        except (ConfigError, ExportError) as error:
            return Rung(rung, title, missing=str(error))
        measured = self._measured(rung, classifier.costing(labels=0 if examples is None else len(examples.items)))
        there = classifier.bundle and f"clipstill predict {_quoted(classifier.bundle)} photo.jpg"
        return Rung(rung, title, measured, command=there or self._zero_shot_command(name, folder, inputs.shots))

    def _exported(
        self, rung: str, name: str, *, vectors_CD: Tensor | None = None, examples: ImageFolder | None = None
    ) -> _Classifier:
        """A teacher's tower with class vectors as an exported file; on a GPU the tower itself answers for it.

        The class vectors are those given, else those of the names and examples.
        """
        from clipstill.assembly.class_vectors import task_vectors
        from clipstill.assembly.zero_shot import zero_shot_student
        from clipstill.teachers import load_teacher

        run, device, start = self._run, self._run.models.device, time.monotonic()
        model, teacher = self._place / rung / _MODEL, load_teacher(name, torch.device("cpu"))
        if vectors_CD is None:
            vectors_CD = task_vectors(teacher, run.task, run.settings, examples).class_CD
        tower = zero_shot_student(teacher, vectors_CD)
        size, minutes = tower.preprocess.size, 0.0
        same_tower = self._bundle_of(name)
        made = same_tower if same_tower and _holds(same_tower, vectors_CD) else None
        if made is None:
            export_onnx(tower, model, size)
            check_parity(tower, model, size)
            # Class vectors do not change the time, and measured again it would differ.
            latency_ms = _latency_of(same_tower) if same_tower else latency(Onnx().open(model, threads=1), size)
        else:
            model, latency_ms, minutes = made / _MODEL, _latency_of(made), self._minutes((zero_shot.NAME,))
        cost = Cost(
            onnx_bytes=model.stat().st_size,
            parameters=teacher.image_parameters,
            gflop=gflop(tower, size),
            latency_ms=latency_ms,
            minutes=minutes or (time.monotonic() - start) / 60,
        )
        on_cpu = device.type == "cpu"
        predict = _session_predictor(model, run.store.threads) if on_cpu else student_predictor(tower, device)
        return _Classifier(predict, tower.preprocess, 1.0, cost, made)

    def _bundle_of(self, teacher: str) -> Path | None:
        """The run's bundle of this teacher, whatever its class vectors; None where it has none."""
        run = self._run
        has_it = run.has(zero_shot.NAME) and run.settings.small_teacher == teacher
        return run.folder(zero_shot.NAME) if has_it else None

    def _teacher_as_it_is(self) -> _Classifier:
        """The run's teacher where its tower cannot be exported alone."""
        run, teacher = self._run, teacher_prompts.teacher_of(self._run)
        predict = teacher_predictor(teacher, adaptation.read_taught_vectors(run), run.models.device)
        minutes = self._minutes(_VECTORS)
        cost = Cost(onnx_bytes=None, parameters=teacher.image_parameters, gflop=None, latency_ms=None, minutes=minutes)
        return _Classifier(predict, teacher.preprocess, 1.0, cost)

    # The student, and the same network trained on something else.

    @cached_property
    def _student(self) -> _Classifier:
        """The exported student, with the size and latency that the bundle says."""
        run, folder = self._run, self._run.folder(bundle.NAME)
        loaded = load_bundle(folder, run.store.threads)
        export, trained_on = read_json(folder / METRICS_FILE)["export"], self._trained_on
        cost = Cost(
            onnx_bytes=int(export["onnx_bytes"]),
            parameters=int(export["parameters"]),
            gflop=gflop(student.read_student(run), loaded.preprocess.size),
            latency_ms=_latency_of(folder),
            minutes=self._minutes((*_BESIDE_THE_STUDENT, student.NAME)),
            photos=trained_on["unlabelled"],
            labels=trained_on["labels"],
        )
        return _Classifier(loaded.logits, loaded.preprocess, loaded.temperature, cost)

    def _ours(self) -> Rung:
        trained_on = self._trained_on
        kinds = {"synthetic image": "images", "unlabelled photo": "unlabelled", "example": "labels"}
        counts = [(trained_on[key], kind) for kind, key in kinds.items() if trained_on[key]]
        listed = " and ".join(f"{count} {kind}{'s' if count != 1 else ''}" for count, kind in counts)
        title = f"Student ({self._run.settings.student.name}), distilled on {listed}"
        return Rung(rungs.OURS, title, self._measured(rungs.OURS, self._student))

    def _control(self, name: str, what: str, sampler: DeadLeaves | Noise) -> Rung:
        """The same student, teacher and steps on as many pictures of nothing."""
        from clipstill.assembly.training import pictures_of_nothing

        settings = self._run.settings
        count, size = self._trained_on["images"] + self._trained_on["unlabelled"], settings.synthesis.image_size
        title = f"Control: the student distilled on {count} {what}"
        photos = len(self._inputs.photos.items)
        if not self._inputs.slow and photos < ENOUGH_PHOTOS:
            why = f"{photos} photos are too few to tell the two apart, it takes {ENOUGH_PHOTOS}"
            return self._left_out(name, title, why)
        if self._is_too_slow:
            return self._left_out(name, title, _TOO_SLOW)
        classifier = self._trained(
            name,
            identity=[count, size],
            data=lambda: pictures_of_nothing(sampler, count, size, settings.seed),
            before=_VECTORS,
        )
        return Rung(name, title, self._measured(name, classifier))

    def _with_unlabelled(self) -> Rung:
        from clipstill.assembly.training import TrainingSet

        run, unlabelled = self._run, self._inputs.unlabelled
        title = "Student, distilled on unlabelled photos too"
        if unlabelled is None:
            if self._trained_on["unlabelled"]:
                return Rung(rungs.UNLABELLED, title, missing="the student was trained on its unlabelled photos already")
            return self._not_given(rungs.UNLABELLED, title, "--unlabelled DIR")
        title = f"Student, distilled on {len(unlabelled.items)} unlabelled photos too"
        if self._is_too_slow:
            return self._left_out(rungs.UNLABELLED, title, _TOO_SLOW)

        def data() -> TrainingData:
            # The run's own examples, which this call may not have been given.
            examples = Photos.of(run.settings, run.task).examples
            return TrainingSet.of(run.settings, images.read_images(run), examples, unlabelled).data

        identity = [photos_digest(unlabelled)]
        classifier = self._trained(rungs.UNLABELLED, identity=identity, data=data, before=_BESIDE_THE_STUDENT)
        classifier = classifier.costing(photos=len(unlabelled.items), labels=self._trained_on["labels"])
        return Rung(rungs.UNLABELLED, title, self._measured(rungs.UNLABELLED, classifier))

    def _trained(
        self, name: str, *, identity: list[Any], data: Callable[[], TrainingData], before: tuple[str, ...]
    ) -> _Classifier:
        """The run's student trained on other ``data``, which ``identity`` stands for; size and speed stay the same.

        The stages ``before`` it count into its minutes.
        """
        from clipstill.assembly.students import student_of
        from clipstill.assembly.training import train_student

        run = self._run
        key = sha256_json([name, run.step(student.NAME).key, identity])
        folder = self._place / f"{name}-{key[:16]}"
        if not is_whole(folder, key):
            start, work, pictures = time.monotonic(), folder / "work", data()
            models = calibration.model_pair(run)
            trained, _ = train_student(
                run.models,
                pictures,
                teacher=models.teacher,
                class_vectors_CD=models.class_vectors_CD,
                task=run.task,
                work=work,
            )
            temperature = replace(models, student=trained).temperature(pictures)
            write_tensors(folder / student.STUDENT_FILE, trained.state_dict())
            minutes = (time.monotonic() - start) / 60
            write_json(folder / FACTS_FILE, {"temperature": temperature, "minutes": minutes})
            shutil.rmtree(work, ignore_errors=True)
            commit_manifest(folder, key, [student.STUDENT_FILE, FACTS_FILE])
        facts = read_json(folder / FACTS_FILE)
        stored = student_of(run.models, len(run.task.names), folder / student.STUDENT_FILE)
        minutes = facts["minutes"] + self._minutes(before)
        cost = replace(self._student.cost, minutes=minutes, photos=0, labels=0)
        predict = student_predictor(stored, run.models.device)
        return _Classifier(predict, stored.preprocess, float(facts["temperature"]), cost)

    def _tuned(self) -> Rung:
        from clipstill.assembly.fine_tuning import fine_tune_on

        run, inputs = self._run, self._inputs
        title = "Student, tuned on labelled photos"
        if inputs.examples is None:
            return self._not_given(rungs.EXAMPLES, title, "--examples DIR")
        values = {"seed": run.settings.seed, "device": run.settings.device, "threads": run.store.threads}
        settings = load_settings("fine-tune", values=values)
        start, ours, out = time.monotonic(), load_bundle(run.folder(bundle.NAME)), self._place / rungs.EXAMPLES
        try:
            labels = fine_tune_on(inputs.examples, ours, out, settings=settings).examples
        except DataError as error:
            return Rung(rungs.EXAMPLES, title, missing=str(error))
        minutes, cost = (time.monotonic() - start) / 60, self._student.cost
        cost = replace(cost, minutes=minutes + (cost.minutes or 0.0), labels=labels + cost.labels)
        tuned = load_bundle(out, run.store.threads)
        classifier = _Classifier(tuned.logits, tuned.preprocess, tuned.temperature, cost)
        title = f"Student, tuned on {labels} labelled photos"
        given = f"--examples {_quoted(inputs.examples.path)}{_limit(inputs.shots)}"
        command = f"clipstill fine-tune {self._path} {given} --out DIR"
        return Rung(rungs.EXAMPLES, title, self._measured(rungs.EXAMPLES, classifier), command=command)

    # What rungs share.

    def _measured(self, name: str, classifier: _Classifier) -> Measured:
        found = evaluate(
            classifier.predict,
            self._inputs.photos,
            classifier.preprocess,
            title=f"ladder, {name}",
            name_skipped=False,
            calibration=Calibration(classifier.temperature),
        )
        right = "".join("1" if each.best_is_right else "0" for each in found.answers)
        return Measured(right, found.ece, tuple(found.per_class), classifier.cost)

    @cached_property
    def _trained_on(self) -> dict[str, int]:
        """How many synthetic images, unlabelled and labelled photos the student and its teacher have seen."""
        counts = student.read_student_metadata(self._run)
        examples = class_vectors.read_teacher_metadata(self._run).get("examples", {})
        labels = max(sum(examples.values()), int(counts["examples"]))
        return {"images": int(counts["images"]), "unlabelled": int(counts["unlabelled"]), "labels": labels}

    def _minutes(self, stages: tuple[str, ...]) -> float:
        """Minutes of work of these stages, of every cohort."""
        seconds = seconds_of_work(self._run.store, [step for step in self._run.steps if step.stage.name in stages])
        return sum(seconds.values()) / 60

    @property
    def _is_too_slow(self) -> bool:
        """A head on cached features is trained in seconds, a network in as long as the student took."""
        return not self._inputs.slow and self._run.settings.distillation.freeze != "backbone"

    def _left_out(self, name: str, title: str, why: str) -> Rung:
        return Rung(name, title, missing=f"{why}; clipstill ladder {self._path} --images DIR --rungs {name}")

    def _not_given(self, name: str, title: str, option: str) -> Rung:
        return Rung(name, title, missing=f"give {option}: clipstill ladder {self._path} --images DIR {option}")

    def _zero_shot_command(
        self, teacher: str, examples: Path | None, shots: int | None, *, adapted: bool = False
    ) -> str:
        options = "" if examples is None else f" --examples {_quoted(examples)}{_limit(shots)}"
        unlabelled = self._run.settings.unlabelled.images
        if adapted and unlabelled is not None:
            options += f" --unlabelled {_quoted(unlabelled)}"
        return f"clipstill zero-shot --run {self._path} --teacher {teacher}{options} --out DIR"


def _session_predictor(model: Path, threads: int) -> PredictLogits:
    """An exported file as a map of uint8 images to logits."""
    opened = Onnx().open(model, threads)
    return lambda images_NHW3: opened(images_NHW3.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))


def _holds(bundle: Path, vectors_CD: Tensor) -> bool:
    """Whether a bundle has these class vectors."""
    from safetensors.torch import load_file

    stored_CD = load_file(bundle / VECTORS_FILE)[VECTORS_NAME]
    return stored_CD.shape == vectors_CD.shape and torch.allclose(stored_CD, vectors_CD.float(), atol=1e-5)


def _latency_of(bundle: Path) -> float:
    return float(read_json(bundle / METRICS_FILE)["export"]["latency_ms"])


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _limit(shots: int | None) -> str:
    return "" if shots is None else f" --per-class {shots}"
