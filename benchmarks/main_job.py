"""The main job over several seeds: a network pruned inside one training run on digits, beside its uncut twin.

The network is a ResNet-8, the digits are 5,000 of MNIST.


    python benchmarks/main_job.py [--seeds 3] [--epochs 18] [--json]

Prints every figure beside its target. Times are ratios within one run; take them on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from esper.cli import DEMO_EPOCHS, DEMO_FLOPS
from esper.cli.demo import run_demo
from esper.report import RunReport

NOT_MEASURED = math.nan


@dataclass(frozen=True)
class Figures:
    """What one seed measured; NaN is not measured, and misses every target."""

    flops_removed: float
    parameters_removed: float
    accuracy_margin: float
    worst_margin_after_a_cut: float
    speedup: float
    time_ratio: float
    tracking_fraction: float
    stall_ms_per_gb: float
    float32_error: float
    float64_error: float
    cuts: int

    @classmethod
    def of(cls, report: RunReport) -> Figures:
        cuts = [mark.epoch for mark in report.marks if mark.kind == "cut"]
        after_a_cut = [lead for epoch, lead in report.lead_over_twin.items() if cuts and epoch > cuts[0]]
        overhead, proof = report.overhead, report.proof
        twin_seconds = sum(row.seconds for row in report.twin_epochs)
        return cls(
            flops_removed=1 - report.flops_after / report.flops_before,
            parameters_removed=1 - report.parameters_after / report.parameters_before,
            accuracy_margin=_known(report.quality_after) - _known(report.quality_before),
            worst_margin_after_a_cut=min(after_a_cut, default=NOT_MEASURED),
            speedup=report.latency.speedup if report.latency else NOT_MEASURED,
            time_ratio=_known(overhead.training_seconds if overhead else None) / twin_seconds,
            tracking_fraction=_known(overhead.tracking_fraction if overhead else None),
            stall_ms_per_gb=_known(overhead.checkpoint_stall_ms_per_gb if overhead else None),
            float32_error=_known(proof.float32_error if proof else None),
            float64_error=_known(proof.float64_error if proof else None),
            cuts=len(cuts),
        )


@dataclass(frozen=True)
class Target:
    """A figure, how the seeds are taken together, and the limit."""

    name: str
    field: str
    together: Callable[[Sequence[float]], float]
    is_reached: Callable[[float], bool] | None
    text: str


TARGETS = (
    Target("FLOPs removed", "flops_removed", min, lambda v: v >= 0.4999, "every seed >= 0.50"),
    Target(
        "final accuracy - twin", "accuracy_margin", statistics.fmean, lambda v: v >= -0.005, "mean >= -0.005"
    ),
    Target(
        "worst epoch - twin, after a cut",
        "worst_margin_after_a_cut",
        min,
        lambda v: v >= -0.02,
        "every epoch >= -0.02",
    ),
    Target("CPU speed-up, batch 64", "speedup", statistics.fmean, lambda v: v >= 1.5, "mean >= 1.5"),
    Target("whole time / twin's", "time_ratio", statistics.fmean, lambda v: v <= 1.15, "mean <= 1.15"),
    Target("tracking share", "tracking_fraction", statistics.fmean, lambda v: v <= 1e-3, "mean <= 0.001"),
    Target("cut vs masked, float32", "float32_error", max, lambda v: v <= 1e-5, "<= 1e-5"),
    Target("cut vs masked, float64", "float64_error", max, lambda v: v <= 1e-12, "<= 1e-12"),
    Target("parameters removed", "parameters_removed", statistics.fmean, None, "reported"),
    Target("checkpoint stall, ms/GB", "stall_ms_per_gb", statistics.median, None, "reported"),
)


def rows(seeds: Sequence[Figures]) -> list[tuple[str, str, str, str, str]]:
    """Figure, target, value, verdict, and the value of every seed."""
    lines = []
    for target in TARGETS:
        values = [float(getattr(seed, target.field)) for seed in seeds]
        value = target.together(values)
        verdict = "" if target.is_reached is None else ("reached" if target.is_reached(value) else "MISSED")
        lines.append(
            (target.name, target.text, f"{value:.4g}", verdict, " ".join(f"{v:.4g}" for v in values))
        )
    return lines


def _known(value: float | None) -> float:
    return NOT_MEASURED if value is None else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=DEMO_EPOCHS)
    parser.add_argument("--flops", type=float, default=DEMO_FLOPS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seeds: list[Figures] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            run_dir = Path(folder) / f"seed-{seed}"
            report = run_demo(
                run_dir, epochs=options.epochs, seed=seed, flops=options.flops, told=lambda *_: None
            )
            seeds.append(Figures.of(report))
            if not options.json:
                widths = ", ".join(f"{row.before}->{row.after}" for row in report.widths)
                print(f"seed {seed}: {seeds[-1].cuts} cuts, widths {widths}", flush=True)
    if options.json:
        print(json.dumps([asdict(seed) for seed in seeds], indent=1))
        return
    for name, text, value, verdict, each in [("figure", "target", "value", "", "seeds"), *rows(seeds)]:
        print(f"{name:32} {text:22} {value:>10} {verdict:8} {each}")


if __name__ == "__main__":
    main()
