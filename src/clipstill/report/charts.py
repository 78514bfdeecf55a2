"""Charts as inline SVG; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from clipstill.report.data import Chart

WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 12, 40
# Name of the axis by cost, and its unit.
_COSTS = {"onnx_bytes": ("megabytes", 1e6), "latency_ms": ("milliseconds a picture on one core", 1.0)}
_APART = 22.0  # Least pixels between two rungs.


def line_chart(chart: Chart) -> Markup:
    """Draw the finite points as an ``<svg>`` element; an empty string where there are none."""
    lines = [[point for point in each.points if all(map(math.isfinite, point))] for each in chart.series]
    points = [point for line in lines for point in line]
    if not points:
        return Markup("")
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    if chart.percent and y_low == y_high:
        y_low, y_high = 0.0, 1.0  # No tick above 100 %.
    y_ticks = _ticks(y_low, y_high, 4)
    across = _scale(x_low, x_high, LEFT, WIDTH - RIGHT)
    down = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    marks = []
    for index, line in enumerate(lines):
        if len(line) == 1:
            ((x, y),) = line
            marks.append(f'<circle class="s{index} dot" cx="{across(x):.1f}" cy="{down(y):.1f}" r="3.5"/>')
        elif line:
            path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line)
            marks.append(f'<polyline class="s{index}" points="{path}"/>')
    return _svg(
        marks,
        title=chart.title,
        x_name=chart.x,
        x_ticks=[(across(tick), _number(tick)) for tick in _ticks(x_low, x_high, 5) if x_low <= tick <= x_high],
        y_ticks=[(down(tick), f"{100 * tick:g} %" if chart.percent else _number(tick)) for tick in y_ticks],
    )


def ladder_chart(ladder: Mapping[str, Any] | None, cost: str) -> Markup:
    """Draw accuracy against cost on a logarithmic axis, with a point per measured rung of known cost.

    Args:
        ladder: JSON values of an ``evaluation.ladder.Ladder``, or None.
        cost: ``onnx_bytes`` or ``latency_ms``.

    Returns:
        An ``<svg>`` element; an empty string with fewer than two points.
    """
    name, unit = _COSTS[cost]
    measured = [rung for rung in ladder["rungs"] if rung["measured"]] if ladder else []
    rungs = [(number, rung) for number, rung in enumerate(measured, start=1) if rung["measured"]["cost"][cost]]
    if ladder is None or len(rungs) < 2:
        return Markup("")
    costs = [float(rung["measured"]["cost"][cost]) / unit for _, rung in rungs]
    shares = [float(rung["measured"]["top1"]) for _, rung in rungs]
    intervals = [_interval(share, int(ladder["n"])) for share in shares]
    bottom, top = min(low for low, _ in intervals), max(high for _, high in intervals)
    step = 0.05 if top - bottom < 0.35 else 0.1
    y_ticks = [index * step for index in range(math.floor(bottom / step), math.ceil(top / step) + 1)]
    x_low, x_high = min(costs) / 1.4, max(costs) * 1.4
    across = _scale(math.log(x_low), math.log(x_high), LEFT, WIDTH - RIGHT)
    down = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    marks = []
    places = _apart([across(math.log(each)) for each in costs])
    for (number, rung), x, share, (low, high) in zip(rungs, places, shares, intervals, strict=True):
        kind = f" {rung['name']}" if rung["name"] in ("ours", "teacher") else ""
        y, title = down(share), escape(rung["title"])
        marks += [
            f'<line class="bar95" x1="{x:.1f}" x2="{x:.1f}" y1="{down(high):.1f}" y2="{down(low):.1f}"/>',
            f'<circle class="rung{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{title}</title></circle>',
            f'<text class="name" x="{x + 8:.1f}" y="{y - 5:.1f}">{number}</text>',
        ]
    powers = range(math.floor(math.log10(x_low)), math.ceil(math.log10(x_high)) + 1)
    x_ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return _svg(
        marks,
        title=f"top-1 against {name}",
        x_name=name,
        x_ticks=[(across(math.log(tick)), f"{tick:g}") for tick in x_ticks if x_low <= tick <= x_high],
        y_ticks=[(down(tick), f"{100 * tick:.0f} %") for tick in y_ticks],
    )


def _svg(
    marks: Sequence[str],
    *,
    title: str,
    x_name: str,
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
) -> Markup:
    """Axes with ticks, each a position in pixels and a label, and marks in front of them."""
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for y, label in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for x, label in x_ticks:
        place = f'x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}"'
        parts.append(f'<text class="tick" {place} text-anchor="middle">{label}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>')
    return Markup("".join([*parts, *marks, "</svg>"]))


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """A linear map from [low, high] to pixels."""
    return lambda value: start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers that enclose [low, high], about ``wanted`` steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda each: abs(math.log(each / rough)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Rounded, because 3 * 0.1 would be printed as 0.30000000000000004.
    return [round(index * step, 12) for index in range(first, last + 1)]


def _number(value: float) -> str:
    if value != 0 and (abs(value) < 1e-4 or abs(value) >= 1e6):
        return f"{value:.0e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of ``count`` photos (Wilson, JASA 1927)."""
    z = 1.959964  # 95 % of a normal distribution.
    spread = z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def _apart(places: list[float]) -> list[float]:
    """Move rungs of about equal cost side by side, so that none hides another."""
    groups: list[list[int]] = []
    for index in sorted(range(len(places)), key=lambda index: places[index]):
        if groups and places[index] - places[groups[-1][0]] < _APART:
            groups[-1].append(index)
        else:
            groups.append([index])
    moved = list(places)
    for group in groups:
        centre = sum(places[index] for index in group) / len(group)
        for rank, index in enumerate(group):
            x = centre + _APART * (rank - (len(group) - 1) / 2)
            moved[index] = min(max(x, LEFT + 6.0 + rank * _APART), WIDTH - RIGHT - 12.0)
    return moved
