"""The text file for Prometheus, read back by Prometheus' own parser and held to the grammar."""

import re

import ledgers
import pytest

from tokenmill.executors import cost, prometheus
from tokenmill.executors.cost import Usage
from tokenmill.executors.status import JobStatus
from tokenmill.executors.watch import JobView, Watcher

HOSTILE = 'a "quoted"\\ path\nwith a line é'
LABEL = r'[a-z_]+="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"[a-z_]+\{{{LABEL}(?:,{LABEL})*\}} -?[0-9.]+(?:e[+-]?[0-9]+)?")


def view(name="upper", **values):
    status = JobStatus(
        name=name, state="running", num_shards=10, done=4, failed=1, running=2, folder="", message=HOSTILE
    )
    usage = Usage(attempts={"done": 4, "error": 1}, failures={"oom": 1}, core_hours=1.25, cost=1e-7)
    return JobView(**{"status": status, "usage": usage, "counters": {"a/tokens": 5.0}} | values)


def parsed(text):
    parser = pytest.importorskip("prometheus_client.parser", reason="pip install 'tokenmill[dev]'")
    return {family.name: family for family in parser.text_string_to_metric_families(text)}


def test_prometheus_reads_it():
    text = prometheus.render(HOSTILE, [view(), view("count")], {"get": 7}, now=1234.5)
    families = parsed(text)
    shards = {
        (sample.labels["job"], sample.labels["state"]): sample.value
        for sample in families["tokenmill_shards"].samples
    }
    assert shards[("upper", "done")] == 4
    assert shards[("count", "waiting")] == 3
    assert {sample.labels["run"] for family in families.values() for sample in family.samples} == {HOSTILE}
    assert families["tokenmill_cost"].samples[0].value == 1e-7
    assert families["tokenmill_failures"].samples[0].labels["class"] == "oom"
    assert families["tokenmill_store_requests"].samples[0].value == 7
    assert families["tokenmill_left_seconds"].samples[0].value == -1
    for family in families.values():
        assert family.documentation
        assert family.type in ("gauge", "counter")


def test_it_keeps_to_the_grammar():
    text = prometheus.render(HOSTILE, [view()], {"get": 7}, now=1234.5)
    assert text.endswith("\n")
    seen: set[str] = set()
    name = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in seen  # all samples of a metric stand together
            seen.add(name)
        elif line.startswith("# TYPE "):
            assert line.split()[2] == name
            assert (line.split()[3] == "counter") == name.endswith("_total")
        else:
            assert SAMPLE.fullmatch(line), line
            assert line.startswith(name + "{")
    assert len(set(re.findall(r"^[^#].*?}", text, re.MULTILINE))) == sum(
        not line.startswith("#") for line in text.splitlines()
    )  # no sample twice


def test_it_is_replaced_as_a_whole(tmp_path):
    folder = ledgers.make_run(tmp_path / "run", {"upper": 3}, {})["upper"]
    ledgers.launch(folder, "aaaaaaaa")
    ledgers.attempt(folder, 0, "aaaaaaaa-0", "done")
    cost.record_prices(str(tmp_path / "run"), cost.Prices(core_hour=3600.0))
    path = tmp_path / "metrics" / "run.prom"
    watcher = Watcher(str(tmp_path / "run"))
    for _ in range(2):
        prometheus.write(str(path), "run", watcher.look())
        assert [item.name for item in path.parent.iterdir()] == ["run.prom"]
    families = parsed(path.read_text())
    assert families["tokenmill_cost"].samples[0].value == pytest.approx(10.0)
    assert families["tokenmill_attempts"].samples[0].labels == {
        "run": "run",
        "job": "upper",
        "outcome": "done",
    }


def test_a_run_without_jobs_or_attempts():
    assert parsed(prometheus.render("r", [], now=1.0)).keys() == {"tokenmill_look_timestamp_seconds"}
    families = parsed(prometheus.render("r", [view(usage=Usage())], now=1.0))
    assert "tokenmill_attempts" not in families  # HELP without a sample would be nothing to scrape
