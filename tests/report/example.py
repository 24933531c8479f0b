"""A report with every part filled, and one with as little as a report can hold."""

from __future__ import annotations

import math

from esper.report.report import (
    DecisionRow,
    EpochRow,
    Latency,
    Mark,
    Overhead,
    Proof,
    RunReport,
    WidthRow,
    WorkerRow,
)

GROUPS = (
    ("stem.conv", 32, 21),
    ("stage1.0.conv1", 32, 18),
    ("stage1.0.conv2", 32, 17),
    ("stage2.0.conv1", 64, 34),
    ("stage2.0.downsample.0", 64, 39),
    ("stage2.0.conv2", 64, 31),
    ("stage3.0.conv1", 128, 58),
    ("stage3.0.downsample.0", 128, 66),
    ("stage3.0.conv2", 128, 49),
)
COST = {
    1: 1.0,
    2: 1.0,
    3: 1.0,
    4: 0.83,
    5: 0.83,
    6: 0.61,
    7: 0.61,
    8: 0.61,
    9: 0.43,
    10: 0.43,
    11: 0.43,
    12: 0.43,
}


TWIN = (0.712, 0.903, 0.941, 0.952, 0.961, 0.967, 0.964, 0.971, 0.972, 0.975, 0.974, 0.976)
RUN = (0.712, 0.903, 0.939, 0.955, 0.957, 0.963, 0.966, 0.958, 0.970, 0.972, 0.976, 0.974)


def epoch(number: int, accuracy: float, flops: float, masked: int) -> EpochRow:
    metrics = {"accuracy": accuracy, "loss": 0.9 * math.exp(-0.4 * number)}
    return EpochRow(
        number, number * 63, metrics, 18.4e6 * flops, round(310_442 * flops**1.1), masked, 2.9 * flops
    )


def full_report() -> RunReport:
    marks = (
        Mark(2, "skipped", "no units were measured often enough yet"),
        Mark(3, "mask", "36 channels, predicted loss +0.0006, validated on 512 samples"),
        Mark(4, "cut", "36 channels, equal to 2.1e-07"),
        Mark(5, "no_go", "retention 94.1 % is below 95 %"),
        Mark(5, "mask", "58 channels after the plan was halved"),
        Mark(6, "cut", "58 channels, equal to 1.8e-07"),
        Mark(7, "mask", "70 channels"),
        Mark(8, "rollback", "accuracy fell by 3.1 points; back to step 504"),
        Mark(8, "mask", "62 channels"),
        Mark(9, "cut", "62 channels, equal to 2.4e-07"),
    )
    decisions = tuple(
        DecisionRow(
            3 + 2 * (number // 4),
            name,
            "channel",
            before - after,
            0.0031 * (number + 1),
            None if number == 5 else 0.95 + 0.004 * number,
            1.3e-4 * (number + 1),
            "no_go" if number == 5 else "conditional" if number == 7 else "go",
            "the interval of the paired difference reaches over the limit of 2 points"
            if number == 5
            else "lowest loss per saved FLOP of all groups under the cap",
        )
        for number, (name, before, after) in enumerate(GROUPS)
    )
    return RunReport(
        title="ResNet-8 on 5,000 handwritten digits",
        model="ResNet8(width=32)",
        metric="accuracy",
        higher_is_better=True,
        epochs=tuple(epoch(n, RUN[n - 1], COST[n], 40 if n in {3, 5, 7, 8} else 0) for n in COST),
        twin_epochs=tuple(epoch(n, TWIN[n - 1], 1.0, 0) for n in COST),
        marks=marks,
        widths=tuple(WidthRow(name, "channel", before, after) for name, before, after in GROUPS),
        decisions=decisions,
        flops_before=18_400_000,
        flops_after=18_400_000 * 0.43,
        parameters_before=310_442,
        parameters_after=122_672,
        bytes_before=1_246_000,
        bytes_after=493_000,
        latency=Latency(64, 31.4, 17.2, 2.2, 1.1, "cpu", 30),
        quality_before=0.976,
        quality_after=0.974,
        proof=Proof(2.4e-7, 4.4e-16, 3.1e-7, 5.9e-8, 512),
        overhead=Overhead(0.00071, 42.0, 38.4, 3.2),
        workers=(
            WorkerRow(0, 118, 0, 0, 412 << 20, "ok"),
            WorkerRow(1, 97, 1, 2, None, "failing", "It was not done after 60 seconds and was killed."),
        ),
        environment={
            "esper": "0.1.0",
            "torch": "2.13.0+cpu",
            "Python": "3.11.7",
            "threads": "1",
            "seed": "0",
        },
        notes=("The twin was trained with the same seed, data order and number of epochs.",),
    )


def bare_report() -> RunReport:
    return RunReport(
        title="A run that measured nothing",
        model="Linear",
        metric="loss",
        higher_is_better=False,
        epochs=(),
        flops_before=10.0,
        flops_after=10.0,
        parameters_before=4,
        parameters_after=4,
        bytes_before=16,
        bytes_after=16,
    )
