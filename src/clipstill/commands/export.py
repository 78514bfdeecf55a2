"""Formats of a finished student: what they are calibrated and compared on, and further ones for a run or a bundle.

Shapes: N images, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clipstill.assembly.photos import limited
from clipstill.assembly.students import bundled_section, new_student
from clipstill.core.errors import ConfigError, DataError
from clipstill.core.files import MANIFEST
from clipstill.core.images import ImageFolder, iterate
from clipstill.core.progress import say
from clipstill.core.seeds import generator_for
from clipstill.export import load_format
from clipstill.export.bundle import add_formats
from clipstill.export.measure import LEAST_PICTURES, FormatFacts, Photos, Pictures
from clipstill.report.card import with_formats
from clipstill.runtime import load_bundle
from clipstill.workflow.keys import SURROGATE
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.store import MARKER, STAGES_FOLDER
from clipstill.workflow.workbench import STUDENT_FILE

if TYPE_CHECKING:
    from clipstill.core.protocols import Preprocess
    from clipstill.workflow.workbench import Workbench

# Ranges need a few dozen pictures, and a share of changed answers a few hundred; all formats see each of them.
_MOST_CALIBRATION = 64
_MOST_HELD_OUT = 256
_MOST_PHOTOS = 1000
_AT_ONCE = 64


@dataclass(frozen=True)
class Exported:
    """What came out.

    Attributes:
        out: the bundle with the formats in it.
        formats: what each is worth, ``onnx`` first.
        photos: how many were measured on, by the name of their folder.
    """

    out: Path
    formats: list[FormatFacts]
    photos: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "out": str(self.out),
            "photos": self.photos,
            "formats": {each.format: each.to_json() for each in self.formats},
        }


def pictures_of_run(bench: Workbench) -> Pictures:
    """The pictures that taught the student without a label, and the run's photos."""
    teaching = bench.lesson(with_examples=False, most_photos=_MOST_CALIBRATION + _MOST_HELD_OUT).teaching
    photos = {} if bench.photos is None else {"photos": labelled(bench.photos, bench.student.preprocess)}
    return divided(teaching.images_N3HW, bench.config.seed, photos)


