"""A bundle that was opened: its files verified, its model ready.

Shapes: N images, C classes, H = W = ``preprocess.size``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from clipstill.core.errors import ArtifactError, DataError, ResourceError, did_you_mean
from clipstill.core.files import MANIFEST, Manifest, read_json, read_manifest, verify_files
from clipstill.core.images import fit_square, load_rgb
from clipstill.core.names import is_plain
from clipstill.core.protocols import Preprocess

MODEL = "model.onnx"
LABELS = "labels.json"
PREPROCESS = "preprocess.json"
NEEDED = (MODEL, LABELS, PREPROCESS)
# What other names of a model file stand for.
PRECISIONS = {"fp32": MODEL, "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
PRECISIONS |= {"onnx": MODEL, "onnx-fp16": PRECISIONS["fp16"], "onnx-int8": PRECISIONS["int8"]}
BATCH = 32
# No network of ours takes more pixels a side; a number from a damaged file would ask for all memory.
_LARGEST_SIZE = 4096
_LOWEST_TEMPERATURE = 1e-6

Photo = str | Path | Image.Image


@dataclass(frozen=True)
class Prediction:
    """One class and the model's probability of it, in [0, 1]."""

    label: str
    score: float


@dataclass(frozen=True)
class Answer:
    """What a photo shows.

    Attributes:
        predictions: best class first.
        refused: the photo shows none of the classes, as far as the model can tell; the predictions are then what it
            resembles most. Always False for a model that was not taught to refuse.
    """

    predictions: list[Prediction]
    refused: bool


