"""The gate between a student and its exported file: the same pictures must give the same answers.

Shapes: N images, C classes, H = W = the exported size.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from clipstill.core.errors import ExportError
from clipstill.core.images import fit_square
from clipstill.export.onnx import input_size, open_session, run_session

if TYPE_CHECKING:
    from torch import nn

# Rounding may swap two classes whose logits are equal to the last digits; more than one picture in a hundred is no
# rounding.
REQUIRED_AGREEMENT = 0.99


@dataclass(frozen=True)
class Parity:
    """How far the exported model is from the student that it came from.

    Attributes:
        max_difference: largest absolute difference of a logit, over all pictures.
        top1_agreement: share of the pictures for which both name the same class.
        n: pictures compared, of every kind.
        max_difference_random: the same largest difference over the noise pictures alone.
        max_difference_pictures: over the pictures alone.
        pictures: ``"given"`` for pictures handed in, ``"made"`` for smooth ones made here.
        tolerance: what ``max_difference`` had to stay within.
    """

    max_difference: float
    top1_agreement: float
    n: int
    max_difference_random: float
    max_difference_pictures: float
    pictures: str
    tolerance: float

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def check_parity(
    student: nn.Module,
    onnx_path: Path,
    images_NHW3: np.ndarray | None = None,
    tolerance: float = 1e-3,
    n_random: int = 16,
    seed: int = 0,
) -> Parity:
    """Compare the student with its ONNX file on noise and on pictures, one by one and in a batch.

    Args:
        student: the module the file was exported from; it is neither changed nor moved.
        onnx_path: the exported file. It is removed when the gate refuses it, so that nobody ships it.
        images_NHW3: uint8 pictures, resized as in use where their size differs; smooth ones are made where None.
        tolerance: largest absolute difference of a logit that is allowed.
        n_random: how many noise pictures, and how many pictures where none are given.
        seed: of the noise.

    Raises:
        ExportError: a logit is not finite, differs by more than ``tolerance``, or the answers differ. The file is gone.
    """
    import torch

    session = open_session(onnx_path)
    size = input_size(session)
    rng = np.random.default_rng(seed)
    noise_N3HW = rng.random((n_random, 3, size, size), dtype=np.float32)
    given = images_NHW3 is not None and len(images_NHW3) > 0
    picture_N3HW = (
        as_input(images_NHW3, size) if given and images_NHW3 is not None else smooth_pictures(rng, n_random, size)
    )

    model = copy.deepcopy(student).cpu().float().eval()
    expected: list[np.ndarray] = []
    actual: list[np.ndarray] = []
    with torch.inference_mode():
        for batch_N3HW in (noise_N3HW, picture_N3HW):
            expected.append(model(torch.from_numpy(batch_N3HW)).numpy())
            try:
                # One picture alone, then the others together: a graph with a fixed batch fails here, not in use.
                parts = [run_session(session, part) for part in np.split(batch_N3HW, [1]) if len(part)]
                actual.append(np.concatenate(parts))
            except Exception as error:  # onnxruntime's own kinds differ between versions
                _refuse(onnx_path, f"it does not run ({str(error).strip().splitlines()[0]})")
    if any(left.shape != right.shape for left, right in zip(expected, actual, strict=True)):
        _refuse(onnx_path, f"it answers with shape {actual[0].shape}, the student with {expected[0].shape}")

    gap_random, gap_pictures = (float(np.abs(left - right).max()) for left, right in zip(expected, actual, strict=True))
    agreement = float((np.concatenate(expected).argmax(1) == np.concatenate(actual).argmax(1)).mean())
    gap = max(gap_random, gap_pictures) if np.isfinite([gap_random, gap_pictures]).all() else float("nan")
    if not gap <= tolerance:  # not ">": a NaN must be refused too
        _refuse(onnx_path, f"a logit differs by {gap:.3g}, allowed is {tolerance:.3g}")
    if agreement < REQUIRED_AGREEMENT:
        _refuse(onnx_path, f"it names the same class for only {agreement:.1%} of the pictures")
    return Parity(
        max_difference=gap,
        top1_agreement=agreement,
        n=len(noise_N3HW) + len(picture_N3HW),
        max_difference_random=gap_random,
        max_difference_pictures=gap_pictures,
        pictures="given" if given else "made",
        tolerance=tolerance,
    )


def _refuse(onnx_path: Path, reason: str) -> NoReturn:
    onnx_path.unlink(missing_ok=True)
    raise ExportError(
        f"the exported model {onnx_path.name} is not the student: {reason}. The file was removed; try another "
        f"version of torch or onnxruntime, or another student."
    )


def as_input(images_NHW3: np.ndarray, size: int) -> np.ndarray:
    """uint8 (N, h, w, 3) -> float32 (N, 3, size, size) in [0, 1]."""
    from PIL import Image

    if images_NHW3.shape[1:3] != (size, size):
        images_NHW3 = np.stack([fit_square(Image.fromarray(image), size) for image in images_NHW3])
    image_N3HW: np.ndarray = np.ascontiguousarray(images_NHW3.transpose(0, 3, 1, 2), dtype=np.float32)
    image_N3HW /= 255
    return image_N3HW


def smooth_pictures(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """Pictures whose amplitude falls as 1/frequency, as that of photos does; float32 (n, 3, size, size) in [0, 1].

    Source: Field, "Relations between the statistics of natural images and the response properties of cortical cells",
    1987.
    """
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1.0 / size
    spectrum = np.fft.rfft2(rng.standard_normal((n, 3, size, size))) / frequency
    picture = np.fft.irfft2(spectrum, s=(size, size))
    low, high = picture.min(axis=(2, 3), keepdims=True), picture.max(axis=(2, 3), keepdims=True)
    return np.asarray((picture - low) / (high - low), dtype=np.float32)
