"""Line charts as inline SVG: no script, no library; colours come from the page's style sheet."""

from __future__ import annotations

import math

from markupsafe import Markup, escape

from clipstill.report.data import Chart

WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 12, 40
MOST_POINTS = 300


def line_chart(chart: Chart) -> Markup:
    """Draw a chart; points that are not finite are left out.

    Returns:
        An ``<svg>`` element; an empty string where there is nothing to draw.
    """
    lines = [(series.name, _thin(_finite(series.points))) for series in chart.series]
    points = [point for _, line in lines for point in line]
    if not points:
        return Markup("")
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_ticks = _ticks(min(y for _, y in points), max(y for _, y in points), 4)
    x_ticks = [tick for tick in _ticks(x_low, x_high, 5) if x_low <= tick <= x_high]
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((x - x_low) / (x_high - x_low) if x_high > x_low else 0.5)

    def down(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (y_high - y) / (y_high - y_low)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">']
    for tick in y_ticks:
        y = down(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = f"{100 * tick:g}%" if chart.percent else _number(tick)
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in x_ticks:
        place = f'x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 18}"'
        parts.append(f'<text class="tick" {place} text-anchor="middle">{_number(tick)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(chart.x)}</text>')
    for index, (_, line) in enumerate(lines):
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line)
        if len(line) == 1:
            x, y = line[0]
            parts.append(f'<circle class="s{index} dot" cx="{across(x):.1f}" cy="{down(y):.1f}" r="3.5"/>')
        elif line:
            parts.append(f'<polyline class="s{index}" points="{path}"/>')
    parts.append("</svg>")
    return Markup("".join(str(part) for part in parts))


def _finite(points: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``MOST_POINTS`` points, the first and the last among them: no screen shows more."""
    if len(points) <= MOST_POINTS:
        return points
    step = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(index * step)] for index in range(MOST_POINTS)]


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers that enclose [low, high], about ``wanted`` steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda each: abs(math.log(each / rough)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Rounded, because 3 * 0.1 is 0.30000000000000004 and would be printed so.
    return [round(index * step, 12) for index in range(first, last + 1)]


def _number(value: float) -> str:
    if value != 0 and (abs(value) < 1e-4 or abs(value) >= 1e6):
        return f"{value:.0e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