def divided(images_N3HW: Tensor, seed: int, photos: Mapping[str, Photos] | None = None) -> Pictures:
    """Pictures to calibrate on, and others to compare answers on.

    Args:
        images_N3HW: uint8; of any one size.
        seed: of the drawing.
        photos: labelled ones, to compare and measure on too.
    """
    order_N = torch.randperm(len(images_N3HW), generator=generator_for(seed, "export"))
    first = min(_MOST_CALIBRATION, (len(order_N) + 1) // 2)
    calibration_NHW3, held_out_NHW3 = (
        images_N3HW[part_N].permute(0, 2, 3, 1).contiguous().numpy()
        for part_N in (order_N[:first], order_N[first : first + _MOST_HELD_OUT])
    )
    return Pictures(calibration_NHW3, held_out_NHW3, photos or {})


def labelled(folder: ImageFolder, preprocess: Preprocess) -> Photos:
    """A folder's photos as the student sees them; of very many, as many of each class.

    Raises:
        DataError: none of them can be read.
    """
    pixels, labels = _read(limited(folder, max(1, _MOST_PHOTOS // len(folder.classes)), 0), preprocess)
    return Photos(pixels, np.array(labels))


def _read(folder: ImageFolder, preprocess: Preprocess) -> tuple[np.ndarray, list[int]]:
    parts, labels = [], []
    # What cannot be read was told of by the evaluation.
    for images_NHW3, of_batch, _ in iterate(
        folder, preprocess.size, preprocess.crop_fraction, _AT_ONCE, lambda path, reason: None
    ):
        parts.append(images_NHW3)
        labels += of_batch
    if not parts:
        raise DataError(f"none of the {len(folder.items)} photos in {folder.path} could be read. Check the files.")
    return np.concatenate(parts), labels


def export(
    source: Path,
    names: Sequence[str],
    out: Path | None = None,
    images: Mapping[str, Path] | None = None,
    calibration: Path | None = None,
    overrides: Sequence[str] = (),
) -> Exported:
    """Write further formats of a finished student, and measure each beside ``model.onnx``.

    Args:
        source: a run folder or a bundle.
        names: of formats.
        out: a new bundle, which has everything of the old one; into the bundle itself where None.
        images: labelled photos by a name, one sub-folder a class each, on which answers are compared and accuracy is
            measured.
        calibration: photos like those in use, labels not needed, for int8; where None, the run's synthetic images.
        overrides: settings of the section ``export``, such as ``"export.int8_refuse=0.3"``.

    Raises:
        UnknownNameError: no such format.
        ResourceError: a format's package is not installed.
        ArtifactError: no bundle, or an altered one; or ``out`` holds something else.
        DataError: a folder of photos is missing or empty.
        ConfigError: a format needs pictures to calibrate on, and there are none.
    """
    wanted = [load_format(name) for name in names]
    bundle = load_bundle(source)
    preprocess = bundle.preprocess
    # The student of a bundle says itself how it was built.
    config = load_settings("default", None, overrides, {})
    photos = {
        name: labelled(ImageFolder.open(path, bundle.labels), preprocess) for name, path in (images or {}).items()
    }
    seed = int(bundle.info.get("seed", 0))
    teaching_N3HW = _calibration(bundle.folder, calibration, preprocess, seed)
    calibrated = [each.name for each in wanted if each.calibrated]
    if calibrated and len(teaching_N3HW) < 2 * LEAST_PICTURES:
        raise ConfigError(
            f"{calibrated[0]} needs at least {2 * LEAST_PICTURES} pictures to calibrate and to be checked on, and "
            f"{calibration or 'this bundle without its run'} has {len(teaching_N3HW)}. Give photos like those in use "
            f"(labels are not needed): --calibration DIR"
        )
    section = bundled_section(bundle, config.student)
    student = new_student(section, len(bundle.labels), bundle.folder / STUDENT_FILE, seed).eval()
    say(f"export: {', '.join(each.name for each in wanted)}")
    found = add_formats(
        bundle.folder,
        bundle.folder if out is None else out,
        student,
        preprocess.size,
        names,
        divided(teaching_N3HW, seed, photos),
        config.export,
        with_formats,
    )
    counts = {name: len(each.label_N) for name, each in photos.items()}
    return Exported(bundle.folder if out is None else out, found, counts)


def _calibration(bundle: Path, calibration: Path | None, preprocess: Preprocess, seed: int) -> Tensor:
    """Unlabelled pictures: those given, else the synthetic images of the run around the bundle; maybe none."""
    if calibration is not None:
        folder = limited(ImageFolder.without_labels(calibration), _MOST_CALIBRATION + _MOST_HELD_OUT, seed)
        pixels_NHW3, _ = _read(folder, preprocess)
        return torch.from_numpy(pixels_NHW3).permute(0, 3, 1, 2)
    # Of every cohort; what its classes are does not matter here.
    drawn = sorted((bundle.parent / STAGES_FOLDER).glob(f"{SURROGATE}*/{MANIFEST}"))
    if (bundle.parent / MARKER).is_file() and drawn:
        from clipstill.surrogate.dataset import SurrogateSet

        made = SurrogateSet.joined([SurrogateSet.open(manifest.parent) for manifest in drawn])
        order_N = torch.randperm(len(made), generator=generator_for(seed, "export, whole set"))
        # Only these are decoded: the whole set may take gigabytes.
        return made.keep(order_N < _MOST_CALIBRATION + _MOST_HELD_OUT).pixels_N3HW
    return torch.zeros(0, 3, preprocess.size, preprocess.size, dtype=torch.uint8)
