"""The report: figures of every kind, states of every kind, nothing unescaped, nothing from outside."""

import html.parser
import json
import re
from pathlib import Path

import ledgers
import pytest

from tokenmill import storage
from tokenmill.errors import InputError, JobError
from tokenmill.executors import cost, page, report, svg, units
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.graph import lay_out, write_run
from tokenmill.executors.job import Job, Recipe, Resources, Sharding
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.secrets import Redactor
from tokenmill.telemetry import Report

HOSTILE = "</style><script>alert('x')</script> & \"quotes\" <img src=x onerror=y>"
ENTRIES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """split -> count over 60 lines in six shards; a line may be forbidden."""
    monkeypatch.syspath_prepend(str(ENTRIES))
    path = tmp_path / "lines ü.jsonl"
    path.write_text("".join(f"line {number:02d}\n" for number in range(60)) + "\n" * 4)

    def make(**config):
        split = Job(
            name="split",
            entry="words_jobs.split",
            config=config,
            inputs={"lines": "lines"},
            sharding=Sharding(target_bytes=91),
            resources=Resources(cpus=2, max_attempts=2),
        )
        count = Job(name="count", entry="words_jobs.count", inputs={"words": "split.words"})
        return Recipe(name="words", inputs={"lines": (str(path),)}, jobs=(split, count))

    return make


