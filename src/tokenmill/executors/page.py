"""The HTML page of a report: one file, no script, nothing loaded from anywhere.

Titles and texts come from web pages and from users: everything passes ``escape``.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tokenmill.executors import svg, units
from tokenmill.executors.stylesheet import STYLE
from tokenmill.storage import dump_json

_MOST_ROWS = 60
_MOST_LETTERS = 2000
_FEW_TEXTS = 4


def html_page(report: Mapping[str, Any]) -> str:
    """The page of a report, from the values of ``report.json``."""
    run, jobs, totals = report["run"], report["jobs"], report["totals"]
    body = [
        _header(report),
        _failures(jobs),
        page_section("Results", _results(jobs)),
        page_section("Jobs", svg.job_graph([_graph_job(job) for job in jobs], list(run["inputs"]))),
        page_section("When they ran", svg.timeline(report["timeline"])),
        page_section("From documents to results", _funnel(report["funnel"])),
        page_section("What it took", _usage(jobs, totals["usage"])),
        *(_job(job) for job in jobs),
        f"<footer>tokenmill {escape(run['tokenmill'])}, {units.moment(run['reported'])}</footer>",
    ]
    return whole_page(f"{run['recipe']} · tokenmill report", body)


def whole_page(title: str, body: Iterable[str]) -> str:
    """An HTML page with the report's style.

    Args:
        title: plain text.
        body: HTML.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def page_section(title: str, content: str) -> str:
    """A section; nothing without content."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _header(report: Mapping[str, Any]) -> str:
    run, totals = report["run"], report["totals"]
    facts = {
        "run folder": run["url"],
        "started": units.moment(run["created"]),
        **{f"input {name}": ", ".join(urls) for name, urls in run["inputs"].items()},
    }
    tiles = [
        (f"{totals['complete']} / {totals['jobs']}", "jobs complete"),
        (f"{totals['done']:,}", f"of {totals['shards']:,} shards done"),
        (units.duration(totals["wall_seconds"]), "wall time"),
        (units.hours(totals["core_hours"]), "core-hours"),
        *([(units.hours(totals["gpu_hours"]), "GPU-hours")] if totals["gpu_hours"] else []),
        *([(units.price(totals["usage"]["cost"]), "cost")] if totals["usage"]["cost"] else []),
        (units.size(totals["output_bytes"]), f"in {totals['outputs']:,} output files"),
        (f"{totals['failed_attempts']:,}", f"of {totals['attempts']:,} attempts failed"),
    ]
    cells = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for value, label in tiles
    )
    return (
        f'<header><p class="kicker">tokenmill</p><h1>{escape(run["recipe"])} {_pill(totals["state"])}</h1>'
        f'{_facts(facts)}<div class="tiles">{cells}</div></header>'
    )


def _facts(facts: Mapping[str, str]) -> str:
    rows = (f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items() if value)
    return f'<dl class="facts">{"".join(rows)}</dl>'


def _pill(state: str) -> str:
    return f'<span class="pill {escape(state)}">{escape(state)}</span>'


def _graph_job(job: Mapping[str, Any]) -> dict[str, Any]:
    shards = job["num_shards"]
    note = (
        job["state"]
        if not shards
        else f"{job['done']} of {shards}"
        if job["done"] < shards
        else f"{shards} done"
    )
    return {"name": job["name"], "state": job["state"], "parents": job["parents"], "note": note}


def _failures(jobs: Sequence[Mapping[str, Any]]) -> str:
    items = [_failure(job["name"], failure) for job in jobs for failure in job["failures"]]
    left_out = sum(job["failures_left_out"] for job in jobs)
    more = (
        f'<p class="quiet">and {left_out} more: <code>tokenmill logs RUN --failed</code></p>'
        if left_out
        else ""
    )
    return page_section("Failures", "".join(items) + more) if items else ""


def _failure(job: str, failure: Mapping[str, Any]) -> str:
    kind = f"{failure['class']}, " if failure.get("class") else ""
    place = escape(f"{kind}attempt {failure['attempt']}, rank {failure['rank']}, {failure['host']}")
    return (
        f'<article class="failure"><h3>{escape(job)}, shard {failure["shard"]} <small>{place}</small></h3>'
        f"{_pre(failure['error'])}{_more('End of its log', _pre(failure['log_tail']))}</article>"
    )


def _funnel(rows: Sequence[Mapping[str, Any]]) -> str:
    """Documents and bytes that each job lets through, with the reasons of what it drops."""
    most = {key: max((row[key] for row in rows), default=0) for key in ("documents_in", "bytes")}
    lines = []
    for row in rows:
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in row["dropped"])
        text = f"{row['documents']:,} of {row['documents_in']:,}"
        documents = _meter(row["documents"], most["documents_in"], "c0", text)
        written = _meter(row["bytes"], most["bytes"], "c1", units.size(row["bytes"]))
        lines.append(
            f'<tr><th><a href="#job-{escape(row["name"])}">{escape(row["name"])}</a></th>'
            f"<td>{documents}</td><td>{written}</td>"
            f'<td class="quiet">{escape(dropped)}</td></tr>'
        )
    if not lines:
        return ""
    return (
        '<div class="scroll"><table class="funnel"><thead><tr><th>job</th><th>documents kept</th>'
        f"<th>bytes written</th><th>dropped</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _meter(value: float, most: float, colour: str, text: str) -> str:
    share = 100 * value / most if most else 0
    bar = f'<div class="meter"><i class="{colour}" style="width:{share:.2f}%"></i></div>'
    return f"{bar}<span>{escape(text)}</span>"


def _usage(jobs: Sequence[Mapping[str, Any]], whole: Mapping[str, Any]) -> str:
    """Core-hours asked, used and wasted, memory and price, by job and together."""
    rows = [(job["name"], job["usage"]) for job in jobs if job["usage"]["tasks"]]
    if not rows:
        return ""
    has = {key: bool(whole[key]) for key in ("gpu_hours", "cost")}
    names = ["job", "tasks", "task time", "core-hours", "GPU-hours", "memory", "cost"]
    left_out = [name for name, key in (("GPU-hours", "gpu_hours"), ("cost", "cost")) if not has[key]]
    head = "".join(f"<th>{name}</th>" for name in names if name not in left_out)
    lines = [
        _usage_row(f'<a href="#job-{escape(name)}">{escape(name)}</a>', usage, has) for name, usage in rows
    ]
    if len(rows) > 1:
        lines.append(_usage_row("together", {**whole, "memory_bytes": 0}, has))
    failures = ", ".join(f"{count:,} {kind}" for kind, count in whole["failures"].items())
    note = f"; failed and lost attempts: {escape(failures)}" if failures else ""
    legend = (
        '<i class="key c2"></i>used by CPUs <i class="key bad"></i>asked by attempts of which nothing is '
        'left <i class="key"></i>the rest of what was asked'
    )
    return (
        f'<div class="scroll"><table class="usage"><thead><tr>{head}</tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table></div><p class="quiet">{legend}{note}</p>'
    )


def _usage_row(name: str, usage: Mapping[str, Any], has: Mapping[str, bool]) -> str:
    asked, wasted = usage["core_hours"], usage["wasted_core_hours"]
    used = max(0.0, min(usage["used_core_hours"], asked - wasted))
    shares = [100 * part / asked if asked else 0 for part in (used, wasted)]
    text = f"{units.hours(asked)} asked, {_percent(usage['used_core_hours'], asked)} used"
    text += f", {_percent(wasted, asked)} wasted" if wasted else ""
    hours = (
        f'<div class="meter"><i class="c2" style="width:{shares[0]:.2f}%"></i>'
        f'<i class="bad" style="width:{shares[1]:.2f}%"></i></div><span>{text}</span>'
    )
    memory = units.size(usage["max_rss_bytes"])
    if most := usage["memory_bytes"]:
        memory = _meter(
            min(usage["max_rss_bytes"], most), most, "c1", f"{memory} of {units.size(most)} asked"
        )
    cells = [f"{usage['tasks']:,}", units.duration(usage["task_seconds"]), hours]
    cells += [units.hours(usage["gpu_hours"])] * has["gpu_hours"]
    cells += [memory, *[units.price(usage["cost"])] * has["cost"]]
    return f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"


# One job


def _job(job: Mapping[str, Any]) -> str:
    facts = [
        f"{job['done']} of {job['num_shards']} shards done" if job["num_shards"] else "",
        "attempts: " + ", ".join(f"{count} {outcome}" for outcome, count in job["outcomes"].items()),
        f"{units.duration(job['seconds'])} over all tasks" if job["seconds"] else "",
        f"at most {units.size(job['max_rss_bytes'])} of memory" if job["max_rss_bytes"] else "",
        f"{units.size(job['output_bytes'])} in {job['num_outputs']:,} files" if job["num_outputs"] else "",
    ]
    known = "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact and job["outcomes"])
    values = {"entry": job["entry"], "folder": job["folder"], "identity": job["identity"]}
    config = _pre(dump_json(job["config"], indent=2).decode()) if job["config"] else ""
    figures = "" if job["is_last"] else figure_grid(job["figures"])
    return (
        f'<section id="job-{escape(job["name"])}"><h2>{escape(job["name"])} {_pill(job["state"])}</h2>'
        f'<p class="facts-line">{known}</p>{_pre(job["message"]) if job["message"] else ""}{figures}'
        f'<div class="more">{_more("Counters", _counters(job["counters"]))}{_more("Outputs", _outputs(job))}'
        f"{_more('Definition', _facts(values) + config)}</div></section>"
    )


def _results(jobs: Sequence[Mapping[str, Any]]) -> str:
    """Figures of the jobs that no other job reads, numbers before texts."""
    figures = [figure for job in jobs if job["is_last"] for figure in job["figures"]]
    return figure_grid(sorted(figures, key=lambda figure: figure["kind"] == "texts"))


def figure_grid(figures: Sequence[Mapping[str, Any]]) -> str:
    """Figures of ``telemetry.Report`` side by side."""
    content = "".join(_figure(figure) for figure in figures)
    return f'<div class="figures">{content}</div>' if content else ""


def _more(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>" if content else ""


def _pre(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def _counters(counters: Mapping[str, float]) -> str:
    return table(["counter", "value"], counters.items()) if counters else ""


def _outputs(job: Mapping[str, Any]) -> str:
    rows = [(output["name"], units.size(output["bytes"]), output["sha256"]) for output in job["outputs"]]
    return table(["file", "size", "SHA-256"], rows, job["outputs_left_out"]) if rows else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], left_out: int = 0) -> str:
    """HTML table; numbers stand right, and rows beyond a limit are counted."""
    every = [list(row) for row in rows]
    right = [
        all(_is_number(row[index]) for row in every if index < len(row)) for index in range(len(columns))
    ]
    head = "".join(_cell("th", column, end) for column, end in zip(columns, right, strict=True))
    lines = (
        "".join(_cell("td", value, end) for value, end in zip(row, right, strict=False))
        for row in every[:_MOST_ROWS]
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    left_out += max(0, len(every) - _MOST_ROWS)
    more = f'<p class="quiet">and {left_out:,} more rows</p>' if left_out else ""
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}'
    )


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(tag: str, value: Any, right: bool) -> str:
    if value is None:
        text = "–"
    elif isinstance(value, float):
        text = f"{value:.6g}"
    else:
        text = f"{value:,}" if _is_number(value) else str(value)
    return f"<{tag}{' class=number' if right else ''}>{escape(text)}</{tag}>"


def _figure(figure: Mapping[str, Any]) -> str:
    """A figure of ``telemetry.Report``; the page says so when it does not know a kind."""
    kind = figure["kind"]
    if kind == "series":
        content = svg.line_plot(figure["x_label"], figure["y_label"], figure["lines"])
    elif kind == "table":
        content = table(figure["columns"], figure["rows"])
    elif kind == "bars":
        rows = figure["rows"]
        if figure.get("by_value"):
            rows = sorted(rows, key=lambda row: (-row[1], str(row[0])))
        content = _bars(rows, figure["unit"])
    elif kind == "texts":
        content = _samples(figure["items"])
    else:
        content = f'<p class="quiet">a figure of unknown kind {escape(str(kind))}</p>'
    wide = " wide" if kind == "texts" or (kind == "table" and len(figure["columns"]) > 4) else ""
    title = f"<figcaption>{escape(figure['title'])}</figcaption>"
    return f'<figure class="{escape(str(kind))}{wide}">{title}{content}</figure>'


def _bars(rows: Sequence[Sequence[Any]], unit: str) -> str:
    most = max((value for _, value in rows), default=0)
    lines = "".join(
        f"<tr><th>{escape(str(label))}</th>"
        f"<td>{_meter(max(0, value), most, 'c0', f'{_short(value)} {unit}')}</td></tr>"
        for label, value in rows[:_MOST_ROWS]
    )
    return f'<table class="bars"><tbody>{lines}</tbody></table>'


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and abs(value) < 1e6 else units.si(value)


def _samples(items: Sequence[Mapping[str, str]]) -> str:
    """A few texts in sight, more on demand."""
    shown = [_sample(item) for item in items[:_MOST_ROWS]]
    rest = shown[_FEW_TEXTS:]
    more = _more(f"{len(rest)} more", f'<div class="samples">{"".join(rest)}</div>') if rest else ""
    return f'<div class="samples">{"".join(shown[:_FEW_TEXTS])}</div>{more}'


def _sample(item: Mapping[str, str]) -> str:
    text = item["text"]
    shown = text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]} …"
    note = f'<p class="quiet">{escape(item["note"])}</p>' if item.get("note") else ""
    return (
        f"<article><h4>{escape(item['title'])}</h4>{note}<blockquote>{escape(shown)}</blockquote></article>"
    )
