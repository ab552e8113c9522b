"""Counters that merge upward (block -> task -> job -> recipe) and the figures of a report.

A counter is a number under a slash-separated name, for example ``filter.gopher/dropped/too_short``.
Counters add up; a name that ends in ``_max`` or ``_min`` keeps the extreme instead.

>>> total = Counters({"documents": 2, "length_max": 5})
>>> total.merge({"documents": 3, "length_max": 4})
>>> total.values
{'documents': 5, 'length_max': 5}
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Number = int | float


class Counters:
    """Named numbers with one rule of merging each."""

    def __init__(self, values: Mapping[str, Number] | None = None) -> None:
        self.values: dict[str, Number] = dict(values or {})

    def add(self, name: str, value: Number = 1) -> None:
        """Merge one value under a name."""
        old = self.values.get(name)
        if old is None:
            self.values[name] = value
        elif name.endswith("_max"):
            self.values[name] = max(old, value)
        elif name.endswith("_min"):
            self.values[name] = min(old, value)
        else:
            self.values[name] = old + value

    def merge(self, other: "Mapping[str, Number] | Counters") -> None:
        """Merge all values of another set of counters."""
        values = other.values if isinstance(other, Counters) else other
        for name, value in values.items():
            self.add(name, value)


@dataclass(kw_only=True)
class Report:
    """What a job wants a person to see; a list of figures, plain values only.

    Every figure is a mapping with ``kind`` and ``title``:

    * ``series``: ``x_label``, ``y_label``, ``lines``: {label: [[x, y], ...]}
    * ``table``: ``columns``: [str], ``rows``: [[value, ...]]
    * ``bars``: ``unit``, ``rows``: [[label, value], ...], and ``by_value`` if the largest is shown first
    * ``texts``: ``items``: [{"title": str, "text": str, "note": str}]

    Figures of shards with the same kind and title are joined: rows, points and items follow in shard order;
    ``bars`` with the same label add up.
    """

    figures: list[dict[str, Any]] = field(default_factory=list)
    """Figures in order of appearance."""

    def series(
        self, title: str, *, x_label: str, y_label: str, lines: Mapping[str, Sequence[Sequence[Number]]]
    ) -> None:
        """Add a line plot; each line is a sequence of (x, y)."""
        points = {label: [list(point) for point in line] for label, line in lines.items()}
        self.figures.append(
            {"kind": "series", "title": title, "x_label": x_label, "y_label": y_label, "lines": points}
        )

    def table(self, title: str, *, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add a table."""
        self.figures.append(
            {"kind": "table", "title": title, "columns": list(columns), "rows": [list(row) for row in rows]}
        )

    def bars(
        self, title: str, *, unit: str, rows: Sequence[tuple[str, Number]], by_value: bool = False
    ) -> None:
        """Add a bar chart; each row is (label, value). It is shown in this order, or the largest first."""
        figure = {"kind": "bars", "title": title, "unit": unit, "rows": [list(row) for row in rows]}
        self.figures.append(figure | ({"by_value": True} if by_value else {}))

    def texts(self, title: str, *, items: Sequence[Mapping[str, str]]) -> None:
        """Add text samples; each item has ``title``, ``text`` and, if useful, ``note``."""
        self.figures.append({"kind": "texts", "title": title, "items": [dict(item) for item in items]})

    def merge(self, figures: Sequence[Mapping[str, Any]], *, most_rows: int = 200) -> None:
        """Join the figures of another shard to these; at most ``most_rows`` rows or items are kept each."""
        for figure in figures:
            for mine in self.figures:
                if (mine["kind"], mine["title"]) == (figure["kind"], figure["title"]):
                    _join(mine, figure, most_rows)
                    break
            else:
                self.figures.append(json.loads(json.dumps(figure)))


def _join(mine: dict[str, Any], other: Mapping[str, Any], most_rows: int) -> None:
    if mine["kind"] == "series":
        for label, line in other["lines"].items():
            mine["lines"].setdefault(label, []).extend(line)
    elif mine["kind"] == "bars":
        totals = dict(mine["rows"])
        for label, value in other["rows"]:
            totals[label] = totals.get(label, 0) + value
        mine["rows"] = [[label, value] for label, value in totals.items()]
    else:
        key = "rows" if mine["kind"] == "table" else "items"
        mine[key] = (mine[key] + list(other[key]))[:most_rows]


class Tracker(Protocol):
    """Receives the metrics of a training run."""

    def log(self, metrics: Mapping[str, Number], *, step: int) -> None:
        """Record metrics of one step."""

    def close(self) -> None:
        """Flush and end."""


class NoTracker:
    """Receives metrics and forgets them."""

    def log(self, metrics: Mapping[str, Number], *, step: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
