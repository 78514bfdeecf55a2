"""Accuracy against cost, a point a rung, as inline SVG in the style of ``line_chart``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from clipstill.report.line_chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH

_AXES = {"onnx_bytes": ("megabytes", 1e6), "latency_ms": ("milliseconds a picture on one core", 1.0)}
_Z = 1.959964


def ladder_chart(ladder: Mapping[str, Any] | None, cost: str) -> Markup:
    """Draw the measured rungs whose cost is known; costs stand on a logarithmic axis.

    Args:
        ladder: as ``evaluation.ladder.ladder_json`` tells it.
        cost: ``onnx_bytes`` or ``latency_ms``.

    Returns:
        An ``<svg>`` element; an empty string with fewer than two points.
    """
    name, unit = _AXES[cost]
    measured = [rung for rung in ladder["rungs"] if rung["measured"]] if ladder else []
    points = [
        (number, rung, float(rung["measured"]["cost"][cost]) / unit, float(rung["measured"]["top1"]))
        for number, rung in enumerate(measured, start=1)
        if rung["measured"]["cost"][cost]
    ]
    if ladder is None or len(points) < 2:
        return Markup("")
    spans = [_interval(y, int(ladder["n"])) for _, _, _, y in points]
    step = 0.05 if max(high for _, high in spans) - min(low for low, _ in spans) < 0.35 else 0.1
    low, high = (
        math.floor(min(low for low, _ in spans) / step) * step,
        math.ceil(max(high for _, high in spans) / step) * step,
    )
    left, right = (
        math.log(edge) for edge in (min(x for *_, x, _ in points) / 1.4, max(x for *_, x, _ in points) * 1.4)
    )

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log(x) - left) / (right - left)

    def down(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low)

    title = f"top-1 against {name}"
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for index in range(round((high - low) / step) + 1):
        y = low + index * step
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(y):.1f}" y2="{down(y):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{down(y) + 4:.1f}" text-anchor="end">{100 * y:.0f}%</text>')
    for x in _ticks(math.exp(left), math.exp(right)):
        place = f'x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 18}"'
        parts.append(f'<text class="tick" {place} text-anchor="middle">{x:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(name)}</text>')
    placed = _apart([across(x) for *_, x, _ in points])
    for (number, rung, _, y), x, (bottom, top) in zip(points, placed, spans, strict=True):
        kind = " ours" if rung["name"] == "ours" else " teacher" if rung["name"] == "teacher" else ""
        parts.append(f'<line class="bar95" x1="{x:.1f}" x2="{x:.1f}" y1="{down(top):.1f}" y2="{down(bottom):.1f}"/>')
        parts.append(
            f'<circle class="rung{kind}" cx="{x:.1f}" cy="{down(y):.1f}" r="5">'
            f"<title>{escape(rung['title'])}</title></circle>"
        )
        parts.append(f'<text class="name" x="{x + 8:.1f}" y="{down(y) - 5:.1f}">{number}</text>')
    parts.append("</svg>")
    return Markup("".join(str(part) for part in parts))


def _interval(share: float, count: int) -> tuple[float, float]:
    """Where a share of so many photos lies for 95 % (Wilson, JASA 1927)."""
    spread = _Z * _Z / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def _apart(places: list[float], least: float = 22.0) -> list[float]:
    """Rungs of one network cost the same: they stand side by side, so that none hides another."""
    order = sorted(range(len(places)), key=lambda index: (places[index], index))
    groups: list[list[int]] = []
    for index in order:
        if groups and places[index] - places[groups[-1][0]] < least:
            groups[-1].append(index)
        else:
            groups.append([index])
    moved = list(places)
    for group in groups:
        centre = sum(places[index] for index in group) / len(group)
        first = centre - least * (len(group) - 1) / 2
        for rank, index in enumerate(group):
            moved[index] = min(max(first + rank * least, LEFT + 6.0 + rank * least), WIDTH - RIGHT - 12.0)
    return moved


def _ticks(low: float, high: float) -> list[float]:
    """Round costs within the axis: 1, 2 and 5 of each power of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in powers for digit in (1, 2, 5) if low <= (tick := digit * 10.0**power) <= high]