class Bundle:
    """An image classifier. Made by ``load_bundle``.

    Attributes:
        folder: where it lies.
        labels: class names, in the order of the logits.
        preprocess: what happens to a photo before the model sees it (the normalisation lies inside the model).
        temperature: logits are divided by it before they become probabilities.
        refusal_threshold: of the highest score, below which a photo shows none of the classes; None for a model that
            always answers.
        info: what the manifest says of the making.
        file: name of the model's file in the folder.
    """

    def __init__(
        self,
        folder: Path,
        labels: Sequence[str],
        preprocess: Preprocess,
        temperature: float,
        refusal_threshold: float | None,
        session: Any,
        info: dict[str, Any],
        file: str = MODEL,
    ) -> None:
        self.folder = folder
        self.labels = tuple(labels)
        self.preprocess = preprocess
        self.temperature = temperature
        self.refusal_threshold = refusal_threshold
        self.info = info
        self.file = file
        self._session = session
        self._input = session.get_inputs()[0].name

    def __repr__(self) -> str:
        return f"Bundle({str(self.folder)!r}, {len(self.labels)} classes, {self.preprocess.size} px)"

    def pixels(self, photo: Photo) -> np.ndarray:
        """Read and fit one photo: uint8 (H, W, 3), by the same code as the evaluation.

        Args:
            photo: a path, or a PIL image (made RGB; transparency is dropped).

        Raises:
            DataError: the file is missing, damaged, too large or no image.
        """
        image = photo.convert("RGB") if isinstance(photo, Image.Image) else load_rgb(Path(photo))
        return fit_square(image, self.preprocess.size, self.preprocess.crop_fraction)

    def logits(self, images_NHW3: np.ndarray) -> np.ndarray:
        """Fitted pixels, uint8 (N, H, W, 3) -> logits, float32 (N, C).

        Raises:
            DataError: another shape or another type of number.
            ArtifactError: the model answers with numbers that are not finite.
        """
        size = self.preprocess.size
        if images_NHW3.dtype != np.uint8 or images_NHW3.shape[1:] != (size, size, 3):
            raise DataError(
                f"logits takes uint8 pixels of shape (N, {size}, {size}, 3), got {images_NHW3.dtype} "
                f"{images_NHW3.shape}. Use Bundle.pixels to make them from a photo."
            )
        parts = [np.zeros((0, len(self.labels)), dtype=np.float32)]
        for start in range(0, len(images_NHW3), BATCH):
            batch_NHW3 = images_NHW3[start : start + BATCH]
            batch_N3HW = np.ascontiguousarray(batch_NHW3.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
            parts.append(self._session.run(None, {self._input: batch_N3HW})[0])
        logits_NC = np.concatenate(parts)
        if not np.isfinite(logits_NC).all():
            raise ArtifactError(f"{self.folder / MODEL} answers with numbers that are not finite. Make it again.")
        return logits_NC

    def probabilities(self, logits_NC: np.ndarray) -> np.ndarray:
        """Softmax of logits / temperature: float64 (N, C), each row sums to 1."""
        scaled_NC = logits_NC.astype(np.float64) / self.temperature
        exponent_NC = np.exp(scaled_NC - scaled_NC.max(axis=1, keepdims=True))
        return np.asarray(exponent_NC / exponent_NC.sum(axis=1, keepdims=True))

    def refused(self, logits_NC: np.ndarray) -> np.ndarray:
        """Which images show none of the classes: bool (N,)."""
        return self._too_low(self.probabilities(logits_NC))

    def _too_low(self, score_NC: np.ndarray) -> np.ndarray:
        if self.refusal_threshold is None:
            return np.zeros(len(score_NC), dtype=bool)
        return np.asarray(score_NC.max(axis=1) < self.refusal_threshold)

    # A str is a sequence of str to the type checker; at run time it is one path.
    @overload
    def predict(self, photo: Photo, top: int | None = None) -> list[Prediction]: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, photo: Sequence[Photo], top: int | None = None) -> list[list[Prediction]]: ...
    def predict(
        self, photo: Photo | Sequence[Photo], top: int | None = None
    ) -> list[Prediction] | list[list[Prediction]]:
        """Name what is in a photo, best class first.

        Args:
            photo: a path or a PIL image; or a sequence of them.
            top: how many classes; all of them where it is None.

        Returns:
            Predictions for one photo; for a sequence a list of such lists, in its order.

        Raises:
            DataError: a photo cannot be read (it is named).
        """
        if isinstance(photo, str | Path | Image.Image):
            return self.answer([photo], top)[0].predictions
        return [each.predictions for each in self.answer(photo, top)]

    def answer(self, photos: Sequence[Photo], top: int | None = None) -> list[Answer]:
        """As ``predict`` for several photos, and whether each shows any of the classes at all.

        Raises:
            DataError: a photo cannot be read (it is named).
        """
        if top is not None and top < 1:
            raise DataError(f"top is {top}. Ask for at least one class.")
        found: list[Answer] = []
        for start in range(0, len(photos), BATCH):
            found += self.answer_pixels(np.stack([self.pixels(photo) for photo in photos[start : start + BATCH]]), top)
        return found

    def answer_pixels(self, images_NHW3: np.ndarray, top: int | None = None) -> list[Answer]:
        """As ``answer``, for photos that ``pixels`` has read: uint8 (N, H, W, 3).

        Raises:
            DataError: another shape or another type of number.
        """
        score_NC = self.probabilities(self.logits(images_NHW3))
        found = []
        for score_C, refused in zip(score_NC, self._too_low(score_NC), strict=True):
            order = np.argsort(-score_C, kind="stable")[:top]
            found.append(Answer([Prediction(self.labels[i], float(score_C[i])) for i in order], bool(refused)))
        return found


def load_bundle(folder: str | Path, threads: int = 0, model: str = MODEL) -> Bundle:
    """Open a bundle: check each file against its sha256, then load the model on the CPU.

    Args:
        folder: the bundle; or a run folder, whose ``bundle/`` is taken.
        threads: threads inside one operation; 0 lets onnxruntime choose.
        model: an ONNX file of the bundle, or what it is: ``"fp32"``, ``"fp16"``, ``"int8"``.

    Raises:
        ArtifactError: no bundle, or a file of it is missing, altered or of an unknown form; or it has no such model.
        ResourceError: onnxruntime is not installed.
    """
    folder = Path(folder)
    if not (folder / LABELS).is_file() and (folder / "bundle" / MANIFEST).is_file():
        folder = folder / "bundle"
    manifest = read_manifest(folder)
    if manifest is None or not all(name in manifest.files for name in NEEDED):
        raise ArtifactError(f"{folder} is not a clipstill bundle. Name a folder made by 'clipstill run' (RUN/bundle).")
    file = _model_file(model, folder, manifest)
    verify_files(folder, manifest)
    names, temperature, threshold = _read_labels(folder / LABELS)
    preprocess = _read_preprocess(folder / PREPROCESS)
    session = _open(folder / file, threads)
    _check_shapes(session, folder / file, len(names), preprocess.size)
    return Bundle(
        folder=folder,
        labels=names,
        preprocess=preprocess,
        temperature=temperature,
        refusal_threshold=threshold,
        session=session,
        info=manifest.info,
        file=file,
    )


