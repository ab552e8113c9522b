"""Speed, memory and the share of a device's peak that is used; what is unknown stays unknown."""

import resource
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from tokenmill.telemetry import Report

PEAK_FLOPS: Mapping[tuple[str, torch.dtype], float] = MappingProxyType(
    {
        # NVIDIA's data sheets, dense tensor cores
        ("NVIDIA H100 80GB HBM3", torch.bfloat16): 989e12,
        ("NVIDIA H200", torch.bfloat16): 989e12,
        ("NVIDIA H100 PCIe", torch.bfloat16): 756e12,
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16): 312e12,
        ("NVIDIA A100-SXM4-40GB", torch.bfloat16): 312e12,
    }
)
"""(device name, dtype) -> floating point operations per second."""


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Peak of a device, None if unknown: of every CPU, and of a GPU that is not in the table."""
    if device.type != "cuda":
        return None
    return PEAK_FLOPS.get((torch.cuda.get_device_name(device), dtype))


def model_flops_utilization(flops_per_second: float, peak: float | None) -> float | str:
    """Share of the peak that the model's own operations take (arXiv:2204.02311, appendix B).

    >>> model_flops_utilization(1.0, None)
    'unknown'
    """
    return "unknown" if peak is None else flops_per_second / peak


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory held so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def line_for_people(record: Mapping[str, Any], num_steps: int) -> str:
    """One line of a log from a record of the metrics file."""
    share = record["mfu"]
    return (
        f"step {record['step']}/{num_steps}"
        f"  loss {record['loss']:.4f}"
        f"  learning rate {record['learning_rate']:.3g}"
        f"  gradient norm {record['gradient_norm']:.3f}"
        f"  tokens/s {record['tokens_per_second']:.0f}"
        f"  per rank {record['tokens_per_second_per_rank']:.0f}"
        f"  MFU {share if isinstance(share, str) else format(share, '.1%')}"
        f"  memory {record['peak_memory_bytes'] / 1e9:.2f} GB"
    )


def add_to_report(report: Report, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw loss, held-out loss, learning rate and speed over steps."""

    def points(key: str) -> list[list[float]]:
        return [[record["step"], record[key]] for record in records if record.get(key) is not None]

    lines = {"training": points("loss"), "held out": points("heldout_loss")}
    drawn = {label: line for label, line in lines.items() if line}
    report.series("Loss", x_label="step", y_label="nats per token", lines=drawn)
    for title, label, key in (
        ("Learning rate", "learning rate", "learning_rate"),
        ("Gradient norm", "norm before clipping", "gradient_norm"),
        ("Training speed", "tokens per second", "tokens_per_second"),
    ):
        report.series(title, x_label="step", y_label=label, lines={label: points(key)})
