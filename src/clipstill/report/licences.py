"""Licences of the weights, and what the most restrictive one means for those who ship the bundle.

Nothing here is legal advice: it sorts what the parts say of themselves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from enum import IntEnum
from typing import Self

from clipstill.core.protocols import Provenance
from clipstill.report.templates import environment


class Family(IntEnum):
    """Families of licences, from the least to the most restrictive; an unknown licence grants nothing."""

    PERMISSIVE = (
        0,
        "permissive, with attribution",
        "Any use, commercial use among them. Keep the licence text and the names of the authors.",
    )
    SHARE_ALIKE = (
        1,
        "share-alike / copyleft",
        "Any use; what is passed on, and derived from it, must carry the same licence.",
    )
    USE_RESTRICTED = 2, "use-restricted", "Commercial use is allowed, some uses are forbidden: read its list."
    NON_COMMERCIAL = 3, "non-commercial", "No commercial use."
    RESEARCH_ONLY = 4, "research-only", "Research only: neither products nor services."
    UNKNOWN = 5, "unknown", "No licence is known, and without one nothing is permitted: ask the author before shipping."

    title: str
    asks: str  # Of those who use a part.

    def __new__(cls, rank: int, title: str, asks: str) -> Self:  # noqa: D102
        family = int.__new__(cls, rank)
        family._value_, family.title, family.asks = rank, title, asks
        return family


# SPDX identifiers of common plain names.
_SPDX_OF = {
    **dict.fromkeys(
        ["apache 2", "apache 2.0", "apache-2", "apache license 2.0", "apache license, version 2.0"], "Apache-2.0"
    ),
    "mit license": "MIT",
    "bsd": "BSD-3-Clause",
    "cc0": "CC0-1.0",
    **{name: f"{name}-only" for name in ("gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0")},
    **dict.fromkeys(["not stated", "none", "other"], ""),
}
_OPERATOR = re.compile(r"([()]| (?:AND|OR|WITH) )")

# The first pattern that matches a whole SPDX identifier (without "LicenseRef-") decides. Restrictive ones come first,
# because their names contain those of permissive ones ("CC-BY-NC-SA" contains "CC-BY").
_PATTERNS = {
    Family.RESEARCH_ONLY: r".*research-only.*|.*(for|only)-research.*|apple-amlr|.*academic-use.*",
    Family.NON_COMMERCIAL: r"cc-by-nc.*|.*non-?commercial.*",
    Family.USE_RESTRICTED: r".*openrail.*|.*rail(-.*)?|llama.*|gemma.*|cc-by-nd.*",
    Family.SHARE_ALIKE: r"cc-by-sa.*|[al]?gpl.*|gnu-.*|(mpl|epl|eupl|cddl|osl|cecill|odbl|gfdl)-.*",
    Family.PERMISSIVE: r"mit(-0)?|apache(-license)?(-version)?(-2(\.0)?)?|bsd-.*|0bsd|isc|zlib|unlicense|cc0-1\.0|"
    r"cc-by(-\d(\.\d)?)?|public-domain|pddl-.*|odc-by-.*|wtfpl|boost.*|bsl-1\.0|wordnet(-.*)?|hpnd|psf-2\.0|"
    r"python-2\.0|unicode(-.*)?|ofl-1\.1|artistic-2\.0|postgresql|ncsa|mulanpsl-2\.0",
}


def family_of(licence: str) -> Family:
    """The family of an SPDX identifier, of a plain name, or of an expression with AND, OR and WITH.

    The least restrictive of an ``OR`` counts, and the most restrictive of an ``AND``, or of any expression with
    parentheses: rather too strict than too lax.

    Example:
        >>> family_of("Apache-2.0").name, family_of("MIT AND CC-BY-SA-4.0").name, family_of("MIT OR GPL-3.0").name
        ('PERMISSIVE', 'SHARE_ALIKE', 'PERMISSIVE')
    """
    expression = spdx(licence)
    if "(" in expression:
        parts = re.split(r"[()]| AND | OR ", expression)
        return max((_family_of_one(part) for part in parts if part.strip()), default=Family.UNKNOWN)
    choices = [choice.split(" AND ") for choice in expression.split(" OR ")]
    return min(max(_family_of_one(name) for name in choice) for choice in choices)


def _family_of_one(identifier: str) -> Family:
    # An exception ("GPL-2.0 WITH Classpath-exception-2.0") only grants more, so the licence before it is safe.
    name = identifier.partition(" WITH ")[0].strip().lower().removeprefix("licenseref-")
    return next((family for family, pattern in _PATTERNS.items() if re.fullmatch(pattern, name)), Family.UNKNOWN)


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
        names = ", ".join(sorted({name for part in parts for name in _conjuncts(spdx(part.licence))}))
    return f"Most restrictive licence found: {family.title}, from {names}. {family.asks}"


def warning(provenances: Sequence[Provenance]) -> str | None:
    """The verdict, if commercial use is forbidden or a licence is unknown; else None."""
    family, _ = most_restrictive(provenances)
    return verdict(provenances) if family >= Family.NON_COMMERCIAL else None


def spdx(licence: str) -> str:
    """A valid SPDX expression for a part's licence; a name that SPDX does not list becomes a ``LicenseRef-``.

    Example:
        >>> spdx("apache-2.0 and mit"), spdx("Apache License 2.0"), spdx("CreativeML OpenRAIL-M"), spdx("")
        ('Apache-2.0 AND MIT', 'Apache-2.0', 'LicenseRef-CreativeML-OpenRAIL-M', 'LicenseRef-unknown')
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    text = licence.strip()
    text = re.sub(r"(?i)^cc (by[a-z-]*) (\d\.\d)$", r"CC-\1-\2", _SPDX_OF.get(text.lower(), text))
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        parts = _OPERATOR.split(text)
    if len(parts) > 1:
        return "".join(part if _OPERATOR.fullmatch(part) or not part.strip() else spdx(part) for part in parts)
    return f"LicenseRef-{'-'.join(re.findall(r'[A-Za-z0-9.]+', text)) or 'unknown'}"


