"""What the published protocols share: classifiers that are measured on parts of a data set, each once.

A protocol names its parts (the halves of one data set, or several data sets), and for each the classes that compete.
What is measured of a student is its last step; no test image chooses anything. Beside it stands what choosing would
have given, since the authors of PromptKD keep the epoch with most right answers for test images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipstill.assembly.class_vectors import text_vectors
from clipstill.commands.run import Job, run_until_student
from clipstill.core.device import pick_device
from clipstill.core.file_names import STUDENT_FILE, VECTORS_FILE, VECTORS_NAME
from clipstill.core.files import make_folder, read_manifest, sha256_json, write_json
from clipstill.core.image_folder import ImageFolder, iterate
from clipstill.core.protocols import Preprocess, Teacher
from clipstill.core.records import read_record
from clipstill.datasets import Dataset, without_labels
from clipstill.distributed import torchrun
from clipstill.evaluation.evaluate import BATCH, PredictLogits, evaluate, student_predictor, teacher_predictor
from clipstill.stages import class_vectors, teacher_prompts
from clipstill.stages import student as student_stage
from clipstill.teachers import load_teacher
from clipstill.text.task import parse_task
from clipstill.workflow.models import Models
from clipstill.workflow.photos import Photos, limited
from clipstill.workflow.settings import Settings
from clipstill.workflow.stage import STAGES_FOLDER
from clipstill.workflow.store import lock

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from clipstill.distillation.settings import PromptTeacherSettings
    from clipstill.students.student import Student

# Top-1 in percent, by part.
Accuracies = dict[str, float]

# CoOp's own values for sixteen images a class (Zhou et al., IJCV 2022): text prompts alone, and no regularisation.
_COOP: dict[str, Any] = {
    "method": "regularised",
    "count": 16,
    "visual_depth": 0,
    "text_depth": 1,
    "rank": 0,
    "epochs": 50,
    "batch": 32,
    "lr": 0.002,
    "regularisation": 0.0,
    "average_mean": 0.0,
}


@dataclass(frozen=True)
class ProtocolRequest:
    """What is asked of a protocol."""

    shots: int  # Labelled images per class that the teacher learns from; 0 for none.
    seeds: Sequence[int]  # Seeds; each is one run, or one for each student.
    out: Path  # Folder for the runs and the accuracies.
    # Whether to measure the teachers without prompts too, and CoOp's text prompts on the student's own tower or, where
    # it has none, on the teacher.
    baselines: bool = True
    as_examples: bool = False  # Whether a student's images are drawn by the labelled images instead.
    photos_per_class: int | None = None  # Most unlabelled images of a class that the student sees; None for all.


@dataclass(frozen=True)
class Part:
    """Test images with an accuracy of their own."""

    folder: ImageFolder  # Test images; labels are positions in ``kept``.
    kept: tuple[int, ...]  # Positions in the classes of the protocol; only these classes compete.


@dataclass
class Protocol:
    """Measures classifiers, and keeps what it measured."""

    settings: Settings
    classes: tuple[str, ...]  # All classes that a student tells apart.
    parts: Mapping[str, Part]  # Parts by name, in the order of the table.
    out: Path  # Folder for the runs and the accuracies.
    _features: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)

    @cached_property
    def _device(self) -> torch.device:
        return pick_device(self.settings.device)

    def baselines(self, labelled: ImageFolder | None) -> Iterator[tuple[str, Accuracies]]:
        """Rows of classifiers that see no unlabelled image.

        The student's tower, where it has one, and the teacher, as they are; and with labelled images CoOp's text
        prompts, learned by that tower, or by the teacher where there is none.
        """
        teacher = self.settings.teacher.name
        tower = self.settings.student.tower_of or teacher
        for name in dict.fromkeys((tower, teacher)):
            identity: list[Any] = [name, self.settings.prompts.templates]
            yield f"zero-shot {name}", self.measured_once(identity, partial(self._zero_shot, name))
        if labelled is not None:
            files = sorted(str(path) for path, _ in labelled.items)
            identity = [tower, _COOP, self.settings.seed, labelled.classes, files]
            yield f"CoOp {tower}", self.measured_once(identity, partial(self._coop, tower, labelled))

    def trained(
        self,
        photos: ImageFolder | None,
        examples: ImageFolder | None = None,
        *,
        name: str,
        prompts: str,
        chosen_by: Sequence[str],
        test_images: str,
    ) -> Iterator[tuple[str, Accuracies]]:
        """Train a student, and measure it, and the teacher where that has prompts: rows by name.

        Args:
            photos: What the student sees without labels; None for synthetic images alone.
            examples: Labelled images that synthetic ones are drawn by.
            name: Name of the run's folder, which tells its settings apart from others.
            prompts: What the teacher's prompts are called.
            chosen_by: Parts whose test images would choose a validation.
            test_images: What these are called.
        """
        settings, student = self.settings, self.settings.student.name
        stages, validations = self.run(photos, examples, name=name)
        if settings.has_prompts:
            identity = [teacher_prompts.NAME, _key(stages / class_vectors.NAME)]
            accuracies = self.measured_once(identity, partial(self._prompted, stages))
            yield f"teacher {settings.teacher.name}, {prompts}", accuracies
        identity = [student_stage.NAME, _key(stages / student_stage.NAME)]
        yield f"student {student}", self.measured_once(identity, partial(self._student, stages))
        watched = _read_validations(validations)
        if watched:
            best = max(watched, key=lambda entry: fmean(float(entry[part]) for part in chosen_by))
            accuracies = {part: float(best[part]) for part in self.parts}
            yield f"student {student}, best of its validations by {test_images}", accuracies

    def run(self, photos: ImageFolder | None, examples: ImageFolder | None = None, *, name: str) -> tuple[Path, Path]:
        """Train a student, arguments as for ``trained``; its folder of stages, and the file of its validations."""
        settings, student = self.settings, self.settings.student.name
        facts = settings.model_dump(mode="json")
        digest = sha256_json([facts, self.classes, name])[:8]
        # Students of the same synthetic images share a run, which keeps each of them.
        shared = {} if photos is not None else dict.fromkeys(("student", "distillation"))
        of_run = sha256_json([{**facts, **shared}, self.classes, name])[:8]
        # Names of students may hold paths, and a folder's name has at most 255 bytes.
        start = "students" if shared else student
        run = self.out / f"{start}-{name}-{of_run}".replace("/", "-").replace(":", "-")[-200:]
        validations = self.out / "measured" / f"{run.name}-{digest}-{self._identity[:8]}-validations.json"
        task, watch = parse_task(list(self.classes)), partial(self._watch, validations)
        settings.check_together()
        photos_of_run = Photos(examples=examples, unlabelled=photos, listed=True)
        run_until_student(Job(settings, task, run, photos_of_run, models=Models(settings), watch=watch))
        return run / STAGES_FOLDER, validations

    def _watch(self, validations: Path, step: int, student: Student, head: nn.Module) -> None:
        """Measure the student of a run at a validation. One that was killed goes on behind earlier validations."""
        import torch

        # While the head alone is trained, the features of the test images stay what they are.
        if not self._features or head is student.head:
            self._features = {name: self._test_features(student, part) for name, part in self.parts.items()}
        found = {}
        for name, (feat_NF, label_N) in self._features.items():
            with torch.no_grad():
                best_N = head(feat_NF)[:, list(self.parts[name].kept)].argmax(1).cpu()
            found[name] = 100 * float((best_N == label_N).float().mean())
        earlier = [entry for entry in _read_validations(validations) if entry["step"] < step]
        write_json(validations, [*earlier, {"step": step, **found}])

    @cached_property
    def _identity(self) -> str:
        """Hash of classes and test images."""
        parts = {
            name: [part.kept, [[str(path), label] for path, label in part.folder.items]]
            for name, part in self.parts.items()
        }
        return sha256_json([self.classes, parts])

    def _test_features(self, student: Student, part: Part) -> tuple[Tensor, Tensor]:
        """Features of a part's test images, and their labels within it."""
        import torch

        found, labels = [], []
        with torch.no_grad():
            for pixels_NHW3, batch_labels in iterate(part.folder, student.preprocess, BATCH, on_skip=lambda *_: None):
                x_N3HW = torch.from_numpy(pixels_NHW3).to(self._device).permute(0, 3, 1, 2).float() / 255
                found.append(student.features(x_N3HW))
                labels += batch_labels
        return torch.cat(found), torch.tensor(labels)

    def _load(self, name: str) -> Teacher:
        return load_teacher(name, self._device, self.settings.teacher.precision)

    def _predictor(self, teacher: Teacher, vectors_CD: Tensor) -> tuple[PredictLogits, Preprocess]:
        return teacher_predictor(teacher, vectors_CD.to(self._device), self._device), teacher.preprocess

    def _zero_shot(self, name: str) -> tuple[PredictLogits, Preprocess]:
        teacher = self._load(name)
        return self._predictor(teacher, text_vectors(teacher, parse_task(list(self.classes)), self.settings))

    def _coop(self, name: str, labelled: ImageFolder) -> tuple[PredictLogits, Preprocess]:
        from clipstill.teachers.prompted import load_prompts

        settings = self.settings.changed(**{"teacher.name": name})
        section = settings.prompt_teacher.changed(**_COOP)
        teacher = load_prompts(self._load(name), _learned_once(settings, section, labelled, self.out / "coop"))
        return self._predictor(teacher, teacher.class_vectors(self.classes).detach())

    def _prompted(self, stages: Path) -> tuple[PredictLogits, Preprocess]:
        """The teacher with the prompts that it had in a run."""
        from safetensors.torch import load_file

        from clipstill.teachers.prompted import load_prompts

        teacher = self._load(self.settings.teacher.name)
        teacher = load_prompts(teacher, stages / teacher_prompts.NAME / teacher_prompts.PROMPTS_FILE)
        tensors = load_file(stages / class_vectors.NAME / VECTORS_FILE)
        return self._predictor(teacher, tensors[VECTORS_NAME])

    def _student(self, stages: Path) -> tuple[PredictLogits, Preprocess]:
        from clipstill.assembly.students import new_student

        stored = stages / student_stage.NAME / STUDENT_FILE
        student = new_student(self.settings.student, len(self.classes), stored, self.settings.seed).eval()
        return student_predictor(student, self._device), student.preprocess

    def measured_once(
        self, identity: list[Any], predictor: Callable[[], tuple[PredictLogits, Preprocess]]
    ) -> Accuracies:
        """Accuracies of a classifier that an equal call measured before, else measured now."""
        place = self.out / "measured" / f"{sha256_json([identity, self._identity])[:16]}.json"
        if place.is_file():
            return read_record(place, dict[str, float])
        predict, preprocess = predictor()
        found = {name: self._top1(predict, preprocess, name) for name in self.parts}
        write_json(place, found)
        return found

    def _top1(self, predict: PredictLogits, preprocess: Preprocess, name: str) -> float:
        """Top-1 in percent among the classes of one part alone."""
        part = self.parts[name]

        def of_part(pixels_NHW3: NDArray[np.uint8]) -> NDArray[np.floating]:
            return predict(pixels_NHW3)[:, list(part.kept)]

        return 100 * evaluate(of_part, part.folder, preprocess, title=name).top1


