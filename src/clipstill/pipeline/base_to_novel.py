"""The base-to-novel protocol, whole: a few labelled images of half of the classes, and all other images unlabelled.

The teacher learns prompts from images of the base classes where the settings say so, the student from all training
images without their labels, those of novel classes among them: it is transductive, and the table says so. What is
measured is the last step; nothing is chosen by a test image. A row of its own tells what choosing would have given: the
authors' code keeps the epoch with most right answers for the base test images.

Source: Zhou et al., CVPR 2022 (CoCoOp), and Li et al., CVPR 2024 (PromptKD), which adds the unlabelled images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.files import read_json, read_manifest, sha256_json, write_json
from clipstill.core.images import iterate
from clipstill.datasets import Dataset, without_labels
from clipstill.datasets.split import HALVES, Half, half_of
from clipstill.evaluation.base_to_novel import BaseToNovel
from clipstill.pipeline.keys import CLASS_VECTORS, STUDENT, TEACHER_PROMPTS, templates_of
from clipstill.pipeline.new_student import new_student
from clipstill.pipeline.run import Photos, run
from clipstill.pipeline.run_folder import STAGES_FOLDER
from clipstill.pipeline.workbench import STUDENT_FILE, TEACHER_PROMPTS_FILE, VECTORS_FILE, VECTORS_NAME
from clipstill.text.task import Task, parse_task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from clipstill.core.images import ImageFolder
    from clipstill.core.protocols import Preprocess, Teacher
    from clipstill.evaluation.evaluate import PredictLogits
    from clipstill.pipeline.config import RunConfig
    from clipstill.students.student import Student

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
    "text_weight": 0.0,
    "image_weight": 0.0,
    "logit_weight": 0.0,
    "average_mean": 0.0,
}


@dataclass(frozen=True)
class _Measured:
    """Top-1 in percent on either half."""

    base: float
    novel: float


def base_to_novel(
    config: RunConfig,
    dataset: Dataset,
    shots: int,
    seeds: Sequence[int],
    out: Path,
    baselines: bool = True,
    unlabelled: bool = True,
) -> dict[str, BaseToNovel]:
    """Run and measure; what was measured by an equal call is there already.

    Args:
        config: of the run; ``prompt_teacher.method`` says whether the teacher learns.
        dataset: the whole, with its splits.
        shots: labelled images of each base class; 0 for none.
        seeds: one run each.
        out: a folder for the runs and what was measured.
        baselines: also the teachers without prompts, and CoOp's text prompts on the student's own tower or, where the
            student is no tower, on the teacher.
        unlabelled: let the student see the training images without their labels; else synthetic ones are all it has,
            and it is not transductive.

    Returns:
        Rows by name: baselines, the teacher with prompts where it learns, the student.

    Raises:
        ClipstillError: as a run.
    """
    task = parse_task(list(dataset.classes))
    found: dict[str, list[_Measured]] = {}
    for seed in seeds:
        of_seed = config.model_copy(update={"seed": seed})
        for name, measured in _rows(of_seed, dataset, task, shots, out, baselines, unlabelled):
            found.setdefault(name, []).append(measured)
    return {
        name: BaseToNovel(
            tuple(each.base for each in several),
            tuple(each.novel for each in several),
            transductive=unlabelled and name.startswith("student"),
        )
        for name, several in found.items()
    }


def _rows(
    config: RunConfig, dataset: Dataset, task: Task, shots: int, out: Path, baselines: bool, with_unlabelled: bool
) -> list[tuple[str, _Measured]]:
    """What there is to measure with one seed."""
    root = dataset.root
    examples = {**config.examples.model_dump(), "images": root if shots else None}
    unlabelled = {**config.unlabelled.model_dump(), "images": root if with_unlabelled else None}
    told = config.model_dump(mode="json") | {"examples": examples, "unlabelled": unlabelled}
    config = type(config).model_validate(told)
    # Base labels are the first of all labels, so the same numbers name the same classes in the whole.
    few = dataset.half("base").few(shots, config.seed).folder("train") if shots else None
    labelled = None if few is None else replace(few, classes=dataset.classes)
    names = f"{config.student.name}-{shots}-shot-seed-{config.seed}".replace("/", "-").replace(":", "-")
    folder = out / f"{names}-{sha256_json(config.model_dump(mode='json'))[:8]}"
    protocol = _Protocol(config, dataset, labelled, folder)
    rows = protocol.baselines() if baselines else []
    shown = without_labels(dataset.folder("train")) if with_unlabelled else None
    run(config, task, folder, Photos(None, labelled, shown), protocol.watch)
    if config.has_prompts:
        rows.append((f"teacher {config.teacher.name}, {shots}-shot prompts", protocol.of_teacher()))
    rows.append((f"student {config.student.name}", protocol.of_student()))
    best = protocol.best_watched()
    if best is not None:
        rows.append((f"student {config.student.name}, best of its validations by the base test images", best))
    return rows


class _Protocol:
    """Measures on both halves of one data set, and keeps what it measured."""

    def __init__(self, config: RunConfig, dataset: Dataset, labelled: ImageFolder | None, folder: Path) -> None:
        from clipstill.core.device import pick_device

        self.config, self.dataset, self.labelled, self.folder = config, dataset, labelled, folder
        self.device = pick_device(config.device)
        self.stages = folder / STAGES_FOLDER
        self._features: dict[Half, tuple[Tensor, Tensor]] | None = None

    def baselines(self) -> list[tuple[str, _Measured]]:
        """Those that no unlabelled image is shown."""
        teacher = self.config.teacher.name
        tower = self.config.student.tower_of or teacher
        templates = self.config.prompts.templates
        rows = [
            (f"zero-shot {name}", self._kept([name, templates], partial(self._plain, name)))
            for name in dict.fromkeys((tower, teacher))
        ]
        if self.labelled is not None:
            shown = sorted(str(path) for path, _ in self.labelled.items)
            rows.append(
                (f"CoOp {tower}", self._kept([tower, _COOP, self.config.seed, shown], partial(self._coop, tower)))
            )
        return rows

    def of_teacher(self) -> _Measured:
        """The teacher with the prompts that it learned."""

        def made() -> tuple[PredictLogits, Preprocess]:
            from safetensors.torch import load_file

            from clipstill.teachers.prompted import load_prompts

            path = self.stages / TEACHER_PROMPTS / TEACHER_PROMPTS_FILE
            vectors_CD = load_file(self.stages / CLASS_VECTORS / VECTORS_FILE)[VECTORS_NAME]
            return self._predictor(load_prompts(self._load(self.config.teacher.name), path), vectors_CD)

        return self._kept([TEACHER_PROMPTS, self._key(CLASS_VECTORS)], made)

    def of_student(self) -> _Measured:
        """The student of the finished run."""

        def made() -> tuple[PredictLogits, Preprocess]:
            from clipstill.evaluation.evaluate import student_predictor

            stored = self.stages / STUDENT / STUDENT_FILE
            student = new_student(self.config.student, len(self.dataset.classes), stored, self.config.seed).eval()
            return student_predictor(student, self.device), student.preprocess

        return self._kept([STUDENT, self._key(STUDENT)], made)

    def watch(self, step: int, student: Student, head: nn.Module) -> None:
        """Measure a student on its way. A run that was killed goes on behind what was measured before."""
        import torch

        # While the head alone is taught, the features of the test images stay what they are.
        fixed = head is not student.head
        if self._features is None or not fixed:
            self._features = {which: self._of_test(student, which) for which in HALVES}
        found = {}
        for which, (feat_NF, labels_N) in self._features.items():
            kept = half_of(len(self.dataset.classes), which)
            with torch.no_grad():
                best_N = head(feat_NF)[:, kept.start : kept.stop].argmax(1).cpu()
            found[which] = 100 * float((best_N == labels_N).float().mean())
        earlier = [entry for entry in self._watched() if entry["step"] < step]
        write_json(self._watched_file, [*earlier, {"step": step, **found}])

    def best_watched(self) -> _Measured | None:
        """The validation with most right answers for the base test images: how the authors' code chooses an epoch."""
        watched = self._watched()
        if not watched:
            return None
        best = max(watched, key=lambda entry: float(entry["base"]))
        return _Measured(best["base"], best["novel"])

    @property
    def _watched_file(self) -> Path:
        return self.folder.parent / "measured" / f"{self.folder.name}-validations.json"

    def _watched(self) -> list[dict[str, Any]]:
        return list(read_json(self._watched_file)) if self._watched_file.is_file() else []

    def _of_test(self, student: Student, which: Half) -> tuple[Tensor, Tensor]:
        """Features of a half's test images, and their labels within the half."""
        import torch

        fit, parts, labels = student.preprocess, [], []
        folder = self.dataset.half(which).folder("test")
        batches = iterate(folder, fit.size, fit.crop_fraction, self.config.evaluation.batch, lambda path, reason: None)
        with torch.no_grad():
            for images_NHW3, of_batch, _ in batches:
                x_N3HW = torch.from_numpy(images_NHW3).to(self.device).permute(0, 3, 1, 2).float() / 255
                parts.append(student.features(x_N3HW))
                labels += of_batch
        return torch.cat(parts), torch.tensor(labels)

    def _key(self, stage: str) -> str:
        manifest = read_manifest(self.stages / stage)
        assert manifest is not None
        return manifest.key

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
        texts = class_texts(parse_task(list(self.dataset.classes)), templates_of(self.config, teacher.templates))
        return self._predictor(teacher, class_vectors(teacher, texts))

    def _coop(self, name: str) -> tuple[PredictLogits, Preprocess]:
        from clipstill.pipeline.prompt_teacher import learn_prompts

        assert self.labelled is not None
        section = self.config.prompt_teacher.model_copy(update=_COOP)
        work = self.folder.parent / "work" / f"coop-{self.config.seed}"
        teacher, _ = learn_prompts(self._load(name), section, self.labelled, self.config.seed, work, self.device)
        return self._predictor(teacher, teacher.class_vectors(self.dataset.classes).detach())

    def _kept(self, identity: list[Any], made: Callable[[], tuple[PredictLogits, Preprocess]]) -> _Measured:
        """Measured once for the same identity and test images."""
        test = [[str(path.relative_to(self.dataset.root)), label] for path, label in self.dataset.test]
        place = self.folder.parent / "measured" / f"{sha256_json([identity, self.dataset.classes, test])[:16]}.json"
        if place.is_file():
            return _Measured(**read_json(place))
        predict, preprocess = made()
        base, novel = (self._top1(predict, preprocess, which) for which in HALVES)
        write_json(place, {"base": base, "novel": novel})
        return _Measured(base, novel)

    def _top1(self, predict: PredictLogits, preprocess: Preprocess, which: Half) -> float:
        """In percent, among the classes of one half alone."""
        from clipstill.evaluation.evaluate import evaluate

        kept = half_of(len(self.dataset.classes), which)

        def of_half(images_NHW3: NDArray[np.uint8]) -> NDArray[np.floating]:
            return predict(images_NHW3)[:, kept.start : kept.stop]

        folder = self.dataset.half(which).folder("test")
        return 100 * evaluate(of_half, folder, preprocess, self.config.evaluation.batch, f"{which} classes").top1
