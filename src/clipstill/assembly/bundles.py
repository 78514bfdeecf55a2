"""A bundle with its model card and its licences, all from one description of the student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.export.bundle import CARD_FILE, write_bundle
from clipstill.report.card import model_card
from clipstill.report.licences import licence_ledger

if TYPE_CHECKING:
    from clipstill.core.description import ExportFacts
    from clipstill.export.bundle import BundleContent


def write_described_bundle(folder: Path, content: BundleContent, key: str = "") -> ExportFacts:
    """Export a student with ``card.md`` and ``LICENCES.md``; arguments and errors as for ``write_bundle``."""
    description = content.description

    def texts(facts: ExportFacts) -> dict[str, str]:
        licences = licence_ledger(description.provenance, facts.software)
        return {CARD_FILE: model_card(description, facts), "LICENCES.md": licences}

    return write_bundle(folder, content, texts, key)
