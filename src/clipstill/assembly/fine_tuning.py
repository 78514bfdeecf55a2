"""Few-shot fine-tuning: a finished student, a few labelled photos of its classes, a new bundle.

Shapes: N photos, C classes, S pixels a side.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from clipstill.assembly.bundles import measure_student, write_described_bundle
from clipstill.assembly.pictures import labelled_photos, split_pictures
from clipstill.assembly.students import bundled_section, new_student
from clipstill.assembly.training import open_photos
from clipstill.core.description import Description
from clipstill.core.device import configure_torch, pick_device
from clipstill.core.errors import ArtifactError, ConfigError, DataError
from clipstill.core.file_names import METRICS_FILE, STUDENT_FILE, VECTORS_FILE, VECTORS_NAME
from clipstill.core.files import is_whole, read_manifest, sha256_json
from clipstill.core.image_folder import ImageFolder
from clipstill.core.names import plain
from clipstill.core.notebook import html_table
from clipstill.core.progress import percent, say
from clipstill.core.records import read_record
from clipstill.core.verdict import UNMEASURED, Advice, advise_of_bundle
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.trainer import distil
from clipstill.distillation.training_data import TrainingData
from clipstill.distributed import torchrun
from clipstill.evaluation.calibration import MOST_REFUSED, fit_temperature
from clipstill.evaluation.evaluate import Calibration, Evaluation, EvaluationResult, evaluate, student_predictor
from clipstill.evaluation.metrics import softmax
from clipstill.export.bundle import BundleContent, check_replaceable
from clipstill.export.measure import FormatRequest
from clipstill.runtime import Bundle, load_bundle
from clipstill.runtime.bundle import LABELS
from clipstill.workflow.photos import limited, photos_digest, refuse_overlap
from clipstill.workflow.records import StoredMetrics

if TYPE_CHECKING:
    from clipstill.students.student import Student
    from clipstill.workflow.settings import Settings

_VERSION = 1  # Raised where the same photos and settings give another student.
# Half of the photos each; with one photo of a class there is nothing to leave out.
_FOLDS = 2


@dataclass(frozen=True)
class FineTuned:
    """What came out."""

    out: Path
    classes: tuple[str, ...]
    examples: int  # Number of photos that were trained on.
    temperature: float  # Temperature of the scores.
    before: EvaluationResult | None  # The student on other photos before tuning; None where none were given.
    after: EvaluationResult | None  # The student on the same photos after tuning.

    @property
    def advice(self) -> Advice:
        """The verdict on the tuned student, and what to do next."""
        measured = None if self.after is None else Evaluation(self.after).to_json()
        return advise_of_bundle(UNMEASURED, measured, classes=len(self.classes), folder=str(self.out))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        measured = {"before": self.before, "after": self.after}
        return {
            **asdict(self),
            "out": plain(self.out),
            "classes": list(self.classes),
            **{name: None if each is None else each.to_json() for name, each in measured.items()},
            **asdict(self.advice),
        }

    def facts(self) -> dict[str, str | None]:
        """What people want to know, by name; None where it was not measured."""
        advice, right = self.advice, None
        if self.before is not None and self.after is not None:
            before, after = (percent(each.right_and_answered) for each in (self.before, self.after))
            right = f"{before} -> {after} on others, {Evaluation(self.after).photos}"
        return {
            "classes": str(len(self.classes)),
            "verdict": advice.text,
            "learned from": f"{self.examples} photos",
            "right and answered": right,
            "temperature": f"{self.temperature:.2f}",
            "bundle": str(self.out),
            **advice.facts(str(self.out)),
        }

    def _repr_html_(self) -> str:
        return html_table(self.facts())


def fine_tune(
    source: Path,
    examples: Path,
    out: Path,
    *,
    settings: Settings,
    per_class: int | None = None,
    images: Path | None = None,
) -> FineTuned:
    """Train a finished student on the labels of a few photos; arguments as for ``clipstill.fine_tune``.

    Of ``settings``, ``distillation``, ``export``, ``seed``, ``device``, ``threads`` and ``allow_unmatched`` count.
    ``out`` is absent, empty, or an earlier bundle, which is replaced at the end.

    Raises:
        ClipstillError: The bundle, ``out``, a setting or photos cannot be used, or the export fails its check.

    Source: few-shot fine-tuning of a distilled student, Xuan et al., ACM MM 2023; how they tuned is not known.
    """
    bundle = load_bundle(source)
    labelled = partial(ImageFolder.open, classes=bundle.labels, allow_unmatched=settings.allow_unmatched)
    folder, photos = limited(labelled(examples), per_class, settings.seed), None
    if images is not None:
        photos = labelled(images)
        refuse_overlap(folder, photos)
    return fine_tune_on(folder, bundle, out, settings=settings, photos=photos)


def fine_tune_on(
    folder: ImageFolder, bundle: Bundle, out: Path, *, settings: Settings, photos: ImageFolder | None = None
) -> FineTuned:
    """The same for photos that are listed already."""
    if out.resolve() == bundle.folder.resolve():
        raise ConfigError(f"{out} is the bundle that is tuned, and would be lost. Choose another folder: --out FOLDER.")
    check_replaceable(out)  # Before the work, which would be lost.
    if bundle.info.get("zero_shot"):
        raise ConfigError(
            f"{bundle.folder} is a teacher with stored class vectors, and has nothing that learns. Give the photos to "
            f"clipstill zero-shot --examples; or finish clipstill run without --quick, and tune its student."
        )
    threads = settings.threads or torchrun.threads_of_this_process()
    configure_torch(threads, settings.device, settings.deterministic)
    before = None if photos is None else measure_student(bundle, photos, title="before")
    key = _key_of(folder, bundle, settings, photos)
    with suppress(ArtifactError):  # What is damaged is made again.
        if is_whole(out, key):
            say(f"nothing to do: {out} was tuned on these photos before")
            return _read(out, before)
    data = open_examples(folder, settings)
    student = _tuned(bundle, settings, data)
    calibration = _calibrated(bundle, settings, data)
    after = None
    if photos is not None:
        predict = student_predictor(student)
        after = evaluate(
            predict, photos, student.preprocess, title="after", name_skipped=False, calibration=calibration
        )
    labelled = {} if photos is None else {"photos": labelled_photos(photos, bundle.preprocess)}
    pictures = split_pictures(data.pixels(bundle.preprocess.side), settings.seed, labelled)
    count = len(data.class_id_N)
    content = BundleContent(
        student=student.cpu(),
        class_vectors_CD=load_file(bundle.folder / VECTORS_FILE)[VECTORS_NAME],
        description=_description(bundle, calibration, after, count),
        formats=FormatRequest(settings.export.formats, pictures, settings.export),
        page=settings.export.page,
    )
    write_described_bundle(out, content, key)
    return FineTuned(out, bundle.labels, count, calibration.temperature, before=before, after=after)


def _key_of(folder: ImageFolder, bundle: Bundle, settings: Settings, photos: ImageFolder | None) -> str:
    """Hash of all that a tuned bundle depends on."""
    manifest = read_manifest(bundle.folder)
    assert manifest is not None
    chosen = settings.model_dump(mode="json", include={"distillation", "export", "reading", "seed"})
    source = [manifest.files.get(name) for name in (STUDENT_FILE, LABELS)]
    listed = [photos_digest(folder), photos and photos_digest(photos)]
    return sha256_json(["fine-tune", _VERSION, source, listed, chosen])


def _read(out: Path, before: EvaluationResult | None) -> FineTuned:
    """What an earlier call has left."""
    found, tuned = read_record(out / METRICS_FILE, StoredMetrics)["evaluation"], load_bundle(out)
    after = None if found is None else Evaluation.from_json(found).student
    return FineTuned(out, tuned.labels, tuned.info["fine_tuned_on"], tuned.temperature, before=before, after=after)


def open_examples(folder: ImageFolder, settings: Settings) -> TrainingData:
    """The photos, each with its class as a label and no style."""
    photos = open_photos([folder], settings.reading)
    label_N = torch.tensor([folder.items[photo][1] for photo in photos.photo_N])
    missing = [folder.classes[label] for label in sorted(set(range(len(folder.classes))) - set(label_N.tolist()))]
    if missing:
        raise DataError(
            f"{folder.path} has no photo of {', '.join(missing[:5])} that can be read. A student that is trained on "
            f"some of its classes forgets the others: add photos, or give these to clipstill run --examples."
        )
    return TrainingData.of_no_class().with_photos(photos, label_N)


def _tuned(bundle: Bundle, settings: Settings, data: TrainingData) -> Student:
    """A fresh copy of the bundle's student, trained on the labels of photos; on the device of the settings."""
    classes = len(bundle.labels)
    section = bundled_section(bundle, settings.student)
    return tune(new_student(section, classes, bundle.folder / STUDENT_FILE, settings.seed), settings, data)


