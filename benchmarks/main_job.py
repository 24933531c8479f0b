"""The main job: ResNet-8 on 5,000 digits, pruned inside one training run, beside its uncut twin, over several seeds.

    python benchmarks/main_job.py [--seeds 3] [--epochs 18] [--json]

Prints every figure beside its target. Times are ratios within one run; use an otherwise idle machine for them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from esper.cli.commands import DEMO_EPOCHS
from esper.cli.demo import run_demo
from esper.nissa import RunReport


def figures(report: RunReport) -> dict[str, Any]:
    """What one seed measured."""
    cut_epochs = [mark.epoch for mark in report.marks if mark.kind == "cut"]
    lead = report.lead_over_twin
    after_cut = [value for epoch, value in lead.items() if cut_epochs and epoch > cut_epochs[0]]
    overhead, proof = report.overhead, report.proof
    twin_seconds = sum(row.seconds for row in report.twin_epochs)
    return {
        "flops_removed": 1 - report.flops_after / report.flops_before,
        "parameters_removed": 1 - report.parameters_after / report.parameters_before,
        "accuracy_twin": report.quality_before,
        "accuracy": report.quality_after,
        "worst_lead_after_a_cut": min(after_cut, default=None),
        "speedup": report.latency.speedup if report.latency else None,
        "time_ratio": overhead.training_seconds / twin_seconds if overhead and overhead.training_seconds else None,
        "tracking_fraction": overhead.tracking_fraction if overhead else None,
        "stall_ms_per_gb": overhead.checkpoint_stall_ms_per_gb if overhead else None,
        "float32_error": proof.float32_error if proof else None,
        "float64_error": proof.float64_error if proof else None,
        "cuts": len(cut_epochs),
    }


def table(rows: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Figure, target, measured mean, every seed; MISSED where the target is missed."""
    margin = [row["accuracy"] - row["accuracy_twin"] for row in rows]
    checks: list[tuple[str, str, list[Any], Any]] = [
        ("FLOPs removed", ">= 0.50", [r["flops_removed"] for r in rows], lambda m, v: min(v) >= 0.4999),
        ("final accuracy - twin", ">= -0.005 (mean)", margin, lambda m, v: m >= -0.005),
        ("worst epoch - twin after a cut", ">= -0.02", [r["worst_lead_after_a_cut"] for r in rows], lambda m, v: min(v) >= -0.02),
        ("CPU speed-up, batch 64", ">= 1.5", [r["speedup"] for r in rows], lambda m, v: m >= 1.5),
        ("total time / twin", "<= 1.15", [r["time_ratio"] for r in rows], lambda m, v: m <= 1.15),
        ("tracking share of training", "<= 0.001", [r["tracking_fraction"] for r in rows], lambda m, v: m <= 0.001),
        ("float32 difference of the cut", "<= 1e-5", [r["float32_error"] for r in rows], lambda m, v: max(v) <= 1e-5),
        ("float64 difference of the cut", "<= 1e-12", [r["float64_error"] for r in rows], lambda m, v: max(v) <= 1e-12),
        ("parameters removed", "", [r["parameters_removed"] for r in rows], None),
        ("checkpoint stall, ms/GB", "reported", [r["stall_ms_per_gb"] for r in rows], None),
    ]
    lines = []
    for name, target, values, passes in checks:
        known = [value for value in values if value is not None]
        mean = statistics.fmean(known) if known else float("nan")
        missing = len(known) < len(values)
        verdict = "" if passes is None else ("MISSED" if missing or not passes(mean, known) else "reached")
        lines.append((name, target, f"{mean:.4g} {verdict}".strip(), " ".join(_short(value) for value in values)))
    return lines


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=DEMO_EPOCHS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            report = run_demo(
                Path(folder) / f"seed-{seed}", epochs=options.epochs, seed=seed, flops=0.5, told=lambda *_: None
            )
            rows.append(figures(report))
            if not options.json:
                print(f"seed {seed}: " + ", ".join(f"{name} {_short(value)}" for name, value in rows[-1].items()), flush=True)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print()
    for name, target, mean, each in [("figure", "target", "mean", "seeds"), *table(rows)]:
        print(f"{name:32} {target:18} {mean:20} {each}")


if __name__ == "__main__":
    main()
