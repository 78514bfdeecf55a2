"""Which licences the weights carry, and what the most restrictive of them means for whoever ships the bundle.

Nothing here is legal advice: it sorts what the parts say of themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from clipstill.core.protocols import Provenance


class Family(IntEnum):
    """Families of licences, from the least to the most restrictive. An unknown licence grants nothing."""

    PERMISSIVE = 0
    SHARE_ALIKE = 1
    USE_RESTRICTED = 2
    NON_COMMERCIAL = 3
    RESEARCH_ONLY = 4
    UNKNOWN = 5


@dataclass(frozen=True)
class Meaning:
    """How a family is called, and what it asks."""

    title: str
    asks: str


MEANINGS = {
    Family.PERMISSIVE: Meaning(
        "permissive", "Any use, commercial use among them. Keep the licence text and the names of the authors."
    ),
    Family.SHARE_ALIKE: Meaning(
        "share-alike / copyleft", "Any use; what is passed on, and derived from it, must carry the same licence."
    ),
    Family.USE_RESTRICTED: Meaning(
        "use-restricted", "Commercial use is allowed, some uses are forbidden: read its list."
    ),
    Family.NON_COMMERCIAL: Meaning("non-commercial", "No commercial use."),
    Family.RESEARCH_ONLY: Meaning("research-only", "Research only: neither products nor services."),
    Family.UNKNOWN: Meaning(
        "unknown", "No licence is known, and without one nothing is permitted: ask the author before shipping."
    ),
}

# Asked from top to bottom; the first that matches the whole of one licence name decides. Restrictive ones come first,
# because their names contain those of permissive ones ("CC-BY-NC-SA" contains "CC-BY").
_PATTERNS: tuple[tuple[Family, str], ...] = (
    (Family.RESEARCH_ONLY, r".*research[- ]only.*|.*(for|only) research.*|apple-amlr|.*academic use.*"),
    (Family.NON_COMMERCIAL, r"cc[- ]by[- ]nc.*|.*non-?\s?commercial.*|polyform-noncommercial.*"),
    (Family.USE_RESTRICTED, r".*openrail.*|.*rail(-.*)?|llama.*|gemma.*|cc[- ]by[- ]nd.*"),
    (
        Family.SHARE_ALIKE,
        r"cc[- ]by[- ]sa.*|(a|l)?gpl.*|gnu .*|mpl-.*|epl-.*|eupl-.*|cddl-.*|osl-.*|cecill-.*|odbl-.*|gfdl.*",
    ),
    (
        Family.PERMISSIVE,
        r"mit(-0)?( license)?|apache([- ]license)?([- ,]*(version )?2(\.0)?)?|bsd([- ].*)?|0bsd|isc|zlib|unlicense|"
        r"cc0(-1\.0)?|cc[- ]by([- ]\d(\.\d)?)?|public domain|pddl-.*|odc-by-.*|wtfpl|boost.*|bsl-1\.0|wordnet([- ].*)?|"
        r"hpnd|psf-2\.0|python-2\.0|unicode(-.*)?|ofl-1\.1|artistic-2\.0|postgresql|ncsa|mulanpsl-2\.0",
    ),
)


def family_of(licence: str) -> Family:
    """The family of an SPDX identifier, of a plain name, or of an expression with AND, OR and WITH.

    ``OR`` lets the reader choose (the least restrictive counts), ``AND`` does not (the most restrictive counts). In an
    expression with parentheses the most restrictive of all counts: rather too strict than too lax.

    Example:
        >>> family_of("Apache-2.0").name, family_of("MIT AND CC-BY-SA-4.0").name, family_of("MIT OR GPL-3.0").name
        ('PERMISSIVE', 'SHARE_ALIKE', 'PERMISSIVE')
    """
    if "(" in licence:
        words = re.split(r"[()]|\s+(?:AND|OR)\s+", licence)
        return max((_single(word) for word in words if word.strip()), default=Family.UNKNOWN)
    choices = [[_single(word) for word in re.split(r"\s+AND\s+", choice)] for choice in re.split(r"\s+OR\s+", licence)]
    return min(max(choice) for choice in choices)


def _single(licence: str) -> Family:
    # An exception ("GPL-2.0 WITH Classpath-exception-2.0") only loosens; the licence before it is the safe answer.
    name = re.split(r"\s+WITH\s+", licence.strip())[0].strip().lower()
    for family, pattern in _PATTERNS:
        if re.fullmatch(pattern, name):
            return family
    return Family.UNKNOWN


def most_restrictive(provenances: Sequence[Provenance]) -> tuple[Family, list[Provenance]]:
    """The most restrictive family among the parts, and the parts that carry it; unknown where there is no part."""
    if not provenances:
        return Family.UNKNOWN, []
    worst = max(family_of(part.licence) for part in provenances)
    return worst, [part for part in provenances if family_of(part.licence) == worst]


def verdict(provenances: Sequence[Provenance]) -> str:
    """One sentence: the most restrictive licence found, where it comes from, and what it asks."""
    family, parts = most_restrictive(provenances)
    if not parts:
        return "No weights are recorded, so no licence is known."
    names = ", ".join(sorted({f"{part.licence or 'none'} ({part.name})" for part in parts}))
    if family is Family.PERMISSIVE and len(parts) > 1:
        names = ", ".join(sorted({part.licence for part in parts}))
    meaning = MEANINGS[family]
    return f"Most restrictive licence found: {meaning.title}, from {names}. {meaning.asks}"


def licence_ledger(provenances: Sequence[Provenance]) -> str:
    """``LICENCES.md``: each part whose weights are in the bundle or taught it, and the most restrictive licence."""
    family, _ = most_restrictive(provenances)
    lines = [
        "# Licences",
        "",
        f"**{verdict(provenances)}**",
        "",
        "Every set of weights that is in this bundle or that taught it:",
        "",
        "| part | licence | family | source | sha256 |",
        "|---|---|---|---|---|",
    ]
    for part in sorted(provenances, key=lambda part: (-family_of(part.licence), part.name)):
        digest = f"`{part.sha256}`" if part.sha256 else "-"
        title = MEANINGS[family_of(part.licence)].title
        cells = (part.name, part.licence or "none", title, part.source, digest)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    lines += ["", "The families, from the least to the most restrictive:", ""]
    lines += ["| family | what it asks | here |", "|---|---|---|"]
    for each, meaning in MEANINGS.items():
        count = sum(family_of(part.licence) == each for part in provenances)
        mark = f"{count}, decides" if count and each == family else str(count or "-")
        lines.append(f"| {meaning.title} | {meaning.asks} | {mark} |")
    lines += [
        "",
        "The licence of the weights is not that of the pictures they were trained on. The table repeats what the parts",
        "say of themselves; it is no legal advice.",
        "",
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
