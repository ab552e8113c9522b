"""Metrics: unknown stays unknown."""

import torch

from tokenmill.telemetry import Report
from tokenmill.training.metrics import (
    add_to_report,
    line_for_people,
    model_flops_utilization,
    peak_flops,
    peak_memory_bytes,
)

RECORD = {
    "step": 3,
    "loss": 2.5,
    "learning_rate": 1e-3,
    "gradient_norm": 0.75,
    "tokens_per_second": 1000.0,
    "tokens_per_second_per_rank": 500.0,
    "mfu": "unknown",
    "peak_memory_bytes": 2_000_000_000,
    "heldout_loss": None,
}


def test_a_cpu_has_no_known_peak() -> None:
    assert peak_flops(torch.device("cpu"), torch.float32) is None
    assert model_flops_utilization(1e12, None) == "unknown"
    assert model_flops_utilization(494.5e12, 989e12) == 0.5


def test_the_line() -> None:
    line = line_for_people(RECORD, 10)
    assert line == (
        "step 3/10  loss 2.5000  learning rate 0.001  gradient norm 0.750  tokens/s 1000  per rank 500  "
        "MFU unknown  memory 2.00 GB"
    )
    assert "MFU 41.2%" in line_for_people({**RECORD, "mfu": 0.412}, 10)


def test_memory_is_measured() -> None:
    assert 10e6 < peak_memory_bytes(torch.device("cpu")) < 1e12


def test_the_report_draws_what_is_known() -> None:
    report = Report()
    add_to_report(report, [RECORD, {**RECORD, "step": 4, "heldout_loss": 2.75}])
    assert report.figures[0]["lines"] == {"training": [[3, 2.5], [4, 2.5]], "held out": [[4, 2.75]]}
    assert [figure["title"] for figure in report.figures] == [
        "Loss",
        "Learning rate",
        "Gradient norm",
        "Training speed",
    ]
