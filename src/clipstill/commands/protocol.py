"""What the published protocols share: rows that are measured on parts of a data set, each once.

A protocol names its parts (the halves of one data set, or several data sets), and for each the classes that compete.
What is measured of a student is its last step; nothing is chosen by a test image. Beside that stands what choosing
would have given, since the authors of PromptKD keep the epoch with most right answers for test images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from clipstill.assembly.photos import limited
from clipstill.assembly.students import new_student
from clipstill.commands.run import Photos, run_until_student
from clipstill.core.files import read_json, read_manifest, sha256_json, write_json
from clipstill.core.images import ImageFolder, iterate
from clipstill.datasets import Dataset, without_labels
from clipstill.text.task import parse_task
from clipstill.workflow.keys import CLASS_VECTORS, STUDENT, TEACHER_PROMPTS, templates_of
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.store import STAGES_FOLDER
from clipstill.workflow.workbench import STUDENT_FILE, TEACHER_PROMPTS_FILE, VECTORS_FILE, VECTORS_NAME

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from clipstill.core.protocols import Preprocess, Teacher
    from clipstill.evaluation.evaluate import PredictLogits
    from clipstill.students.student import Student
    from clipstill.workflow.settings import Settings

# Top-1 in percent, by part.
Measured = dict[str, float]

# CoOp's own values for sixteen images a class (Zhou et al., IJCV 2022): text prompts alone, and nothing that regulates.
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
class Part:
    """Test images that have a number of their own.

    Attributes:
        folder: labels are positions in ``kept``.
        kept: positions in the classes of the protocol; only these compete.
    """

    folder: ImageFolder
    kept: tuple[int, ...]


@dataclass
class Protocol:
    """Measures, and keeps what it measured.

    Attributes:
        config: of the run.
        classes: all that a student of it tells apart.
        parts: by name, in the order of the table.
        out: for what was measured.
    """

    config: Settings
    classes: tuple[str, ...]
    parts: Mapping[str, Part]
    out: Path
    _features: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        from clipstill.core.device import pick_device

        self.device = pick_device(self.config.device)

    def baselines(self, labelled: ImageFolder | None) -> Iterator[tuple[str, Measured]]:
        """Those that no unlabelled image is shown, by name.

        The student's tower, where it has one, and the teacher, as they are; and with labelled images CoOp's text
        prompts, learned by that tower, or by the teacher where there is none.
        """
        teacher = self.config.teacher.name
        tower = self.config.student.tower_of or teacher
        for name in dict.fromkeys((tower, teacher)):
            made = partial(self._plain, name)
            yield f"zero-shot {name}", self._kept([name, self.config.prompts.templates], made)
        if labelled is not None:
            shown = sorted(str(path) for path, _ in labelled.items)
            identity = [tower, _COOP, self.config.seed, labelled.classes, shown]
            yield f"CoOp {tower}", self._kept(identity, partial(self._coop, tower, labelled))

    def taught(
        self, shown: ImageFolder | None, name: str, prompts: str, by: Sequence[str], test_images: str
    ) -> Iterator[tuple[str, Measured]]:
        """Teach a student, and measure it and the teacher where that has prompts: rows by name.

        Args:
            shown: photos that it sees; None for synthetic images alone.
            name: of the run's folder, which also tells its settings apart.
            prompts: what the teacher's are called.
            by: parts whose test images would choose a validation.
            test_images: what these are called.
        """
        task, student = parse_task(list(self.classes)), self.config.student.name
        about = sha256_json([self.config.model_dump(mode="json"), self.classes, name])[:8]
        run = self.out / f"{student}-{name}-{about}".replace("/", "-").replace(":", "-")
        run_until_student(self.config, task, run, Photos(None, None, shown), partial(self._watch, run))
        if self.config.has_prompts:
            yield f"teacher {self.config.teacher.name}, {prompts}", self._of_teacher(run)
        yield f"student {student}", self._of_student(run)
        best = self._best_watched(run, by)
        if best is not None:
            yield f"student {student}, best of its validations by {test_images}", best

    def _of_teacher(self, run: Path) -> Measured:
        """The teacher with the prompts that it had in a run."""
        stages = run / STAGES_FOLDER

        def made() -> tuple[PredictLogits, Preprocess]:
            from safetensors.torch import load_file

            from clipstill.teachers.prompted import load_prompts

            path = stages / TEACHER_PROMPTS / TEACHER_PROMPTS_FILE
            vectors_CD = load_file(stages / CLASS_VECTORS / VECTORS_FILE)[VECTORS_NAME]
            return self._predictor(load_prompts(self._load(self.config.teacher.name), path), vectors_CD)

        return self._kept([TEACHER_PROMPTS, _key(stages / CLASS_VECTORS)], made)

    def _of_student(self, run: Path) -> Measured:
        """The student of a run."""
        stages = run / STAGES_FOLDER

        def made() -> tuple[PredictLogits, Preprocess]:
            from clipstill.evaluation.evaluate import student_predictor

            stored = stages / STUDENT / STUDENT_FILE
            student = new_student(self.config.student, len(self.classes), stored, self.config.seed).eval()
            return student_predictor(student, self.device), student.preprocess

        return self._kept([STUDENT, _key(stages / STUDENT)], made)

    def _watch(self, run: Path, step: int, student: Student, head: nn.Module) -> None:
        """Measure the student of a run on its way. One that was killed goes on behind what was measured before."""
        import torch

        # While the head alone is taught, the features of the test images stay what they are.
        if not self._features or head is student.head:
            self._features = {name: self._of_test(student, part) for name, part in self.parts.items()}
        found = {}
        for name, (feat_NF, label_N) in self._features.items():
            with torch.no_grad():
                best_N = head(feat_NF)[:, list(self.parts[name].kept)].argmax(1).cpu()
            found[name] = 100 * float((best_N == label_N).float().mean())
        earlier = [entry for entry in self._watched(run) if entry["step"] < step]
        write_json(self._watched_file(run), [*earlier, {"step": step, **found}])

    def _best_watched(self, run: Path, by: Sequence[str]) -> Measured | None:
        """The validation with most right answers in some of the parts; None where there was none."""
        watched = self._watched(run)
        if not watched:
            return None
        best = max(watched, key=lambda entry: fmean(float(entry[name]) for name in by))
        return {name: float(best[name]) for name in self.parts}

    def _watched_file(self, run: Path) -> Path:
        return self._measured / f"{run.name}-{self._identity[:8]}-validations.json"

    def _watched(self, run: Path) -> list[dict[str, Any]]:
        path = self._watched_file(run)
        return list(read_json(path)) if path.is_file() else []

    @property
    def _measured(self) -> Path:
        return self.out / "measured"

    @cached_property
    def _identity(self) -> str:
        """Of classes and test images."""
        parts = {
            name: [part.kept, [[str(path), label] for path, label in part.folder.items]]
            for name, part in self.parts.items()
        }
        return sha256_json([self.classes, parts])

    def _of_test(self, student: Student, part: Part) -> tuple[Tensor, Tensor]:
        """Features of a part's test images, and their labels within it."""
        import torch

        fit, found, labels = student.preprocess, [], []
        batch = self.config.evaluation.batch
        with torch.no_grad():
            for images_NHW3, of_batch, _ in iterate(part.folder, fit.size, fit.crop_fraction, batch, lambda *_: None):
                x_N3HW = torch.from_numpy(images_NHW3).to(self.device).permute(0, 3, 1, 2).float() / 255
                found.append(student.features(x_N3HW))
                labels += of_batch
        return torch.cat(found), torch.tensor(labels)

    def _load(self, name: str) -> Teacher:
        from clipstill.teachers import load_teacher

        return load_teacher(name, self.device, self.config.teacher.precision)

    def _predictor(self, teacher: Teacher, vectors_CD: Tensor) -> tuple[PredictLogits, Preprocess]:
        from clipstill.evaluation.evaluate import teacher_predictor

        return teacher_predictor(teacher, vectors_CD.to(self.device), self.device), teacher.preprocess

    def _plain(self, name: str) -> tuple[PredictLogits, Preprocess]:
        from clipstill.teachers import class_vectors
        from clipstill.text.templates import class_texts

        teacher = self._load(name)
        texts = class_texts(parse_task(list(self.classes)), templates_of(self.config, teacher.templates))
        return self._predictor(teacher, class_vectors(teacher, texts))

    def _coop(self, name: str, labelled: ImageFolder) -> tuple[PredictLogits, Preprocess]:
        from clipstill.assembly.prompt_learning import learn_prompts

        section = self.config.prompt_teacher.model_copy(update=_COOP)
        work = self.out / "work" / f"coop-{self.config.seed}"
        teacher, _ = learn_prompts(self._load(name), section, labelled, self.config.seed, work, self.device)
        return self._predictor(teacher, teacher.class_vectors(self.classes).detach())

    def _kept(self, identity: list[Any], made: Callable[[], tuple[PredictLogits, Preprocess]]) -> Measured:
        """Measured once for the same identity and test images."""
        place = self._measured / f"{sha256_json([identity, self._identity])[:16]}.json"
        if place.is_file():
            return dict(read_json(place))
        predict, preprocess = made()
        found = {name: self._top1(predict, preprocess, name) for name in self.parts}
        write_json(place, found)
        return found

    def _top1(self, predict: PredictLogits, preprocess: Preprocess, name: str) -> float:
        """In percent, among the classes of one part alone."""
        from clipstill.evaluation.evaluate import evaluate

        part = self.parts[name]

        def of_part(images_NHW3: NDArray[np.uint8]) -> NDArray[np.floating]:
            return predict(images_NHW3)[:, list(part.kept)]

        return 100 * evaluate(of_part, part.folder, preprocess, self.config.evaluation.batch, name).top1