def _model_file(model: str, folder: Path, manifest: Manifest) -> str:
    file = PRECISIONS.get(model, model)
    if file.endswith(".onnx") and file in manifest.files:
        return file
    there = sorted(name for name in manifest.files if name.endswith(".onnx"))
    if file in PRECISIONS.values():
        raise ArtifactError(
            f"{folder} holds no {file} (there is: {', '.join(there)}). Make it: clipstill export {folder} --format "
            f"{next(name for name, known in reversed(PRECISIONS.items()) if known == file)}"
        )
    raise ArtifactError(
        f"{folder} holds no ONNX model '{model}'.{did_you_mean(model, [*PRECISIONS, *there])} There is: "
        f"{', '.join(there)}"
    )


def _read_labels(path: Path) -> tuple[list[str], float, float | None]:
    raw = read_json(path)
    try:
        names, temperature = raw["labels"], float(raw["temperature"])
        # Bundles of earlier versions always answer.
        threshold = raw.get("refusal_threshold")
        threshold = None if threshold is None else float(threshold)
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError):
        raise ArtifactError(f"{path} does not hold labels and a temperature. Make the bundle again.") from None
    if not isinstance(names, list) or not all(isinstance(name, str) and is_plain(name) for name in names):
        raise ArtifactError(
            f"{path} does not hold labels as a list of texts without control characters. Make the bundle again."
        )
    if len(set(names)) < len(names):
        raise ArtifactError(f"{path} holds a label twice. Make the bundle again.")
    if not names or not _LOWEST_TEMPERATURE <= temperature < math.inf:
        raise ArtifactError(f"{path} holds no label, or a temperature that is not above 0. Make the bundle again.")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ArtifactError(f"{path} holds the threshold of refusal {threshold}, not 0 to 1. Make the bundle again.")
    return names, temperature, threshold


def _read_preprocess(path: Path) -> Preprocess:
    raw = read_json(path)
    try:
        red, green, blue = (float(value) for value in raw["mean"])
        std_red, std_green, std_blue = (float(value) for value in raw["std"])
        found = Preprocess(
            size=raw["size"],
            mean=(red, green, blue),
            std=(std_red, std_green, std_blue),
            crop_fraction=float(raw["crop_fraction"]),
        )
    except (TypeError, KeyError, ValueError, OverflowError):
        raise ArtifactError(f"{path} does not hold size, mean, std and crop_fraction. Make the bundle again.") from None
    if type(found.size) is not int or not 1 <= found.size <= _LARGEST_SIZE:
        raise ArtifactError(f"{path}: size is no whole number from 1 to {_LARGEST_SIZE}. Make the bundle again.")
    if not all(map(math.isfinite, found.mean)) or not all(0 < each < math.inf for each in found.std):
        raise ArtifactError(f"{path}: mean and std are no finite numbers, std above 0. Make the bundle again.")
    # Below a tenth, a photo would be enlarged tenfold to be cut again.
    if not 0.1 <= found.crop_fraction <= 1:
        raise ArtifactError(f"{path}: crop_fraction is not 0.1 to 1. Make the bundle again.")
    return found


def _check_shapes(session: Any, path: Path, classes: int, size: int) -> None:
    """The model must take what ``preprocess.json`` makes, and answer for each label; other dimensions are names."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    expected = [("image", inputs, [None, 3, size, size]), ("logits", outputs, [None, classes])]
    for what, found, shape in expected:
        fits = len(found) == 1 and found[0].type == "tensor(float)" and len(found[0].shape) == len(shape)
        if not fits or any(
            isinstance(given, int) and wanted is not None and given != wanted
            for given, wanted in zip(found[0].shape, shape, strict=True)
        ):
            told = ", ".join(f"{each.type} {each.shape}" for each in found) or "nothing"
            raise ArtifactError(
                f"{path} has as {what} {told}, which does not fit {classes} labels and pictures of {size} px. Make the "
                f"bundle again."
            )


def _open(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ResourceError("onnxruntime is not installed; a bundle runs on it: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Only what ends the process; everything else is raised too, and told in one line.
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds differ between versions
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"{path} cannot be run by onnxruntime ({reason}). Make the bundle again.") from error
