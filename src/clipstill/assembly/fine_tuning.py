"""Few-shot fine-tuning: a finished student, a few labelled photos of its classes, a new bundle.

Shapes: N photos, C classes, S pixels a side.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from clipstill.assembly.photos import limited, refuse_overlap
from clipstill.assembly.students import bundled_section, new_student
from clipstill.assembly.training import read_all
from clipstill.commands.evaluate import measure_student
from clipstill.commands.export import divided, labelled
from clipstill.core.device import make_deterministic, pick_device
from clipstill.core.errors import ConfigError, DataError
from clipstill.core.files import read_json
from clipstill.core.images import ImageFolder
from clipstill.core.progress import say
from clipstill.core.protocols import Provenance
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.trainer import distil
from clipstill.distillation.training_data import TrainingData
from clipstill.distributed import launch
from clipstill.evaluation.calibration import fit_temperature
from clipstill.evaluation.evaluate import BATCH, EvaluationResult, evaluate, student_predictor
from clipstill.evaluation.metrics import softmax
from clipstill.export.bundle import METRICS_FILE, BundleContent, ExportFacts, check_replaceable, write_bundle
from clipstill.report.card import CardData, model_card
from clipstill.report.licences import licence_ledger
from clipstill.runtime import Bundle, load_bundle
from clipstill.workflow.workbench import STUDENT_FILE, VECTORS_FILE, VECTORS_NAME

if TYPE_CHECKING:
    from clipstill.distillation.settings import DistilSettings
    from clipstill.students.student import Student
    from clipstill.workflow.settings import Settings

# Half of the photos each; with one photo of a class there is nothing to leave out.
_FOLDS = 2


@dataclass(frozen=True)
class FineTuned:
    """What came out.

    Attributes:
        out: the new bundle.
        classes: their names.
        examples: photos that were taught.
        temperature: of the scores.
        before: the student on other photos before tuning; None where none were given.
        after: the same after it.
    """

    out: Path
    classes: tuple[str, ...]
    examples: int
    temperature: float
    before: EvaluationResult | None
    after: EvaluationResult | None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        measured = {"before": self.before, "after": self.after}
        return {
            **asdict(self),
            "out": str(self.out),
            "classes": list(self.classes),
            **{name: None if each is None else each.to_json() for name, each in measured.items()},
        }


def fine_tune(
    source: Path, examples: Path, out: Path, config: Settings, per_class: int | None = None, images: Path | None = None
) -> FineTuned:
    """Teach a finished student the labels of a few photos, and write the result as a bundle.

    Args:
        source: a bundle or a run folder.
        examples: labelled photos, one sub-folder a class; every class has some.
        out: the new bundle; absent, empty, or an earlier bundle, which is replaced at the end.
        config: of which ``distillation``, ``seed``, ``device``, ``threads`` and ``export`` are used.
        per_class: most photos of a class that are taught, drawn by the seed; None for all.
        images: other labelled photos, on which both students are measured.

    Raises:
        ArtifactError: no bundle, or an altered one; or ``out`` holds something else.
        DataError: a folder of photos is missing or empty, a class has no photo, or photos are in both folders.
        ConfigError: a setting cannot be used.
        ExportError: the exported model does not behave as the student.

    Source: few-shot fine-tuning of a distilled student, Xuan et al., ACM MM 2023; how they tuned is not known.
    """
    check_replaceable(out)  # Before the work, which would be lost.
    bundle = load_bundle(source)
    if bundle.info.get("zero_shot"):
        raise ConfigError(
            f"{source} is a teacher with stored class vectors, and has nothing that learns. Give its photos to "
            f"clipstill zero-shot --examples, or tune a student that was distilled."
        )
    folder = _shown(examples, bundle.labels, per_class, config.seed)
    photos = None if images is None else ImageFolder.open(images, bundle.labels)
    if images is not None:
        refuse_overlap(folder, images)
    make_deterministic(config.threads or launch.threads_of_this_process())
    before = None if photos is None else measure_student(bundle, photos, BATCH, "before")
    size = bundle.preprocess.size
    section = bundled_section(bundle, config.student)
    settings = config.distillation

    def fresh() -> Student:
        return new_student(section, len(bundle.labels), bundle.folder / STUDENT_FILE, config.seed)

    images_N3SS, label_N = read_all(folder, size)
    missing = set(range(len(bundle.labels))) - set(label_N.tolist())
    if missing:
        raise DataError(f"no photo of '{bundle.labels[min(missing)]}' in {examples} could be read. Check the files.")
    device = pick_device(config.device)
    student = fresh()
    teach_labels(student, images_N3SS, label_N, settings, device, seed=config.seed)
    temperature, threshold = _calibrated(bundle, fresh, images_N3SS, label_N, config, device)
    after = None
    if photos is not None:
        predict, fit = student_predictor(student), student.preprocess
        after = evaluate(predict, photos, fit, BATCH, "after", False, temperature, threshold)
    content, texts = _content(bundle, student.cpu(), temperature, threshold, after, label_N)
    pictures = divided(
        images_N3SS, config.seed, {} if photos is None else {"photos": labelled(photos, bundle.preprocess)}
    )
    export = config.export
    content = replace(content, formats=export.formats, pictures=pictures, limits=export, page=export.page)
    write_bundle(out, content, texts)
    return FineTuned(out, bundle.labels, len(label_N), temperature, before, after)


def _shown(examples: Path, labels: tuple[str, ...], per_class: int | None, seed: int) -> ImageFolder:
    folder = ImageFolder.open(examples, labels)
    if folder.classes_without_images:
        raise DataError(
            f"{examples} has no photo of {', '.join(folder.classes_without_images[:5])}. A student that is shown some "
            f"of its classes forgets the others: add photos, or give these to clipstill run --examples."
        )
    return limited(folder, per_class, seed)


def teach_labels(
    student: Student, images_N3SS: Tensor, label_N: Tensor, settings: DistilSettings, device: torch.device, *, seed: int
) -> None:
    """Teach a student what photos show, in place.

    Args:
        student: its classes are those of the labels.
        images_N3SS: uint8.
        label_N: class of each photo.
        settings: of a lesson without a teacher.
        device: where to work; the student ends there.
        seed: Seed of everything that is drawn.
    """
    no_teacher = SoftLabels(None, torch.zeros(student.head.out_features, 1, device=device))
    data = TrainingData(images_N3SS, label_N, label_N)
    with tempfile.TemporaryDirectory() as work:
        distil(student.to(device), no_teacher, data, settings=settings, folder=Path(work), seed=seed)


def _calibrated(
    bundle: Bundle,
    fresh: Callable[[], Student],
    images_N3SS: Tensor,
    label_N: Tensor,
    config: Settings,
    device: torch.device,
) -> tuple[float, float | None]:
    """Temperature and threshold of refusal, by photos that a student of the other half of them has not seen.

    Where a class has but one photo, they stay as they were.
    """
    if int(torch.bincount(label_N).min()) < _FOLDS:
        return bundle.temperature, bundle.refusal_threshold
    say("calibration: on each half of the photos, by a student of the other half")
    settings = config.distillation
    seen: Counter[int] = Counter()
    fold = []
    for label in label_N.tolist():
        fold.append(seen[label] % _FOLDS)
        seen[label] += 1
    fold_N = torch.tensor(fold)
    logits, targets = [], []
    for number in range(_FOLDS):
        student, aside_N = fresh(), fold_N == number
        teach_labels(student, images_N3SS[~aside_N], label_N[~aside_N], settings, device, seed=config.seed)
        predict = student_predictor(student, device)
        logits.append(predict(images_N3SS[aside_N].permute(0, 2, 3, 1).numpy()))
        targets.append(np.eye(student.head.out_features)[label_N[aside_N].numpy()])
    logits_NC = np.concatenate(logits)
    temperature, threshold = fit_temperature(logits_NC, np.concatenate(targets)), bundle.refusal_threshold
    if threshold is not None:
        # What other things score now is not known; of its own classes it shall still refuse no more than before.
        score_N = softmax(logits_NC / temperature).max(axis=1)
        threshold = min(threshold, float(np.quantile(score_N, config.refusal.most_refused)))
    return temperature, threshold


def _content(
    bundle: Bundle,
    student: Student,
    temperature: float,
    threshold: float | None,
    after: EvaluationResult | None,
    label_N: Tensor,
) -> tuple[BundleContent, Callable[[ExportFacts], dict[str, str]]]:
    """What goes into the new bundle, and its texts."""
    provenance = [Provenance(**part) for part in read_json(bundle.folder / METRICS_FILE)["provenance"]]
    count = len(label_N)
    info = {**bundle.info, "fine_tuned_on": count}
    evaluation: dict[str, Any] | None = None
    if after is not None:
        # The teacher has no part in this.
        evaluation = {"n": after.n, "classes": list(bundle.labels), "chance": 1 / len(bundle.labels)}
        evaluation |= {"student_top1": after.top1, "student": after.to_json(), "teacher_top1": None, "teacher": None}

    def texts(facts: ExportFacts) -> dict[str, str]:
        card = CardData(
            labels=bundle.labels,
            teacher=str(info.get("teacher", "")),
            student=str(info.get("student", "")),
            preprocess=bundle.preprocess,
            provenance=provenance,
            evaluation=evaluation,
            **facts.on_card(),
            fine_tuned_on=count,
            refuses=threshold is not None,
            origin=info.get("origin", {}),
            run={name: value for name, value in info.items() if name not in ("kind", "origin")},
        )
        return {"card.md": model_card(card), "LICENCES.md": licence_ledger(provenance, facts.software)}

    content = BundleContent(
        student=student,
        labels=bundle.labels,
        class_vectors_CD=load_file(bundle.folder / VECTORS_FILE)[VECTORS_NAME],
        preprocess=bundle.preprocess,
        provenance=provenance,
        evaluation=evaluation,
        temperature=temperature,
        refusal_threshold=threshold,
        info=info,
    )
    return content, texts
