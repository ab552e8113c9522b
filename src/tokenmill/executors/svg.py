"""Drawings of a report as inline SVG: line plots, the job graph, the timeline.

Pure functions from plain values to text. Colours are classes of the report's style sheet, so that one
drawing fits light and dark.

>>> ticks(0, 10, 5)
[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tokenmill.executors import units

_MOST_POINTS = 600
_NUM_COLOURS = 8
_NODE = 100.0
_PITCH = 122.0
Point = tuple[float, float]


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers that cover a range with about ``count`` steps."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def line_plot(x_label: str, y_label: str, lines: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Line plot with axes, grid and legend; points that are not finite are left out."""
    clean = {label: _thinned(_finite(line)) for label, line in lines.items()}
    points = [point for line in clean.values() for point in line]
    if not points:
        return '<p class="quiet">no points</p>'
    x_ticks = ticks(min(x for x, _ in points), max(x for x, _ in points), 6)
    y_ticks = ticks(min(y for _, y in points), max(y for _, y in points), 5)
    left, right, top, bottom = 62.0, 616.0, 14.0, 250.0

    def place(point: Point) -> Point:
        return (
            left + (right - left) * _share(point[0], x_ticks[0], x_ticks[-1]),
            bottom - (bottom - top) * _share(point[1], y_ticks[0], y_ticks[-1]),
        )

    parts = []
    for value in y_ticks:
        _, y = place((x_ticks[0], value))
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(left - 8, y + 4, units.si(value), "tick end"))
    for value in x_ticks:
        x, _ = place((value, y_ticks[0]))
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(text(x, bottom + 18, units.si(value), "tick middle"))
    parts.append(text((left + right) / 2, bottom + 38, x_label, "label middle"))
    parts.append(
        f'<text class="label middle" transform="translate(15 {(top + bottom) / 2}) rotate(-90)">'
        f"{escape(y_label)}</text>"
    )
    parts.extend(
        _curve(index, label, [place(p) for p in line]) for index, (label, line) in enumerate(clean.items())
    )
    title = f"{y_label} over {x_label}: {', '.join(clean)}"
    return drawing(640, 294, parts, title) + legend(list(clean))


def _curve(index: int, label: str, points: Sequence[Point]) -> str:
    colour = f"c{index % _NUM_COLOURS}"
    title = f"<title>{escape(label)}</title>"
    if len(points) == 1:
        x, y = points[0]
        return f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="4">{title}</circle>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="curve {colour}" points="{path}">{title}</polyline>'


def legend(labels: Sequence[str]) -> str:
    """Names of the colours, in order."""
    keys = (
        f'<span><i class="key c{index % _NUM_COLOURS}"></i>{escape(label)}</span>'
        for index, label in enumerate(labels)
    )
    return f'<div class="legend">{"".join(keys)}</div>'


def _finite(line: Sequence[Sequence[float]]) -> list[Point]:
    points = [(float(x), float(y)) for x, y in line]
    return [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]