def learned_prompts(config: Settings, labelled: ImageFolder | None, out: Path) -> Path | None:
    """The prompts that the teacher learns from labelled images, once for all students of a protocol.

    Returns:
        The file below ``out``, with what learning told beside it; the one that the settings give; None where the
        settings have none learned, or there are no images.
    """
    section = config.prompt_teacher
    if section.weights is not None or section.method == "none" or labelled is None:
        return section.weights
    from clipstill.assembly.prompt_learning import learn_prompts
    from clipstill.core.device import pick_device
    from clipstill.teachers import load_teacher
    from clipstill.teachers.prompted import save_prompts

    device = pick_device(config.device)
    shown = [labelled.classes, sorted(str(path) for path, _ in labelled.items)]
    name = sha256_json([config.teacher.model_dump(), section.model_dump(mode="json"), config.seed, shown])[:16]
    path = out / "teachers" / f"{name}.safetensors"
    if not path.is_file():
        plain = load_teacher(config.teacher.name, device, config.teacher.precision)
        teacher, told = learn_prompts(plain, section, labelled, config.seed, out / "work" / name, device)
        write_json(path.with_suffix(".json"), told)
        save_prompts(teacher, path)
    return path


def shown_photos(config: Settings, dataset: Dataset | None) -> tuple[Settings, ImageFolder | None]:
    """Training images without their labels, as the settings limit them, and the settings that say so.

    Without a data set there are synthetic images alone: as many a class as by default, where the settings make none.
    """
    images = None if dataset is None else dataset.root
    config = config.model_copy(update={"unlabelled": config.unlabelled.model_copy(update={"images": images})})
    if dataset is None:
        count = config.prompts.images_per_class or load_settings().prompts.images_per_class
        prompts = config.prompts.model_copy(update={"images_per_class": count})
        return config.model_copy(update={"prompts": prompts}), None
    return config, limited(without_labels(dataset.folder("train")), config.unlabelled.limit, config.seed)


def with_prompts(config: Settings, weights: Path | None) -> Settings:
    """The same settings with a teacher that has these prompts; None leaves it as it is."""
    method = "none" if weights is None else config.prompt_teacher.method
    section = config.prompt_teacher.model_copy(update={"weights": weights, "method": method})
    return config.model_copy(update={"prompt_teacher": section})


def _key(stage: Path) -> str:
    manifest = read_manifest(stage)
    assert manifest is not None
    return manifest.key
