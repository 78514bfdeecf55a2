"""A bundle that was opened: its files verified, its model ready.

Shapes: N images, C classes, H x W pixels of the model's input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from clipstill.core.errors import ArtifactError, DataError, did_you_mean
from clipstill.core.file_names import BUNDLE_FOLDER, ZERO_SHOT_FOLDER
from clipstill.core.files import Manifest, read_json, read_manifest, verify_files
from clipstill.core.foresight import measured_photos
from clipstill.core.hub import bundle_folder
from clipstill.core.images import BYTES, Picture, read_fitted
from clipstill.core.names import NONE_OF_THESE, is_plain
from clipstill.core.notebook import html_table
from clipstill.core.onnx_session import open_session
from clipstill.core.paths import refuse_other_than_utf8
from clipstill.core.preprocess_file import PREPROCESS_FILE, read_preprocess
from clipstill.core.progress import percent
from clipstill.core.protocols import Preprocess
from clipstill.core.threads import ahead
from clipstill.runtime import other_formats

MODELS = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
LABELS = "labels.json"
NEEDED = (MODELS["fp32"], LABELS, PREPROCESS_FILE)
BATCH = 32
_MOST_THREADS = 1024


@dataclass(frozen=True)
class Prediction:
    """One class and the model's probability of it, in [0, 1]."""

    label: str
    score: float


@dataclass(frozen=True)
class Answer:
    """What a photo shows.

    Attributes:
        predictions: Classes, the best first.
        refused: Whether the photo seems to show none of the classes; the predictions are then what it resembles most.
            Always False for a model without a threshold of refusal.
    """

    predictions: list[Prediction]
    refused: bool

    @property
    def told(self) -> list[Prediction]:
        """The predictions, behind that of "none of these" where the photo is refused."""
        best = self.predictions[0]
        return [Prediction(NONE_OF_THESE, 1 - best.score), *self.predictions] if self.refused else self.predictions

    def to_json(self, top: int | None = None) -> dict[str, Any]:
        """JSON values: the class that is answered, None for a refused photo; its score; the first ``top`` predictions.

        The score of a refused photo is that of the class that it resembles most.
        """
        best = self.predictions[0]
        predictions = [asdict(each) for each in self.predictions[:top]]
        label = None if self.refused else best.label
        return {"label": label, "score": best.score, "predictions": predictions, "refused": self.refused}


