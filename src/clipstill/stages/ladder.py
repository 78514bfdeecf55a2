"""The rungs of the baseline ladder, made beside a finished student and measured on the same photos.

Each rung is committed on its own: what was killed goes on behind the last one. What a rung is made of does not depend
on the photos, so that other photos find it made. Shapes: N photos, C classes, D teacher dimensions.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clipstill.assembly.photos import examples_of, limited
from clipstill.core.errors import ArtifactError, ConfigError, DataError, ExportError
from clipstill.core.files import commit_manifest, is_whole, read_json, read_manifest, sha256_json, write_json
from clipstill.core.images import ImageFolder
from clipstill.core.progress import say, span
from clipstill.core.protocols import Preprocess
from clipstill.evaluation import ladder as rungs
from clipstill.evaluation.ladder import Cost, Measured, Rung, ladder_json
from clipstill.workflow.cohorts import kind_of
from clipstill.workflow.keys import (
    BUNDLE,
    CALIBRATION,
    CLASS_VECTORS,
    CODE_VERSIONS,
    LADDER,
    NEAR_MISSES,
    PROMPTS,
    STUDENT,
    SURROGATE,
    TEACHER_PROMPTS,
    photos_digest,
)
from clipstill.workflow.workbench import (
    HISTORY_FILE,
    STUDENT_FILE,
    TEACHER_FILE,
    VECTORS_FILE,
    VECTORS_NAME,
    Workbench,
    commit,
    write_tensors,
)

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.assembly.training import TeachingSet
    from clipstill.evaluation.evaluate import PredictLogits
    from clipstill.generators.procedural import DeadLeaves, Noise
    from clipstill.students.student import Student

LADDER_FILE = "ladder.json"
_WORK = "work"
_FACTS = "facts.json"
_MODEL = "model.onnx"
_BEFORE_THE_BUNDLE = (TEACHER_PROMPTS, CLASS_VECTORS, PROMPTS, SURROGATE, STUDENT, NEAR_MISSES, CALIBRATION)
# Pictures that nobody drew for a class, in as many groups as there are style words.
_GROUPS = 16
_LONGEST_NAMES = 80


@dataclass(frozen=True)
class Given:
    """What the rungs may use beside the run.

    Attributes:
        photos: real photos to measure on.
        examples: a folder of labelled photos to learn from, where there is one.
        shots: most of them a class; None for all.
        unlabelled: photos without labels to learn from, where there are any that the student has not seen.
        dear: make rungs that teach a whole network too, which take as long as the student did.
        small_teacher: name of the teacher of the rung without training.
    """

    photos: ImageFolder
    examples: Path | None
    shots: int | None
    unlabelled: ImageFolder | None
    dear: bool
    small_teacher: str


class _Classifier(NamedTuple):
    """Something that answers, and what it costs."""

    predict: PredictLogits
    preprocess: Preprocess
    temperature: float
    cost: Cost


def make_ladder(bench: Workbench, folder: Path) -> None:
    """The finished bundle, photos -> what simpler and richer ways reach, and what follows."""
    start = time.monotonic()
    assert bench.photos is not None
    section, work = bench.config.examples, folder / _WORK
    given = Given(bench.photos, section.images, section.per_class, None, False, bench.config.small_teacher)
    made = Ladder(bench, given, bench.run.path / "bundle", work).climb(rungs.RUNGS)
    write_json(folder / LADDER_FILE, ladder_json(made, bench.task.names))
    commit(bench, LADDER, folder, [LADDER_FILE], start)
    # The models served to go on after a kill.
    shutil.rmtree(work, ignore_errors=True)


class Ladder:
    """Makes and measures rungs of one run.

    Args:
        bench: of a run whose bundle is complete.
        given: photos, and what else there is.
        bundle: of the run.
        place: a folder for what is made and measured; what an earlier call left there is not done again.
    """

    def __init__(self, bench: Workbench, given: Given, bundle: Path, place: Path) -> None:
        self._bench, self._given, self._bundle, self._place = bench, given, bundle, place
        self._makers: dict[str, Callable[[], Rung]] = {
            rungs.TEACHER: self._teacher,
            rungs.SMALL_TEACHER: self._small_teacher,
            rungs.SMALL_TEACHER_EXAMPLES: self._small_teacher_examples,
            rungs.NOISE: self._noise,
            rungs.PROCEDURAL: self._procedural,
            rungs.OURS: self._ours,
            rungs.EXAMPLES: self._tuned,
            rungs.UNLABELLED: self._with_unlabelled,
        }

    def climb(self, names: Sequence[str]) -> list[Rung]:
        """These rungs, in the order of the ladder.

        Raises:
            ClipstillError: a photo folder, a model or the run cannot be read.
        """
        return [self._rung(name) for name in rungs.RUNGS if name in names]

    def _rung(self, name: str) -> Rung:
        key = sha256_json([self._identity, name])
        folder = self._place / "measured" / f"{name}-{key[:16]}"
        if _is_whole(folder, key):
            return Rung.from_json(read_json(folder / _FACTS))
        start = time.monotonic()
        rung = self._makers[name]()
        write_json(folder / _FACTS, rung.to_json())
        commit_manifest(folder, key, [_FACTS])
        told = (
            f"{100 * rung.measured.top1:.1f} % in {span(time.monotonic() - start)}" if rung.measured else "not measured"
        )
        say(f"ladder: {rung.title}: {told}")
        return rung

    @cached_property
    def _identity(self) -> list[Any]:
        """Of the run, the photos, and what else is given."""
        given = self._given
        return [
            CODE_VERSIONS[LADDER],
            self._bench.keys[BUNDLE],
            photos_digest(given.photos),
            given.small_teacher,
            self._examples_identity,
            self._unlabelled_identity,
            given.dear,
        ]

    @cached_property
    def _examples(self) -> ImageFolder | None:
        given = self._given
        if given.examples is None:
            return None
        return limited(ImageFolder.open(given.examples, self._bench.task.names), given.shots, self._bench.config.seed)

    @property
    def _examples_identity(self) -> str | None:
        return None if self._examples is None else photos_digest(self._examples)

    @property
    def _unlabelled_identity(self) -> str | None:
        return None if self._given.unlabelled is None else photos_digest(self._given.unlabelled)

    # Rungs without training.

    def _teacher(self) -> Rung:
        bench = self._bench
        name, with_examples = bench.config.teacher.name, bool(self._taught_by["labels"])
        prompted = TEACHER_PROMPTS in bench.keys
        how = (
            "by prompts learned from examples" if prompted else "by names and examples" if with_examples else "by names"
        )
        title = f"{name}, the teacher, {how}"
        labels, command = self._taught_by["labels"], ""
        try:
            if prompted:
                raise ConfigError("A teacher with learned prompts is not exported.")
            made = self._exported(rungs.TEACHER, name, bench.class_vectors_CD)
            command = self._zero_shot_command(name, bench.config.examples.images, bench.config.examples.per_class)
            note = ""
        except (ConfigError, ExportError) as error:
            made, note = self._as_it_is(), str(error)
        cost = replace(made.cost, labels=labels)
        return Rung(rungs.TEACHER, title, self._measured(rungs.TEACHER, made._replace(cost=cost)), "", note, command)

    def _small_teacher(self) -> Rung:
        name = self._given.small_teacher
        title = f"{name} with stored class vectors"
        if name == self._bench.config.teacher.name and not self._taught_by["labels"]:
            missing = "it is the teacher itself; name a smaller one: --set evaluation.small_teacher=NAME"
            return Rung(rungs.SMALL_TEACHER, title, missing=missing)
        try:
            made = self._exported(rungs.SMALL_TEACHER, name, None)
        except (ConfigError, ExportError) as error:
            return Rung(rungs.SMALL_TEACHER, title, missing=str(error))
        measured = self._measured(rungs.SMALL_TEACHER, made)
        return Rung(rungs.SMALL_TEACHER, title, measured, command=self._zero_shot_command(name, None, None))

    def _small_teacher_examples(self) -> Rung:
        name, given = self._given.small_teacher, self._given
        title = f"{name} with class vectors of names and examples"
        if self._examples is None:
            return self._not_given(rungs.SMALL_TEACHER_EXAMPLES, title, "--examples DIR")
        try:
            made = self._exported(rungs.SMALL_TEACHER_EXAMPLES, name, None, self._examples)
        except (ConfigError, ExportError) as error:
            return Rung(rungs.SMALL_TEACHER_EXAMPLES, title, missing=str(error))
        made = made._replace(cost=replace(made.cost, labels=len(self._examples.items)))
        measured = self._measured(rungs.SMALL_TEACHER_EXAMPLES, made)
        title = f"{name} with class vectors of names and {len(self._examples.items)} examples"
        command = self._zero_shot_command(name, given.examples, given.shots)
        return Rung(rungs.SMALL_TEACHER_EXAMPLES, title, measured, command=command)

    def _exported(
        self, rung: str, name: str, vectors_CD: Tensor | None, examples: ImageFolder | None = None
    ) -> _Classifier:
        """A teacher's tower with class vectors as a real file; on a GPU the tower itself answers for it."""
        import torch
        from safetensors.torch import load_file

        from clipstill.assembly.zero_shot import stored_vectors, zero_shot_student
        from clipstill.evaluation.evaluate import student_predictor
        from clipstill.export.measure import gflop, latency
        from clipstill.export.onnx import Onnx, export_onnx
        from clipstill.export.parity import check_parity
        from clipstill.teachers import load_teacher

        bench, cpu = self._bench, torch.device("cpu")
        key = sha256_json(
            [rung, name, bench.keys[CLASS_VECTORS], None if examples is None else self._examples_identity]
        )
        folder = self._model_folder(rung, key)
        start, whole = time.monotonic(), _is_whole(folder, key)
        if not whole or bench.device.type != "cpu":
            teacher = load_teacher(name, cpu)
            if whole:
                vectors_CD = load_file(folder / VECTORS_FILE)[VECTORS_NAME]
            elif vectors_CD is None:
                vectors_CD = stored_vectors(teacher, bench.task, bench.config, examples, cpu)
            assert vectors_CD is not None
            student = zero_shot_student(teacher, vectors_CD)
            if not whole:
                size = student.preprocess.size
                export_onnx(student, folder / _MODEL, size)
                check_parity(student, folder / _MODEL, size, tolerance=bench.config.export.tolerance)
                write_tensors(folder / VECTORS_FILE, {VECTORS_NAME: vectors_CD})
                cost = Cost(
                    onnx_bytes=(folder / _MODEL).stat().st_size,
                    parameters=teacher.image_parameters,
                    gflop=gflop(student, size),
                    latency_ms=latency(Onnx().open(folder / _MODEL, threads=1), size),
                    minutes=(time.monotonic() - start) / 60,
                )
                write_json(folder / _FACTS, {"cost": asdict(cost), "preprocess": asdict(student.preprocess)})
                commit_manifest(folder, key, [_MODEL, VECTORS_FILE, _FACTS])
        stored = read_json(folder / _FACTS)
        own = stored["preprocess"]
        preprocess = Preprocess(own["size"], tuple(own["mean"]), tuple(own["std"]), own["crop_fraction"])
        if bench.device.type == "cpu":
            predict = _session_predictor(folder / _MODEL, bench.run.threads)
        else:
            predict = student_predictor(student, bench.device)
        return _Classifier(predict, preprocess, 1.0, Cost(**stored["cost"]))

    def _as_it_is(self) -> _Classifier:
        """The run's teacher where its tower cannot be exported alone."""
        from clipstill.evaluation.evaluate import teacher_predictor

        bench = self._bench
        teacher = bench.teacher
        predict = teacher_predictor(teacher, bench.class_vectors_CD, bench.device)
        minutes = self._minutes((TEACHER_PROMPTS, CLASS_VECTORS))
        return _Classifier(predict, teacher.preprocess, 1.0, Cost(None, teacher.image_parameters, None, None, minutes))

    # The student, and what else teaches it.

    @cached_property
    def _of_ours(self) -> _Classifier:
        """The exported student. Its latency is measured again, beside that of the other rungs."""
        from clipstill.export.bundle import METRICS_FILE
        from clipstill.export.measure import gflop, latency
        from clipstill.export.onnx import Onnx
        from clipstill.runtime import load_bundle

        bundle = load_bundle(self._bundle, self._bench.run.threads)
        told = read_json(self._bundle / METRICS_FILE)["export"]
        taught_by = self._taught_by
        cost = Cost(
            onnx_bytes=int(told["onnx_bytes"]),
            parameters=int(told["parameters"]),
            gflop=gflop(self._bench.student.cpu(), bundle.preprocess.size),
            latency_ms=latency(Onnx().open(self._bundle / _MODEL, threads=1), bundle.preprocess.size),
            minutes=self._minutes(_BEFORE_THE_BUNDLE),
            photos=taught_by["unlabelled"],
            labels=taught_by["labels"],
        )
        return _Classifier(bundle.logits, bundle.preprocess, bundle.temperature, cost)

    def _ours(self) -> Rung:
        told = self._taught_by
        kinds = (
            ("synthetic image", told["images"]),
            ("unlabelled photo", told["unlabelled"]),
            ("example", told["labels"]),
        )
        by = " and ".join(f"{count} {name}{'s' if count != 1 else ''}" for name, count in kinds if count)
        title = f"ours: {self._bench.config.student.name} taught on {by}"
        return Rung(rungs.OURS, title, self._measured(rungs.OURS, self._of_ours))

    def _noise(self) -> Rung:
        from clipstill.generators.procedural import Noise

        return self._control(rungs.NOISE, "pictures of noise", Noise())

    def _procedural(self) -> Rung:
        from clipstill.generators.procedural import DeadLeaves

        return self._control(rungs.PROCEDURAL, "procedural pictures (dead leaves)", DeadLeaves())

    def _control(self, name: str, what: str, sampler: DeadLeaves | Noise) -> Rung:
        """The same student, teacher and steps on as many pictures of nothing."""
        config, told = self._bench.config, self._taught_by
        count = told["images"] + told["unlabelled"]
        title = f"{config.student.name} taught on {count} {what}"
        if self._is_too_dear:
            return self._too_dear(name, title)

        def lesson() -> TeachingSet:
            return pictures_of_nothing(sampler, count, config.synthesis.image_size, config.seed)

        taught = self._taught(name, [count, config.synthesis.image_size], lesson, (CLASS_VECTORS,))
        command = self._rerun_command(f"--generator {sampler.name}")
        return Rung(name, title, self._measured(name, taught), command=command)

    def _with_unlabelled(self) -> Rung:
        from clipstill.assembly.training import Lesson

        bench, unlabelled = self._bench, self._given.unlabelled
        title = "ours, taught by unlabelled photos too"
        if unlabelled is None:
            if self._taught_by["unlabelled"]:
                return Rung(rungs.UNLABELLED, title, missing="the student was taught by its unlabelled photos already")
            return self._not_given(rungs.UNLABELLED, title, "--unlabelled DIR")
        title = f"ours, taught by {len(unlabelled.items)} unlabelled photos too"
        if self._is_too_dear:
            return self._too_dear(rungs.UNLABELLED, title)

        def lesson() -> TeachingSet:
            examples = examples_of(bench.config, bench.task)
            return Lesson.of(bench.config, bench.made_images(), examples, unlabelled, len(bench.style_names)).teaching

        before = tuple(stage for stage in _BEFORE_THE_BUNDLE if stage != STUDENT)
        taught = self._taught(rungs.UNLABELLED, [self._unlabelled_identity], lesson, before)
        cost = replace(taught.cost, photos=len(unlabelled.items), labels=self._taught_by["labels"])
        measured = self._measured(rungs.UNLABELLED, taught._replace(cost=cost))
        return Rung(rungs.UNLABELLED, title, measured, command=self._rerun_command("--unlabelled DIR"))

    def _taught(
        self, name: str, identity: list[Any], lesson: Callable[[], TeachingSet], before: tuple[str, ...]
    ) -> _Classifier:
        """The run's student taught on something else. It is the same network, and so the same file in size and time.

        Args:
            name: of the rung.
            identity: what it is taught on.
            lesson: that.
            before: stages of the run that it needs.
        """
        from clipstill.assembly.students import new_student
        from clipstill.assembly.training import Lesson, teach
        from clipstill.evaluation.evaluate import student_predictor
        from clipstill.stages.calibration import temperature_of

        bench = self._bench
        key = sha256_json([name, bench.keys[STUDENT], identity])
        folder = self._model_folder(name, key)
        if not _is_whole(folder, key):
            start, work = time.monotonic(), folder / _WORK
            teaching = lesson()
            student, _ = teach(
                bench.config, Lesson(None, None, teaching), bench.teacher, bench.class_vectors_CD, work, bench.device
            )
            temperature = temperature_of(bench, student, teaching.images_N3HW)
            write_tensors(folder / STUDENT_FILE, student.state_dict())
            write_json(folder / _FACTS, {"temperature": temperature, "minutes": (time.monotonic() - start) / 60})
            commit_manifest(folder, key, [STUDENT_FILE, _FACTS])
            shutil.rmtree(work, ignore_errors=True)
        stored = read_json(folder / _FACTS)
        fresh: Student = new_student(
            bench.config.student, len(bench.task.names), folder / STUDENT_FILE, bench.config.seed
        )
        cost = replace(
            self._of_ours.cost, minutes=stored["minutes"] + (self._minutes(before) or 0.0), photos=0, labels=0
        )
        predict = student_predictor(fresh, bench.device)
        return _Classifier(predict, fresh.preprocess, float(stored["temperature"]), cost)

    def _tuned(self) -> Rung:
        from clipstill.assembly.fine_tuning import fine_tune
        from clipstill.runtime import load_bundle
        from clipstill.workflow.recipes import load_config

        bench, given = self._bench, self._given
        title = "ours, tuned on labelled photos"
        if given.examples is None:
            return self._not_given(rungs.EXAMPLES, title, "--examples DIR")
        threads = bench.run.threads
        config = load_config(
            "fine-tune", values={"seed": bench.config.seed, "device": bench.config.device, "threads": threads}
        )
        how = config.distillation.model_dump(mode="json")
        key = sha256_json([rungs.EXAMPLES, bench.keys[BUNDLE], self._examples_identity, how])
        folder = self._model_folder(rungs.EXAMPLES, key)
        if not _is_whole(folder, key):
            start = time.monotonic()
            try:
                result = fine_tune(self._bundle, given.examples, folder / "bundle", config, given.shots)
            except DataError as error:
                return Rung(rungs.EXAMPLES, title, missing=str(error))
            minutes = (time.monotonic() - start) / 60
            write_json(folder / _FACTS, {"labels": result.examples, "minutes": minutes})
            commit_manifest(folder, key, [_FACTS])
        stored, bundle = read_json(folder / _FACTS), load_bundle(folder / "bundle", threads)
        ours = self._of_ours.cost
        labels = stored["labels"] + ours.labels
        cost = replace(ours, minutes=(ours.minutes or 0.0) + stored["minutes"], labels=labels)
        tuned = _Classifier(bundle.logits, bundle.preprocess, bundle.temperature, cost)
        title = f"ours, tuned on {stored['labels']} labelled photos"
        most = "" if given.shots is None else f" --per-class {given.shots}"
        command = f"clipstill fine-tune {self._run} --examples {_quoted(given.examples)}{most} --out DIR"
        return Rung(rungs.EXAMPLES, title, self._measured(rungs.EXAMPLES, tuned), command=command)

    # What rungs share.

    def _measured(self, name: str, made: _Classifier) -> Measured:
        from clipstill.evaluation.evaluate import Calibration, evaluate

        answers: list[int] = []

        def answered(images_NHW3: Any) -> Any:
            logits_NC = made.predict(images_NHW3)
            answers.extend(logits_NC.argmax(axis=1).tolist())
            return logits_NC

        photos, batch = self._given.photos, self._bench.config.evaluation.batch
        found = evaluate(
            answered,
            photos,
            made.preprocess,
            batch=batch,
            title=f"ladder, {name}",
            name_skipped=False,
            calibration=Calibration(made.temperature),
        )
        unread = {file for file, _ in found.skipped}
        labels = [label for path, label in photos.items if str(path) not in unread]
        right = "".join("1" if answer == label else "0" for answer, label in zip(answers, labels, strict=True))
        return Measured(right, found.ece, tuple(found.per_class), made.cost)

    def _model_folder(self, name: str, key: str) -> Path:
        return self._place / "models" / f"{name}-{key[:16]}"

    @cached_property
    def _taught_by(self) -> dict[str, int]:
        """How many synthetic images, unlabelled photos and labelled ones the student and its teacher have seen."""
        told = read_json(self._bench.run.stage(STUDENT) / HISTORY_FILE)
        seen = read_json(self._bench.run.stage(CLASS_VECTORS) / TEACHER_FILE).get("examples", {})
        labels = max(sum(seen.values()), int(told["examples"]))
        return {"images": int(told["images"]), "unlabelled": int(told["unlabelled"]), "labels": labels}

    def _minutes(self, stages: tuple[str, ...]) -> float | None:
        """Of work of these stages, of every cohort, as their manifests tell; None where one does not."""
        seconds = 0.0
        for stage in (stage for stage in self._bench.keys if kind_of(stage) in stages):
            manifest = read_manifest(self._bench.run.stage(stage))
            if manifest is None or "seconds" not in manifest.info:
                return None
            seconds += float(manifest.info["seconds"])
        return seconds / 60

    @property
    def _is_too_dear(self) -> bool:
        """A head on cached features is taught in seconds, a network in as long as the student took."""
        return not self._given.dear and self._bench.config.distillation.freeze != "backbone"

    def _too_dear(self, name: str, title: str) -> Rung:
        missing = (
            f"it takes as long as teaching the student did; clipstill ladder {self._run} --images DIR --rungs {name}"
        )
        return Rung(name, title, missing=missing)

    def _not_given(self, name: str, title: str, option: str) -> Rung:
        return Rung(name, title, missing=f"give {option}: clipstill ladder {self._run} --images DIR {option}")

    @property
    def _run(self) -> str:
        return _quoted(self._bench.run.path)

    def _zero_shot_command(self, teacher: str, examples: Path | None, shots: int | None) -> str:
        shown = "" if examples is None else f" --examples {_quoted(examples)}"
        most = "" if examples is None or shots is None else f" --per-class {shots}"
        return f"clipstill zero-shot --run {self._run} --teacher {teacher}{shown}{most} --out DIR"

    def _rerun_command(self, option: str) -> str:
        task, config = self._bench.task, _quoted(self._bench.run.path / "config.yaml")
        names = ",".join(task.names)
        plain = len(names) <= _LONGEST_NAMES and not any(task.descriptions)
        return f"clipstill run --classes {shlex.quote(names) if plain else 'FILE'} --config {config} {option} --out DIR"


def pictures_of_nothing(sampler: DeadLeaves | Noise, count: int, size: int, seed: int) -> TeachingSet:
    """So many pictures without a class, to teach on: a picture for each number, whoever asks."""
    import torch

    from clipstill.assembly.training import TeachingSet
    from clipstill.generators.procedural import pictures

    images_N3HW = pictures(sampler, count, size, seed)
    return TeachingSet(images_N3HW, torch.full((count,), -1), torch.arange(count) % _GROUPS)


def _session_predictor(model: Path, threads: int) -> PredictLogits:
    """An exported file as a map of uint8 images to logits."""
    import numpy as np

    from clipstill.export.onnx import Onnx

    answer = Onnx().open(model, threads)

    def predict(images_NHW3: Any) -> Any:
        return answer(images_NHW3.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))

    return predict


def _is_whole(folder: Path, key: str) -> bool:
    """Whether a folder was committed under this key and is as it was; a damaged one is made again."""
    try:
        return is_whole(folder, key)
    except ArtifactError as error:
        say(f"ladder: {error}")
        return False


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