def _thinned(line: list[Point]) -> list[Point]:
    """At most ``_MOST_POINTS`` points; the lowest and the highest of each bucket stay."""
    if len(line) <= _MOST_POINTS:
        return line
    width = math.ceil(len(line) / (_MOST_POINTS // 2))
    kept: list[Point] = []
    for start in range(0, len(line), width):
        bucket = line[start : start + width]
        kept.extend(sorted({min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}))
    return kept


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


# The job graph


def job_graph(jobs: Sequence[Mapping[str, Any]], inputs: Sequence[str]) -> str:
    """The graph of a recipe, parents left of children.

    Args:
        jobs: mappings with ``name``, ``state``, ``note`` and ``parents`` (jobs or recipe inputs), in
            topological order.
        inputs: names of recipe inputs.
    """
    used = [name for name in inputs if any(name in job["parents"] for job in jobs)]
    column = dict.fromkeys(used, 0)
    for job in jobs:
        column[job["name"]] = 1 + max(
            (column[name] for name in job["parents"]), default=-1 if not used else 0
        )
    for name in used:  # an input stands beside its first reader
        column[name] = min(column[job["name"]] for job in jobs if name in job["parents"]) - 1
    rows: dict[int, int] = {}
    place: dict[str, tuple[float, float]] = {}
    for name in [*used, *(job["name"] for job in jobs)]:
        row = rows.get(column[name], 0)
        rows[column[name]] = row + 1
        place[name] = (8 + column[name] * _PITCH, 40 + row * 64.0)
    tallest = max(rows.values())
    place = {name: (x, y + (tallest - rows[column[name]]) * 32.0) for name, (x, y) in place.items()}
    parts = [_edge(place[parent], place[job["name"]]) for job in jobs for parent in job["parents"]]
    parts += [_node(name, "recipe input", "input", place[name], "") for name in used]
    parts += [
        _node(job["name"], job["note"], job["state"], place[job["name"]], f"#job-{job['name']}")
        for job in jobs
    ]
    width = max(x for x, _ in place.values()) + _NODE + 8
    return drawing(width, 40 + tallest * 64.0, parts, "job graph")


def _edge(start: Point, end: Point) -> str:
    (x1, y1), (x2, y2) = start, end
    x1, y1, y2 = x1 + _NODE, y1 + 24, y2 + 24
    bend = (_PITCH - _NODE) / 2
    if x2 - x1 > _PITCH - _NODE and y1 == y2:  # passes over a column: go around its node
        high = y1 - 60
        return (
            f'<path class="edge" d="M{x1 - 20:.0f} {y1 - 24:.0f} C{x1:.0f} {high:.0f} {x2:.0f} {high:.0f}'
            f' {x2 + 20:.0f} {y2 - 24:.0f}"/>'
        )
    return (
        f'<path class="edge" d="M{x1:.0f} {y1:.0f} C{x1 + bend:.0f} {y1:.0f} {x2 - bend:.0f} {y2:.0f}'
        f' {x2:.0f} {y2:.0f}"/>'
    )


def _node(name: str, note: str, state: str, place: Point, link: str) -> str:
    x, y = place
    shown = name if len(name) <= 13 else f"{name[:12]}…"
    body = (
        f'<rect class="node {state}" x="{x:.0f}" y="{y:.0f}" width="{_NODE:.0f}" height="48" rx="8"/>'
        f"<title>{escape(name)}: {escape(state)}</title>"
        + text(x + _NODE / 2, y + 21, shown, "name middle")
        + text(x + _NODE / 2, y + 38, note, "tick middle")
    )
    return f'<a href="{escape(link)}">{body}</a>' if link else f"<g>{body}</g>"


# The timeline


def timeline(rows: Sequence[Mapping[str, Any]]) -> str:
    """When the attempts of each job ran: the height of a band is the number of attempts at that time.

    Args:
        rows: mappings with ``name``, ``state``, ``spans`` (list of start and end in seconds) and ``failed``
            (ends of failed attempts in seconds), all from the start of the run.
    """
    spans = [span for row in rows for span in row["spans"]]
    if not spans:
        return '<p class="quiet">no attempt yet</p>'
    x_ticks = ticks(0.0, max(0.001, *(end for _, end in spans)), 8)
    left, width, height = 150.0, 780.0, 34.0
    scale = width / x_ticks[-1]
    bottom = 8 + height * len(rows)
    parts = []
    for value in x_ticks:
        x = left + value * scale
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{bottom}"/>')
        parts.append(text(x, bottom + 18, _clock(value), "tick middle"))
    for index, row in enumerate(rows):
        parts.append(text(left - 12, 8 + height * (index + 0.65), row["name"], "name end"))
        parts.append(_band(row, left, 8 + height * (index + 1) - 5, height - 11, scale))
    return drawing(left + width + 40, bottom + 26, parts, "attempts over time")


def _band(row: Mapping[str, Any], left: float, base: float, height: float, scale: float) -> str:
    ends = [(max(end, start + 1e-6), -1) for start, end in row["spans"]]  # a clock may have been set back
    changes = sorted([(start, 1) for start, _ in row["spans"]] + ends)
    live = peak = 0
    for _, change in changes:
        live += change
        peak = max(peak, live)
    if not peak:
        return ""
    path, live = [], 0
    for moment, change in changes:
        x = left + moment * scale
        path.append(f"L{x:.1f} {base - height * live / peak:.1f}")
        live += change
        path.append(f"L{x:.1f} {base - height * live / peak:.1f}")
    start, end = left + changes[0][0] * scale, left + changes[-1][0] * scale
    title = f"<title>{escape(row['name'])}: {len(row['spans'])} attempts, at most {peak} at a time</title>"
    band = f'<path class="band {row["state"]}" d="M{start:.1f} {base:.1f} {" ".join(path)} Z">{title}</path>'
    if end - start < 2:
        band = (
            f'<rect class="band {row["state"]}" x="{start:.1f}" y="{base - height:.1f}" width="2"'
            f' height="{height}">{title}</rect>'
        )
    marks = "".join(
        f'<circle class="mark" cx="{left + moment * scale:.1f}" cy="{base - height / 2:.1f}" r="4">'
        "<title>failed attempt</title></circle>"
        for moment in row["failed"][:200]
    )
    note = text(end + 8, base - height / 2 + 4, f"{units.duration(changes[-1][0] - changes[0][0])}", "tick")
    return band + marks + note


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:g} s"
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def text(x: float, y: float, words: str, classes: str) -> str:
    """A line of text."""
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def drawing(width: float, height: float, parts: Sequence[str], title: str) -> str:
    """A drawing of parts; it shrinks with the page, but stays legible."""
    style = f"width:{width:.0f}px;min-width:{min(width, max(520, 0.72 * width)):.0f}px"
    return (
        f'<div class="drawing"><svg viewBox="0 0 {width:.0f} {height:.0f}" style="{style}" role="img"'
        f' aria-label="{escape(title)}">{"".join(parts)}</svg></div>'
    )
