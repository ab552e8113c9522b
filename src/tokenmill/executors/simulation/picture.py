"""What a rehearsal found, as an HTML page with drawings."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import tokenmill
from tokenmill.config import plain
from tokenmill.executors import page, svg, units
from tokenmill.executors.simulation import show
from tokenmill.executors.simulation.compare import Variant
from tokenmill.executors.simulation.scenario import Scenario
from tokenmill.executors.simulation.simulate import Outcome
from tokenmill.storage import dump_json

_ROW = 30.0
_LEFT, _WIDTH = 190.0, 560.0


def rehearsal_page(recipe: str, scenario: Scenario, variants: Sequence[Variant]) -> str:
    """The page of a rehearsal: the run as planned first, then the comparisons."""
    outcome = variants[0].outcome
    body = [
        _header(recipe, scenario, outcome),
        page.page_section("The run as planned", page.figure_grid(_run_figures(outcome))),
        page.page_section("Core-hours that nothing came of", stack([_waste(one) for one in variants])),
        page.page_section("Other ways to run it", page.figure_grid(_comparisons(variants))),
        page.page_section("In numbers", page.table(show.COMPARED, [show.compared(one) for one in variants])),
        page.page_section("Controller and file system", page.table(["", ""], show.load(outcome))),
        page.page_section(
            "What was assumed", f"<pre>{escape(dump_json(plain(scenario), indent=2).decode())}</pre>"
        ),
        f"<footer>tokenmill {escape(tokenmill.__version__)}, simulated</footer>",
    ]
    return page.whole_page(f"{recipe} · tokenmill rehearsal", body)


def _header(recipe: str, scenario: Scenario, outcome: Outcome) -> str:
    tiles = [
        (f"{outcome.num_done:,}", f"of {outcome.num_shards:,} shards done"),
        (units.duration(outcome.makespan_seconds), "makespan"),
        (f"{outcome.tasks:,}", f"tasks on {scenario.machines.slots:,} slots"),
        (f"{sum(outcome.core_hours.values()):,.0f}", "core-hours"),
        (f"{100 * (1 - outcome.waste_share):.1f} %", "of them useful"),
        (f"{outcome.deaths:,}", "tasks died"),
        (f"{1000 * outcome.load.tick_seconds:.1f} ms", "CPU of a controller's look"),
    ]
    cells = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for value, label in tiles
    )
    state = f'<span class="pill {escape(outcome.state)}">{escape(outcome.state)}</span>'
    failures = "".join(f"<pre>{escape(line)}</pre>" for line in outcome.failures)
    return (
        f'<header><p class="kicker">tokenmill · rehearsal on a simulated cluster</p>'
        f"<h1>{escape(recipe)}: {escape(scenario.name)} {state}</h1>"
        f'{failures}<div class="tiles">{cells}</div></header>'
    )


def _run_figures(outcome: Outcome) -> list[dict[str, Any]]:
    unit, factor = _unit(outcome.makespan_seconds)
    moments = outcome.moments
    lines = {
        "running": [(one.seconds / factor, float(one.running)) for one in moments],
        "queued": [(one.seconds / factor, float(one.queued)) for one in moments],
    }
    done = {"done": [(one.seconds / factor, float(one.done)) for one in moments]}
    calls = {"calls": [(when / factor, value) for when, value in outcome.load.operations_over_time]}
    looks = {"a look": [(when / factor, 1000 * spent) for when, spent in outcome.load.ticks_over_time]}
    return [
        _series("Tasks over time", unit, "tasks", lines),
        _series("Shards done over time", unit, "shards", done),
        _series("Calls of tasks on files", unit, "calls a second", calls),
        _series("CPU of the controller's looks", unit, "milliseconds", looks),
    ]


def _comparisons(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    first = variants[0]
    unit, factor = _unit(max(one.outcome.makespan_seconds for one in variants))
    by_tasks = sorted([first, *(one for one in variants if one.kind == "tasks")], key=lambda one: one.value)
    packed = [one for one in variants if one.kind == "packing"]
    speculation = [one for one in variants if one.kind == "speculation"]
    found: list[dict[str, Any]] = []
    if len(by_tasks) > 1:
        found.append(_bars(f"Makespan by number of tasks, {unit}", by_tasks, unit, factor))
    if packed:
        found.append(_bars(f"Makespan by packing, {unit}", packed, unit, factor))
    if speculation:
        found.append(_bars(f"Makespan and speculation, {unit}", [first, *speculation], unit, factor))
    return found


def _series(title: str, x_label: str, y_label: str, lines: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "series", "title": title, "x_label": x_label, "y_label": y_label, "lines": lines}


def _bars(title: str, variants: Sequence[Variant], unit: str, factor: float) -> dict[str, Any]:
    names = {one.name: f"{one.outcome.tasks:,} tasks" if "tasks" in title else one.name for one in variants}
    rows = [(names[one.name], one.outcome.makespan_seconds / factor) for one in variants]
    return {"kind": "bars", "title": title, "unit": unit, "rows": rows}


def _unit(seconds: float) -> tuple[str, float]:
    """A unit of time that suits a span, and its seconds."""
    return ("seconds", 1.0) if seconds < 600 else ("minutes", 60.0) if seconds < 36_000 else ("hours", 3600.0)


def _waste(variant: Variant) -> tuple[str, dict[str, float], str]:
    """Name of a variant, its core-hours but the useful ones by group, and a note."""
    groups = show.grouped(variant.outcome)
    useful = groups.pop("useful")
    wasted = sum(groups.values())
    share = 100 * wasted / (wasted + useful) if wasted else 0.0
    return variant.name, groups, f"{wasted:,.1f}, {share:.1f} % of all"


def stack(rows: Sequence[tuple[str, Mapping[str, float], str]]) -> str:
    """Horizontal bars of several parts, with a legend.

    Args:
        rows: name, parts, and a note behind the bar.
    """
    most = max((sum(parts.values()) for _, parts, _ in rows), default=0.0) or 1.0
    parts: list[str] = []
    x_ticks = [tick for tick in svg.ticks(0.0, most, 5) if tick <= 1.02 * most]
    bottom = 8 + _ROW * len(rows)
    for tick in x_ticks:
        x = _LEFT + _WIDTH * tick / most
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{bottom:.1f}"/>')
        parts.append(svg.text(x, bottom + 16, units.si(tick), "tick middle"))
    for index, (name, values, note) in enumerate(rows):
        parts.extend(_stacked(name, values, 8 + _ROW * index, _WIDTH / most))
        end = _LEFT + _WIDTH * sum(values.values()) / most
        parts.append(svg.text(end + 8, 8 + _ROW * index + 18, note, "tick"))
    legend = svg.legend(list(rows[0][1])) if rows else ""
    return svg.drawing(_LEFT + _WIDTH + 150, bottom + 24, parts, "core-hours by what they went into") + legend


def _stacked(name: str, values: Mapping[str, float], top: float, scale: float) -> list[str]:
    parts = [svg.text(_LEFT - 10, top + 17, name, "name end")]
    x = _LEFT
    for index, (group, value) in enumerate(values.items()):
        title = f"<title>{escape(f'{name}, {group}: {value:,.2f} core-hours')}</title>"
        width = value * scale
        box = f'x="{x:.2f}" y="{top + 4:.1f}" width="{width:.2f}" height="20"'
        parts.append(f'<rect class="dot c{index}" {box}>{title}</rect>')
        x += width
    return parts
