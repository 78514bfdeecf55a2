"""Further formats for a finished student: of a run or a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipstill.assembly.pictures import MOST_PICTURES, labelled_photos, split_pictures
from clipstill.assembly.students import bundled_section, new_student
from clipstill.assembly.training import read_all
from clipstill.core.errors import ConfigError
from clipstill.core.file_names import STUDENT_FILE
from clipstill.core.files import MANIFEST
from clipstill.core.hub import is_address
from clipstill.core.image_folder import ImageFolder
from clipstill.core.names import plain
from clipstill.core.notebook import html_table
from clipstill.core.progress import say
from clipstill.core.protocols import Preprocess
from clipstill.core.seeds import generator_for
from clipstill.export import load_format
from clipstill.export.bundle import add_formats, check_replaceable
from clipstill.export.measure import FormatFacts, FormatRequest
from clipstill.report.card import with_formats
from clipstill.runtime import load_bundle
from clipstill.stages import images as images_stage
from clipstill.workflow.photos import limited
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.stage import STAGES_FOLDER
from clipstill.workflow.store import MARKER


@dataclass(frozen=True)
class Exported:
    """What came out."""

    out: Path  # The bundle with the formats in it.
    formats: list[FormatFacts]  # Size, latency and agreement of each format, ``onnx`` first.
    photos: dict[str, int]  # Number of photos measured on, by the name of their folder.

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "out": plain(self.out),
            "photos": self.photos,
            "formats": {each.format: each.to_json() for each in self.formats},
        }

    def _repr_html_(self) -> str:
        rows = {
            each.format: each.refused or f"{each.bytes / 1e6:.1f} MB, {each.latency_ms or 0:.1f} ms on one core"
            for each in self.formats
        }
        return html_table({**rows, "bundle": self.out})


def export(
    source: Path,
    names: Sequence[str],
    *,
    out: Path | None = None,
    images: Mapping[str, Path] | None = None,
    calibration: Path | None = None,
    overrides: Sequence[str] = (),
) -> Exported:
    """Write further formats of a finished student and measure each; arguments as for ``clipstill.export_formats``.

    Raises:
        ClipstillError: A format, the bundle or the photos cannot be used.
    """
    for name in names:
        load_format(name)  # Find names that are not known before any work.
    if out is None and is_address(source):
        raise ConfigError(f"{source} lies on the hub and stays as it is. Name a new bundle: --out FOLDER")
    bundle = load_bundle(source)
    check_replaceable(out or bundle.folder)
    preprocess = bundle.preprocess
    # The student of a bundle says itself how it was built.
    settings = load_settings(overrides=overrides)
    photos = {
        name: labelled_photos(
            ImageFolder.open(path, bundle.labels, allow_unmatched=settings.allow_unmatched), preprocess
        )
        for name, path in (images or {}).items()
    }
    seed = int(bundle.info.get("seed", 0))
    pixels_N3HW = _calibration(bundle.folder, calibration, preprocess, seed)
    section = bundled_section(bundle, settings.student)
    student = new_student(section, len(bundle.labels), bundle.folder / STUDENT_FILE, seed).eval()
    say(f"export: {', '.join(names)}")
    request = FormatRequest(names, split_pictures(pixels_N3HW, seed, photos), settings.export)
    found = add_formats(bundle.folder, out or bundle.folder, student, request, card=with_formats)
    counts = {name: len(each.label_N) for name, each in photos.items()}
    return Exported(out or bundle.folder, found, counts)


def _calibration(bundle: Path, calibration: Path | None, preprocess: Preprocess, seed: int) -> Tensor:
    """Unlabelled pictures: those given, else the synthetic images of the run around the bundle; maybe none."""
    if calibration is not None:
        folder = limited(ImageFolder.without_labels(calibration), MOST_PICTURES, seed)
        return read_all(folder, preprocess)[0]
    # Of every cohort; what its classes are does not matter here.
    drawn = sorted((bundle.parent / STAGES_FOLDER).glob(f"{images_stage.NAME}*/{MANIFEST}"))
    if (bundle.parent / MARKER).is_file() and drawn:
        from clipstill.surrogate.dataset import SurrogateSet

        made = SurrogateSet.joined([SurrogateSet.open(manifest.parent) for manifest in drawn])
        order_N = torch.randperm(len(made), generator=generator_for(seed, "export, whole set"))
        # Only these are decoded: the whole set may take gigabytes.
        return made.keep(order_N < MOST_PICTURES).pixels_N3HW
    return torch.zeros(0, 3, *preprocess.shape, dtype=torch.uint8)