def prompts_of(learner: Settings, shots: int, source: str = "") -> str:
    """What the prompts are called that the teacher has by the settings of ``learner``, if it learns from ``source``."""
    learned = f"{shots}-shot prompts{source and f' of {source}'}"
    return learned if learner.prompt_teacher.weights is None else "imported prompts"


def with_prompts(settings: Settings, learner: Settings, labelled: ImageFolder | None, out: Path) -> Settings:
    """The settings with the prompts that the teacher learns by those of ``learner``, once for all students.

    They are those that ``learner`` names where it names some; none where the teacher does not learn.
    """
    section, weights = learner.prompt_teacher, learner.prompt_teacher.weights
    if weights is None and section.method != "none" and labelled is not None:
        weights = _learned_once(learner, section, labelled, out / "teachers")
    method = "none" if weights is None else settings.prompt_teacher.method
    return settings.changed(**{"prompt_teacher.weights": weights, "prompt_teacher.method": method})


def _learned_once(settings: Settings, section: PromptTeacherSettings, labelled: ImageFolder, folder: Path) -> Path:
    """The file of prompts that the teacher of the settings learns, unless an equal call has learned them."""
    from clipstill.assembly.prompt_learning import learn_prompts
    from clipstill.teachers.prompted import save_prompts

    files = [labelled.classes, sorted(str(path) for path, _ in labelled.items)]
    name = sha256_json([settings.teacher.identity(), section.identity(), settings.seed, files])[:16]
    path, work = folder / f"{name}.safetensors", folder.with_name("work") / name
    make_folder(work.parent)
    # All ranks of torchrun learn the same.
    with lock(work.with_suffix(".lock")) if torchrun.world() == 1 else nullcontext():
        if path.is_file():
            return path
        plain = load_teacher(settings.teacher.name, pick_device(settings.device), settings.teacher.precision)
        teacher, history = learn_prompts(
            plain, labelled, section, settings.reading, names=labelled.classes, seed=settings.seed, work=work
        )
        write_json(path.with_suffix(".json"), history)
        save_prompts(teacher, path)
    return path


def with_photos(
    settings: Settings, dataset: Dataset | None, per_class: int | None = None
) -> tuple[Settings, ImageFolder | None]:
    """Training images without their labels, as the settings limit them, and the settings that name them.

    At most ``per_class`` are taken of a class, so that the labels serve to draw them.

    Without a data set there are synthetic images alone: as many a class as by default, where the settings make none.
    """
    if dataset is None:
        count = settings.prompts.images_per_class or Settings().prompts.images_per_class
        return settings.changed(**{"unlabelled.images": None, "prompts.images_per_class": count}), None
    dataset = dataset if per_class is None else dataset.few(per_class, settings.seed)
    photos = limited(without_labels(dataset.folder("train")), settings.unlabelled.limit, settings.seed)
    return settings.changed(**{"unlabelled.images": dataset.root}), photos


def _read_validations(path: Path) -> list[dict[str, float]]:
    return read_record(path, list[dict[str, float]]) if path.is_file() else []


def _key(stage: Path) -> str:
    manifest = read_manifest(stage)
    assert manifest is not None
    return manifest.key