@dataclass(eq=False, repr=False)
class Bundle:
    """An image classifier, made by ``load_bundle``.

    Attributes:
        folder: The folder of the bundle.
        labels: Class names, in the order of the logits.
        preprocess: How a photo becomes pixels (the model normalises by itself).
        temperature: Divisor of the logits before softmax.
        refusal_threshold: A photo whose best score is lower shows none of the classes; None for a model that always
            answers.
        info: Facts from the manifest, such as the names of teacher and student.
        model: Which model of the bundle answers, as ``load_bundle`` takes it.
        file: Name of its file in the folder.
        threads: Threads inside one operation; 0 where its library chooses.
        session: The model in onnxruntime, or what runs another format.
    """

    folder: Path
    labels: tuple[str, ...]
    preprocess: Preprocess
    temperature: float
    refusal_threshold: float | None
    info: dict[str, Any]
    model: str
    file: str
    threads: int
    session: Any

    def __repr__(self) -> str:
        return f"Bundle({str(self.folder)!r}, {len(self.labels)} classes, {_pixels(self.preprocess.shape)})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles hold the folder alone, which is opened again where the pickle is read."""
        return load_bundle, (str(self.folder.resolve()), self.threads, self.model)

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        metrics = self.folder / "metrics.json"
        measured = (read_json(metrics).get("evaluation") if metrics.is_file() else None) or {}
        right, size = measured.get("right_and_answered"), (self.folder / self.file).stat().st_size
        threshold, photos = self.refusal_threshold, measured_photos(measured) if measured else ""
        rows = {
            "Bundle": str(self.folder),
            f"{len(self.labels)} classes": ", ".join(self.labels[:12]) + (" ..." if len(self.labels) > 12 else ""),
            "Model": f"{self.file}, {size / 1e6:.1f} MB, {_pixels(self.preprocess.shape)}",
            "Right and answered": "not measured" if right is None else f"{percent(right)} of {photos}",
            "Temperature": f"{self.temperature:.3g}",
            'Says "none of these"': "never" if threshold is None else f"below a score of {threshold:.3g}",
        }
        return html_table(rows)

    def pixels(self, photo: Picture) -> np.ndarray:
        """Read and fit one photo: uint8 (H, W, 3), by the same code as the evaluation.

        Raises:
            DataError: The photo is missing, damaged, too large or no image; an array is not uint8 (H, W, 3).
        """
        return read_fitted(photo, self.preprocess)

    def logits(self, pixels_NHW3: np.ndarray) -> np.ndarray:
        """Logits, float32 (N, C), of pixels that ``pixels`` made, uint8 (N, H, W, 3).

        Raises:
            DataError: The pixels have another shape or another type.
            ArtifactError: The model answers with numbers that are not finite.
        """
        height, width = self.preprocess.shape
        if pixels_NHW3.dtype != np.uint8 or pixels_NHW3.shape[1:] != (height, width, 3):
            raise DataError(
                f"logits takes uint8 pixels of shape (N, {height}, {width}, 3), got {pixels_NHW3.dtype} "
                f"{pixels_NHW3.shape}. Use Bundle.pixels to make them from a photo."
            )
        name = self.session.get_inputs()[0].name
        parts = [np.zeros((0, len(self.labels)), dtype=np.float32)]
        for start in range(0, len(pixels_NHW3), BATCH):
            batch_NHW3 = pixels_NHW3[start : start + BATCH]
            batch_N3HW = np.ascontiguousarray(batch_NHW3.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
            parts.append(self.session.run(None, {name: batch_N3HW})[0])
        logits_NC = np.concatenate(parts)
        if not np.isfinite(logits_NC).all():
            raise ArtifactError(f"{self.folder / self.file} answers with numbers that are not finite. Make it again.")
        return logits_NC

    def probabilities(self, logits_NC: np.ndarray) -> np.ndarray:
        """Softmax of logits / temperature: float64 (N, C), each row sums to 1."""
        scaled_NC = logits_NC.astype(np.float64) / self.temperature
        exponent_NC = np.exp(scaled_NC - scaled_NC.max(axis=1, keepdims=True))
        return np.asarray(exponent_NC / exponent_NC.sum(axis=1, keepdims=True))

    # A str is a sequence of str to the type checker; at run time it is one path.
    @overload
    def predict(self, photo: Picture, top: int | None = None) -> list[Prediction]: ...  # type: ignore[overload-overlap]
    @overload
    def predict(
        self, photo: Sequence[Picture] | Iterator[Picture], top: int | None = None
    ) -> list[list[Prediction]]: ...
    def predict(
        self, photo: Picture | Sequence[Picture] | Iterator[Picture], top: int | None = None
    ) -> list[Prediction] | list[list[Prediction]]:
        """Name what is in a photo, best class first; before them "none of these" where the photo is refused.

        Args:
            photo: A path, a PIL image, an array of uint8 (H, W, 3), the bytes of a file or an open binary file; or a
                sequence or an iterator of such photos.
            top: Number of predictions; None for all.

        Returns:
            Predictions for one photo; for a sequence a list of such lists, in its order. The score of "none of these"
            is what the best class lacks to 1.

        Raises:
            DataError: A photo cannot be read; the message names it.
        """
        # Texts and bytes are sequences, and open files are iterators.
        if isinstance(photo, Sequence | Iterator) and not isinstance(photo, str | BYTES) and not hasattr(photo, "read"):
            return [each.told[:top] for each in self.answer(list(photo), top)]
        return self.answer([photo], top)[0].told[:top]  # type: ignore[list-item]

    def answer(self, photos: Sequence[Picture], top: int | None = None) -> list[Answer]:
        """As ``predict`` for several photos, with whether each shows any of the classes at all."""
        if top is not None and not (isinstance(top, int | np.integer) and top >= 1):
            raise DataError(f"top is {top!r}. Ask for at least one class, by a whole number.")
        found: list[Answer] = []
        # An open picture that is given twice must not be decoded by two threads.
        are_apart = 1 < len(photos) == len(set(map(id, photos)))
        pixels_HW3 = ahead(self.pixels, photos) if are_apart else map(self.pixels, photos)
        for _ in range(0, len(photos), BATCH):
            found += self.answer_pixels(np.stack(list(itertools.islice(pixels_HW3, BATCH))), top)
        return found

    def answer_pixels(self, pixels_NHW3: np.ndarray, top: int | None = None) -> list[Answer]:
        """As ``answer``, for photos that ``pixels`` has read: uint8 (N, H, W, 3)."""
        found = []
        for score_C in self.probabilities(self.logits(pixels_NHW3)):
            order = np.argsort(-score_C, kind="stable")[:top]
            predictions = [Prediction(self.labels[i], float(score_C[i])) for i in order]
            found.append(Answer(predictions, bool(score_C.max() < (self.refusal_threshold or 0.0))))
        return found


def load_bundle(folder: str | Path, threads: int = 0, model: str = "fp32") -> Bundle:
    """Open a bundle: check each file against its sha256, then load the model on the CPU.

    Args:
        folder: The bundle; a run folder, whose ``bundle/`` is taken, or ``zero-shot/`` while there is no other; or a
            repository on the Hugging Face Hub, ``hf:USER/NAME`` or ``hf:USER/NAME@REVISION``, whose files are fetched.
        threads: Threads inside one operation; 0 lets the library choose.
        model: Which model of the bundle: ``"fp32"``, ``"fp16"`` or ``"int8"`` of ONNX, or another format that was
            exported, such as ``"openvino"``, which its own library runs.

    Raises:
        ArtifactError: It is no bundle, it has no such model, or a file is missing, altered or of an unknown form.
        ExportError: The file of another format cannot be opened.
        ResourceError: onnxruntime or the format's library is not installed, the path is not UTF-8, or the repository
            cannot be reached.
    """
    folder = bundle_folder(folder)
    refuse_other_than_utf8(folder)
    if not isinstance(threads, int) or not 0 <= threads <= _MOST_THREADS:
        raise ArtifactError(f"threads is {threads!r}. Give a whole number from 0 to {_MOST_THREADS}.")
    if not (folder / LABELS).is_file():
        made = (folder / name for name in (BUNDLE_FOLDER, ZERO_SHOT_FOLDER))
        folder = next((place for place in made if read_manifest(place) is not None), folder)
    manifest = read_manifest(folder)
    if manifest is None or not all(name in manifest.files for name in NEEDED):
        wrong = f"{folder} is not a clipstill bundle" if folder.exists() else f"there is no file or folder {folder}"
        raise ArtifactError(f"{wrong}. Name a run made by 'clipstill run', or its bundle.")
    file = _model_file(model, folder, manifest)
    verify_files(folder, manifest)
    labels, temperature, threshold = _read_labels(folder / LABELS)
    preprocess = read_preprocess(folder / PREPROCESS_FILE)
    if model in MODELS:
        session: Any = open_session(folder / file, threads)
        _check_shapes(session, folder / file, len(labels), preprocess.shape)
    else:
        classes, shape = len(labels), preprocess.shape
        session = other_formats.open_other(model, folder / file, threads=threads, classes=classes, shape=shape)
    return Bundle(
        folder=folder,
        labels=labels,
        preprocess=preprocess,
        temperature=temperature,
        refusal_threshold=threshold,
        info=manifest.info,
        model=model,
        file=file,
        threads=threads,
        session=session,
    )


def _model_file(model: str, folder: Path, manifest: Manifest) -> str:
    file = MODELS.get(model)
    if file is None:
        others = other_formats.names()
        if model not in others:
            known = (*MODELS, *others)
            hint = did_you_mean(model, known)
            raise ArtifactError(f"a bundle has no model '{model}'.{hint} All that it may have: {', '.join(known)}.")
        file = other_formats.file_of(model)
    if file not in manifest.files:
        name = f"onnx-{model}" if model in MODELS else model
        raise ArtifactError(f"{folder} holds no {file}. Make it: clipstill export {folder} --format {name}")
    return file


def _read_labels(path: Path) -> tuple[tuple[str, ...], float, float | None]:
    raw = read_json(path)
    try:
        labels, temperature, threshold = raw["labels"], float(raw["temperature"]), raw.get("refusal_threshold")
        threshold = None if threshold is None else float(threshold)
        usable = 0 < len(labels) == len(set(labels)) and all(map(is_plain, labels)) and isinstance(labels, list)
        usable = usable and 1e-6 <= temperature < math.inf and 0 <= (threshold or 0) <= 1
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError):
        usable = False
    if not usable:
        raise ArtifactError(
            f"{path} does not hold labels (different texts without control characters), a temperature above 0 and a "
            f"threshold of refusal from 0 to 1. Make the bundle again."
        )
    return tuple(labels), temperature, threshold


def _check_shapes(session: Any, path: Path, classes: int, shape: tuple[int, int]) -> None:
    """Check that the model takes preprocessed pixels and answers for each label, any number of pictures at once."""
    found = [(each.type, each.shape[1:]) for each in (*session.get_inputs(), *session.get_outputs())]
    if found != [("tensor(float)", [3, *shape]), ("tensor(float)", [classes])]:
        given = ", ".join(f"{kind} {shape}" for kind, shape in found)
        raise ArtifactError(
            f"{path} takes and gives {given}, which does not fit {classes} labels and pictures of "
            f"{_pixels(shape)}. Make the bundle again."
        )


def _pixels(shape: tuple[int, int]) -> str:
    """Height and width in words, or the side of a square."""
    height, width = shape
    return f"{height} px" if height == width else f"{height} x {width} px"
