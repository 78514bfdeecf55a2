"""Compares a student with its exported files. Shapes: N images, C classes, H x W pixels of the model's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipstill.core.errors import ExportError, reason_of
from clipstill.core.images import fit
from clipstill.core.progress import percent
from clipstill.core.protocols import Preprocess, Size, height_and_width
from clipstill.export.format import Model, frozen
from clipstill.export.onnx import Onnx

if TYPE_CHECKING:
    from torch import nn

# Largest difference of a logit between a float32 export and its student, as a share of the largest logit.
TOLERANCE = 1e-3
# Rounding may swap two classes of almost equal logits, but not for more than one picture in a hundred.
_REQUIRED_AGREEMENT = 0.99
# Pictures of the parity check.
MOST_PICTURES = 32
_COUNT = 16
_BATCH = 32


@dataclass(frozen=True)
class Reference:
    """Pictures, the student's logits for them, and their labels where they are known."""

    x_N3HW: np.ndarray
    logits_NC: np.ndarray
    label_N: np.ndarray | None = None
    made: bool = False  # Whether they are smooth random pictures.

    @classmethod
    def of(
        cls, student: nn.Module, size: Size, pictures_NHW3: np.ndarray | None, label_N: np.ndarray | None = None
    ) -> Reference:
        """Of uint8 pictures of any size; where there is none, of smooth random ones."""
        x_N3HW = as_input(pictures_NHW3, size)
        made = not len(x_N3HW)
        if made:
            x_N3HW = smooth_pictures(np.random.default_rng(0), size)
        return cls(x_N3HW, student_logits(student, x_N3HW), label_N, made)


def check_parity(student: nn.Module, onnx_path: Path, size: Size, pictures: Reference | None = None) -> dict[str, Any]:
    """Compare the student with its ONNX file on noise and on pictures, the first ``MOST_PICTURES`` of them.

    Where no pictures are given, they are smooth random ones; ``size`` is that of the model's input.

    Returns:
        Facts for ``parity.json``: the largest difference of a logit over both, over the noise and over the pictures;
        the largest difference allowed; the share of equal answers over both; their number ``n``; whether the pictures
        were ``given`` or ``made``.

    Raises:
        ExportError: A logit is not finite or differs by more than is allowed, or the answers differ.
    """
    pictures = pictures or Reference.of(student, size, None)
    noise_N3HW = np.random.default_rng(0).random((_COUNT, 3, *height_and_width(size)), dtype=np.float32)
    inputs = (noise_N3HW, pictures.x_N3HW[:MOST_PICTURES])
    expected = [student_logits(student, noise_N3HW), pictures.logits_NC[:MOST_PICTURES]]
    model = Onnx().open(onnx_path)
    try:
        actual = [logits_of(model, x_N3HW) for x_N3HW in inputs]
        gaps = [float(np.abs(left - right).max()) for left, right in zip(expected, actual, strict=True)]
        # np.max, unlike max, keeps a NaN.
        gap, agreement = float(np.max(gaps)), same_answers(np.concatenate(expected), np.concatenate(actual))
        allowed = allowed_difference(expected)
        check_difference(gap, agreement, allowed)
    except ExportError as error:
        raise ExportError(
            f"the exported model {onnx_path.name} is not the student: {error}. Try another version of torch or "
            f"onnxruntime, or another student."
        ) from error
    return {
        "max_difference": gap,
        "top1_agreement": agreement,
        "n": sum(map(len, inputs)),
        "max_difference_random": gaps[0],
        "max_difference_pictures": gaps[1],
        "pictures": "made" if pictures.made else "given",
        "tolerance": allowed,
    }


def allowed_difference(logits: Sequence[np.ndarray]) -> float:
    """How far a logit of a float32 export may be from the student's, whose logits (N, C) these are."""
    return TOLERANCE * max(float(np.abs(each_NC).max()) for each_NC in logits)


def check_difference(difference: float, agreement: float, allowed: float) -> None:
    """Raise an ``ExportError`` if the largest difference of a logit says that a float32 export is not the student."""
    if not difference <= allowed:  # Not ">", to refuse NaN too.
        raise ExportError(f"a logit differs by {difference:.3g}, allowed is {allowed:.3g}")
    if agreement < _REQUIRED_AGREEMENT:
        raise ExportError(f"it names the same class for only {percent(agreement)} of the pictures")


def same_answers(first_NC: np.ndarray, second_NC: np.ndarray) -> float:
    """Share of the pictures for which both name the same class."""
    return float((first_NC.argmax(axis=1) == second_NC.argmax(axis=1)).mean())


def student_logits(student: nn.Module, x_N3HW: np.ndarray) -> np.ndarray:
    """Logits of the trained module, float32 (N, C)."""
    import torch

    model = frozen(student)
    with torch.inference_mode():
        return logits_of(lambda part_N3HW: model(torch.from_numpy(part_N3HW)).numpy(), x_N3HW)


def logits_of(model: Model, x_N3HW: np.ndarray) -> np.ndarray:
    """Logits of one picture alone, then of the others in batches, so that a graph with a fixed batch fails here.

    Raises:
        ExportError: The model does not run.
    """
    cuts = [1, *range(1 + _BATCH, len(x_N3HW), _BATCH)]
    try:
        return np.concatenate([model(part) for part in np.split(x_N3HW, cuts) if len(part)])
    except Exception as error:  # Each runtime raises kinds of its own.
        raise ExportError(f"it does not run ({reason_of(error)})") from error


def as_input(pictures_NHW3: np.ndarray | None, size: Size) -> np.ndarray:
    """Model input from uint8 (N, h, w, 3), resized as in use; None for no picture."""
    from PIL import Image

    shape = height_and_width(size)
    if pictures_NHW3 is None:
        return np.zeros((0, 3, *shape), dtype=np.float32)
    if pictures_NHW3.shape[1:3] != shape:
        fitted = [fit(Image.fromarray(picture_HW3), Preprocess(size)) for picture_HW3 in pictures_NHW3]
        pictures_NHW3 = np.array(fitted, dtype=np.uint8).reshape(-1, *shape, 3)
    x_N3HW: np.ndarray = np.ascontiguousarray(pictures_NHW3.transpose(0, 3, 1, 2), dtype=np.float32)
    x_N3HW /= 255
    return x_N3HW


def smooth_pictures(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Random pictures with the 1/frequency amplitudes of photos (Field 1987); float32 (16, 3, H, W) in [0, 1]."""
    height, width = height_and_width(size)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0 / max(height, width)
    spectrum = np.fft.rfft2(rng.standard_normal((_COUNT, 3, height, width))) / frequency
    picture = np.fft.irfft2(spectrum, s=(height, width))
    low, high = picture.min(axis=(2, 3), keepdims=True), picture.max(axis=(2, 3), keepdims=True)
    return np.asarray((picture - low) / (high - low), dtype=np.float32)