class Browser(html.parser.HTMLParser):
    """Checks that elements are closed in order; collects links and what would be loaded or run."""

    VOID = ("meta", "line", "circle", "rect", "polyline", "path")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.outside = [], set(), set(), []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids.add(values.get("id"))
        self.links |= {values["href"]} if "href" in values else set()
        self.outside += [tag] if tag in ("script", "link", "img", "iframe", "object") else []
        self.outside += [name for name in values if name.startswith("on") or name == "src"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def look_at(text):
    browser = Browser()
    browser.feed(text)
    assert browser.open == []
    assert browser.outside == []
    assert {link.removeprefix("#") for link in browser.links} <= browser.ids
    assert "url(" not in text
    return text


def hostile(value):
    """The value with every text, and every key of a free mapping, replaced."""
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def test_a_complete_run(recipe, tmp_path):
    url = str(tmp_path / "rün 1")
    run_recipe(recipe(), url, LocalExecutor())
    assert report.write_report(url) == f"{url}/report.html"
    value = storage.read_json(f"{url}/report.json")
    assert value["totals"]["state"] == "complete"
    assert (value["totals"]["shards"], value["totals"]["attempts"]) == (7, 7)
    assert value["totals"]["failed_attempts"] == 0
    assert value["funnel"] == [
        {
            "name": "split",
            "documents_in": 64,
            "documents": 60,
            "bytes": 480,
            "dropped": [["split: no_words", 4]],
        }
    ]
    split, count = value["jobs"]
    assert (split["parents"], count["parents"]) == (["lines"], ["split"])
    assert split["core_hours"] == pytest.approx(split["usage"]["task_seconds"] * 2 / 3600)
    assert split["usage"]["task_seconds"] >= split["seconds"] > 0
    assert value["totals"]["usage"]["attempts"] == {"done": 7}
    assert value["counters"] == {**split["counters"], **count["counters"]}
    assert [len(row["spans"]) for row in value["timeline"]] == [6, 1]
    for output in count["outputs"]:
        manifest = storage.read_json(f"{count['folder']}/manifest.json")
        assert output["sha256"] in [item["sha256"] for item in manifest["outputs"]]
    text = look_at((tmp_path / "rün 1" / "report.html").read_text())
    assert "Most frequent &lt;words&gt;" in text
    assert "&lt;script&gt;alert(1)" in text
    assert count["outputs"][0]["sha256"] in text
    assert "Failures" not in text


def test_a_failed_run_shows_the_error_and_the_end_of_the_log(recipe, tmp_path):
    url = str(tmp_path / "run")
    with pytest.raises(JobError):
        run_recipe(recipe(fail_on="33"), url, LocalExecutor())
    report.write_report(url)
    value = storage.read_json(f"{url}/report.json")
    assert value["totals"]["state"] == "failed"
    assert (value["totals"]["failed_attempts"], value["totals"]["done"]) == (2, 5)
    [split, count] = value["jobs"]
    assert (split["state"], count["state"], count["num_shards"]) == ("failed", "waiting", None)
    assert [failure["shard"] for failure in split["failures"]] == [3, 3]
    assert "Traceback" in split["failures"][0]["log_tail"]
    assert split["counters"]["split/documents_out"] == 50  # what is committed is counted
    text = look_at((tmp_path / "run" / "report.html").read_text())
    assert "a forbidden word &lt;b&gt;" in text
    assert "<b> " not in text


def test_what_it_took_and_cost(recipe, tmp_path):
    url = str(tmp_path / "run")
    run_recipe(recipe(), url, LocalExecutor())
    cost.record_prices(url, cost.Prices(core_hour=1e9))
    report.write_report(url)
    value = storage.read_json(f"{url}/report.json")
    jobs = [job["usage"]["cost"] for job in value["jobs"]]
    assert value["totals"]["usage"]["cost"] == pytest.approx(sum(jobs))
    text = look_at((tmp_path / "run" / "report.html").read_text())
    assert units.price(sum(jobs)) in text
    assert "What it took" in text
    assert "together" in text


def test_attempts_that_died_are_failures(tmp_path):
    folder = ledgers.make_run(tmp_path / "run", {"upper": 4}, {})["upper"]
    ledgers.launch(folder, "aaaaaaaa", executor="slurm")
    ledgers.attempt(folder, 0, "aaaaaaaa-0", "running")
    ledgers.attempt(folder, 1, "aaaaaaaa-1", "lost", **{"class": "oom"})
    ledgers.attempt(folder, 2, "aaaaaaaa-2", "done")

    def outcomes(*, driven):
        return [record["outcome"] for record in report.with_losses(folder, folder.attempts(), driven=driven)]

    assert outcomes(driven=False) == ["running", "lost", "done"]  # the queue may still hold the first
    ledgers.launch(folder, "bbbbbbbb")
    assert outcomes(driven=True) == ["lost", "lost", "done"]
    ledgers.attempt(folder, 3, "bbbbbbbb-3", "running")
    assert outcomes(driven=True) == ["lost", "lost", "done", "running"]
    assert outcomes(driven=False) == ["lost", "lost", "done", "lost"]
    storage.write_atomic(folder.at("manifest.json"), b"{}")
    assert outcomes(driven=True) == ["lost", "lost", "done", "lost"]
    storage.remove(folder.at("manifest.json"))
    text = page.html_page(report.collect(str(tmp_path / "run")))
    assert "oom, attempt aaaaaaaa-1" in text
    assert "it ended without a word" in text
    assert "failed and lost attempts: 1 oom, 2 lost" in text


def test_rejects_are_not_passed_on(tmp_path):
    folder = ledgers.make_run(tmp_path / "run", {"upper": 1}, {})["upper"]
    folder.ensure_plan()
    storage.write_atomic(folder.at("a"), b"12345")
    outputs = [
        {"name": f"{port}/0", "path": "a", "bytes": 5, "sha256": ""} for port in ("documents", "rejected")
    ]
    ledgers.commit(folder, 0, "aaaaaaaa-0")
    record = folder.committed(0) | {
        "outputs": outputs,
        "counters": {"x/documents_out": 1, "x/documents_in": 2},
    }
    storage.write_atomic(folder.done_url(0), storage.dump_json(record))
    value = report.collect(str(tmp_path / "run"))
    assert [row["bytes"] for row in value["funnel"]] == [5]
    assert value["jobs"][0]["output_bytes"] == 10


def test_secrets_are_hidden(recipe, tmp_path):
    url = str(tmp_path / "run")
    with pytest.raises(JobError):
        run_recipe(recipe(fail_on="33"), url, LocalExecutor())
    report.write_report(url, Redactor(["forbidden word", "words_jobs"]))
    text = (tmp_path / "run" / "report.json").read_text()
    assert "forbidden word" not in text
    assert '"entry": "words_jobs.split"' in text  # what names things stays as it is


def test_the_largest_bar_stands_first_if_that_is_asked(recipe):
    joined = Report()
    joined.bars("Why", unit="n", rows=[("a", 2), ("b", 1)], by_value=True)
    joined.merge([{"kind": "bars", "title": "Why", "unit": "n", "rows": [["c", 9], ["b", 3]]}])
    drawn = page._figure(joined.figures[0])
    assert re.findall(r"<th>(\w)</th>", drawn) == ["c", "b", "a"]
    assert re.findall(r"<th>(\w)</th>", page._figure(joined.figures[0] | {"by_value": False})) == [
        "a",
        "b",
        "c",
    ]


def test_a_run_that_has_not_begun(recipe, tmp_path):
    url = str(tmp_path / "run")
    write_run(recipe(), url, lay_out(recipe(), url))
    report.write_report(url)
    text = look_at((tmp_path / "run" / "report.html").read_text())
    assert "no attempt yet" in text
    assert storage.read_json(f"{url}/report.json")["totals"]["state"] == "waiting"


def test_no_run(tmp_path):
    with pytest.raises(InputError, match="no run"):
        report.write_report(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_whatever_a_text_says_it_stays_a_text(recipe, tmp_path):
    url = str(tmp_path / "run")
    with pytest.raises(JobError):
        run_recipe(recipe(fail_on="33"), url, LocalExecutor())
    value = report.collect(url)
    run_recipe(recipe(), str(tmp_path / "other"), LocalExecutor())
    figures = report.collect(str(tmp_path / "other"))["jobs"][1]["figures"]
    for job in value["jobs"]:
        kinds = [figure["kind"] for figure in figures]
        job["figures"] = [
            {**hostile(figure), "kind": kind} for figure, kind in zip(figures, kinds, strict=True)
        ]
        job["figures"].append({"kind": HOSTILE, "title": HOSTILE})
        job["figures"].append(
            {
                "kind": "series",
                "title": "t",
                "x_label": "x",
                "y_label": HOSTILE,
                "lines": {HOSTILE: [[0, 1], [1, 1]]},
            }
        )
        job["counters"], job["outcomes"], job["config"] = {HOSTILE: 1}, {HOSTILE: 1}, {HOSTILE: HOSTILE}
        job["parents"] = [HOSTILE if name == "lines" else name for name in job["parents"]]
        for key in ("message", "entry", "folder", "identity", "failures", "outputs"):
            job[key] = hostile(job[key])
    value["run"] = {**hostile(value["run"]), "inputs": {HOSTILE: [HOSTILE]}}
    value["funnel"] = [{**value["funnel"][0], "dropped": [[HOSTILE, 1]]}]
    assert "<script" not in look_at(page.html_page(value))


def test_long_things_are_cut(recipe, tmp_path):
    url = str(tmp_path / "run")
    run_recipe(recipe(), url, LocalExecutor())
    value = report.collect(url)
    value["jobs"][1]["outputs"] = [{"name": f"f{index}", "bytes": 1, "sha256": "0"} for index in range(500)]
    value["jobs"][1]["outputs_left_out"] = 1000
    value["jobs"][1]["figures"] = [
        {"kind": "texts", "title": "t", "items": [{"title": "t", "text": "x" * 10**6}]}
    ]
    value["jobs"][0]["figures"] = [
        {"kind": "texts", "title": "t", "items": [{"title": "t", "text": "y"}] * 70}
    ]
    text = look_at(page.html_page(value))
    assert "<summary>56 more</summary>" in text
    assert "and 1,440 more rows" in text
    assert len(text) < 60_000


def test_the_tail_of_a_log(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("".join(f"{number} ü\n" for number in range(10_000)))
    assert report.log_tail(str(path), 2) == "9998 ü\n9999 ü"
    assert len(report.log_tail(str(path)).splitlines()) == 40
    path.write_bytes(b"\xff\xfe broken")
    assert "broken" in report.log_tail(str(path))
    assert report.log_tail(str(tmp_path / "none")).startswith("(no log")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (3, 3, [3]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 4.3e6, [0, 1e6, 2e6, 3e6, 4e6, 5e6]),
        (0.00012, 0.00019, [0.00012, 0.00014, 0.00016, 0.00018, 0.0002]),
    ],
)
def test_ticks_are_round_and_cover_the_range(low, high, expected):
    assert svg.ticks(low, high, 5) == pytest.approx(expected)


def test_line_plots():
    nan = float("nan")
    drawn = svg.line_plot("x", "y", {"a": [[0, 1], [1, nan], [2, 3]], "b": [[1, 1]], "none": []})
    assert drawn.count("<polyline") == 2
    assert drawn.count("<circle") == 1
    assert "nan" not in drawn
    assert "no points" in svg.line_plot("x", "y", {"a": [[nan, 1], [0, float("inf")]]})
    spike = [[x, 100.0 if x == 5000 else 0.0] for x in range(20_000)]
    drawn = svg.line_plot("x", "y", {"a": spike})
    assert len(drawn) < 20_000
    top = min(float(y) for y in re.findall(r",([\d.]+)", re.search(r'points="(.*?)"', drawn)[1]))
    assert top == 14.0  # the spike is still there


def test_job_graph_places_parents_left_of_children():
    jobs = [
        {"name": "a", "state": "complete", "note": "", "parents": ["in"]},
        {"name": "b", "state": "running", "note": "", "parents": ["a"]},
        {"name": "c", "state": "waiting", "note": "", "parents": ["a", "b", "late"]},
        {"name": "a-very-long-job-name", "state": "waiting", "note": "", "parents": []},
    ]
    drawn = svg.job_graph(jobs, ["in", "late", "unused"])
    places = re.findall(r'<rect class="node (\w+)" x="(\d+)" y="(\d+)"', drawn)
    assert len(places) == len(set(places)) == 6
    assert "unused" not in drawn
    names = re.findall(r"<title>([\w-]+):", drawn)
    x = {name: int(place[1]) for name, place in zip(names, places, strict=True)}
    assert x["in"] < x["a"] < x["b"] < x["c"]
    assert x["late"] == x["b"]
    assert drawn.count('class="edge"') == 5


def test_timeline_of_overlapping_attempts():
    row = {"name": "a", "state": "failed", "spans": [[0, 10], [5, 15], [5, 7]], "failed": [7]}
    drawn = svg.timeline([row, {"name": "b", "state": "waiting", "spans": [], "failed": []}])
    assert "3 attempts, at most 3 at a time" in drawn
    assert drawn.count("failed attempt") == 1
    assert "no attempt yet" in svg.timeline([])
    instant = svg.timeline([{"name": "a", "state": "complete", "spans": [[1, 1]], "failed": []}, row])
    assert 'width="2"' in instant


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.si(999), "999"),
        (units.si(0.00012345), "0.0001234"),
        (units.si(-1500), "-1.50 k"),
        (units.si(999_999), "1000 k"),
        (units.size(0), "0 B"),
        (units.size(12_345_678), "12.3 MB"),
        (units.duration(59.6), "1 min 0 s"),
        (units.duration(3661), "1 h 1 min"),
        (units.moment(0), ""),
        (units.moment(86400), "1970-01-02 00:00:00 UTC"),
    ],
)
def test_units(text, expected):
    assert text == expected


def test_the_json_is_json(recipe, tmp_path):
    url = str(tmp_path / "run")
    run_recipe(recipe(), url, LocalExecutor())
    report.write_report(url)
    assert json.loads((tmp_path / "run" / "report.json").read_text())["format"] == 1