def spdx_of_all(provenances: Sequence[Provenance]) -> str:
    """One SPDX expression for all parts together.

    Example:
        >>> spdx_of_all([Provenance("a", "MIT OR GPL-3.0-only", ""), Provenance("b", "Apache-2.0", "")])
        'Apache-2.0 AND (MIT OR GPL-3.0-only)'
    """
    each = {expression for part in provenances for expression in _conjuncts(spdx(part.licence))}
    return " AND ".join(sorted(each, key=lambda text: (text.startswith("("), text))) or spdx("")


def _conjuncts(expression: str) -> list[str]:
    if "(" in expression or " OR " in expression:
        return [f"({expression})"]
    return expression.split(" AND ")


def licence_ledger(weights: Sequence[Provenance], software: Sequence[Provenance] = ()) -> str:
    """The text of ``LICENCES.md``: all parts with their licences, and the most restrictive one.

    Args:
        weights: Weights that are in the bundle or that taught it.
        software: Files of other projects in the bundle, such as a runtime for the browser.
    """
    parts = [*weights, *software]

    def strictest_first(those: Sequence[Provenance]) -> list[tuple[Provenance, Family, str]]:
        rows = [(part, family_of(part.licence), spdx(part.licence)) for part in those]
        return sorted(rows, key=lambda row: (-row[1], row[0].name))

    return (
        environment()
        .get_template("licences.md.jinja")
        .render(
            weights=strictest_first(weights),
            software=strictest_first(software),
            verdict=verdict(parts),
            spdx_of_all=spdx_of_all(parts),
            families=list(Family),
            counts=Counter(family_of(part.licence) for part in parts),
            family=most_restrictive(parts)[0],
        )
    )
