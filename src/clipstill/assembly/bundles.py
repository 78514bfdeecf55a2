"""Bundles: written with model card and licences, and measured on labelled photos."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipstill.evaluation.evaluate import Calibration, EvaluationResult, evaluate
from clipstill.export.bundle import CARD_FILE, BundleContent, write_bundle
from clipstill.report.card import model_card
from clipstill.report.licences import licence_ledger

if TYPE_CHECKING:
    from pathlib import Path

    from clipstill.core.description import ExportFacts
    from clipstill.core.image_folder import ImageFolder
    from clipstill.runtime import Bundle


def write_described_bundle(folder: Path, content: BundleContent, key: str = "") -> ExportFacts:
    """Export a student with ``card.md`` and ``LICENCES.md``; arguments and errors as for ``write_bundle``."""
    description = content.description

    def texts(facts: ExportFacts) -> dict[str, str]:
        licences = licence_ledger(description.provenance, facts.software)
        return {CARD_FILE: model_card(description, facts), "LICENCES.md": licences}

    return write_bundle(folder, content, texts, key)


def measure_student(bundle: Bundle, folder: ImageFolder, *, title: str) -> EvaluationResult:
    """The exported student on labelled photos, with its temperature and its threshold of refusal."""
    calibration = Calibration(bundle.temperature, bundle.refusal_threshold)
    return evaluate(bundle.logits, folder, bundle.preprocess, title=title, calibration=calibration)