def tune(student: Student, settings: Settings, data: TrainingData) -> Student:
    """Train a student on the labels of photos, on the device of the settings, and return it."""
    device = pick_device(settings.device)
    with tempfile.TemporaryDirectory() as work:
        distil(
            student.to(device),
            SoftLabels(None, torch.zeros(student.head.out_features, 1, device=device)),
            data,
            settings=settings.distillation,
            folder=Path(work),
            seed=settings.seed,
        )
    return student


def _calibrated(bundle: Bundle, settings: Settings, data: TrainingData) -> Calibration:
    """Temperature and refusal threshold by photos that a student of the other half of them has not seen.

    Where a class has but one photo, they stay as they were.
    """
    label_N, threshold = data.class_id_N, bundle.refusal_threshold
    if int(torch.bincount(label_N).min()) < _FOLDS:
        return Calibration(bundle.temperature, threshold)
    say("calibration: on each half of the photos, by a student of the other half")
    # The photos are sorted by class: the position within the class, less the place of its first photo.
    fold_N = (torch.arange(len(label_N)) - torch.searchsorted(label_N, label_N)) % _FOLDS
    answers, targets = [], []
    for number in range(_FOLDS):
        student, aside_N = _tuned(bundle, settings, data.where(fold_N != number)), fold_N == number
        predict = student_predictor(student, pick_device(settings.device))
        answers.append(predict(data.where(aside_N).pixels(student.preprocess.side).permute(0, 2, 3, 1).numpy()))
        targets.append(np.eye(student.head.out_features)[label_N[aside_N].numpy()])
    logits_NC = np.concatenate(answers)
    temperature = fit_temperature(logits_NC, np.concatenate(targets))
    if threshold is not None:
        # How other things score now is not known; of its own classes it must refuse no more than before.
        score_N = softmax(logits_NC / temperature).max(axis=1)
        threshold = min(threshold, float(np.quantile(score_N, MOST_REFUSED)))
    return Calibration(temperature, threshold)


def _description(bundle: Bundle, calibration: Calibration, after: EvaluationResult | None, count: int) -> Description:
    """The tuned student, with what the old bundle says of how it was made."""
    info = {name: value for name, value in bundle.info.items() if name not in ("kind", "origin")}
    return Description(
        labels=bundle.labels,
        preprocess=bundle.preprocess,
        provenance=read_record(bundle.folder / METRICS_FILE, StoredMetrics)["provenance"],
        # The teacher has no part in this.
        evaluation=None if after is None else Evaluation(after).to_json(),
        temperature=calibration.temperature,
        refusal_threshold=calibration.threshold,
        origin=bundle.info.get("origin", {}),
        info={**info, "fine_tuned_on": count},
    )
