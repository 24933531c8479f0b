"""Telemetry in tiers: what summing up costs, whether it is exact, and how much smaller its result is.

    python benchmarks/telemetry.py [--values 262144]

Every figure is of processor time of one core, the median of rounds in turns, so that what else the machine
does hits all alike. The peers get the same values in the same run: `Histogram.observe` of prometheus_client
(15 buckets, one by one), the histogram of OpenTelemetry (one by one), and KLL and t-digest of datasketches
(an array at once, quantiles only). Then the same values are summed up in 1,000 other orders and groupings, by
us and by the sketches: how many different answers come out. Last the bytes of a summary beside those of the
lines and messages that it stands for, and what a training step pays: one of 10 ms by these figures, and those
of three trainings as their own reports say it.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import datasketches
import numpy as np
import torch
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, Histogram
from torch import nn

import esper
from esper.leyline.wire import messages
from esper.narset import Region, Summary, merged, message_of

ROUNDS, ORDERS = 7, 1000
STEP_SECONDS, MAX_SHARE, LEAST_PER_SECOND, LEAST_RATIO = 0.010, 0.001, 1e6, 1000


def ours_single(values: list[float]) -> None:
    region = Region("rank-0")
    record = region.record
    for value in values:
        record("step_seconds", value)
    region.drain()


def ours_batched(values: list[float]) -> None:
    region = Region("rank-0")
    region.record_many("step_seconds", values)
    region.drain()


def prometheus(values: list[float]) -> None:
    observe = Histogram("step_seconds", "x", registry=CollectorRegistry()).observe
    for value in values:
        observe(value)


def opentelemetry(values: list[float]) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    record = provider.get_meter("esper").create_histogram("step_seconds").record
    for value in values:
        record(value)
    reader.get_metrics_data()
    provider.shutdown()


def kll(values: list[float]) -> None:
    datasketches.kll_doubles_sketch(200).update(np.array(values))


def tdigest(values: list[float]) -> None:
    datasketches.tdigest_double(200).update(np.array(values))


SUBJECTS: dict[str, tuple[Callable[[list[float]], None], float | None]] = {
    "Narset, all tiers, one by one": (ours_single, LEAST_PER_SECOND),
    "Narset, all tiers, many at once": (ours_batched, LEAST_PER_SECOND),
    "prometheus_client Histogram.observe": (prometheus, None),
    "OpenTelemetry histogram": (opentelemetry, None),
    "datasketches KLL, quantiles only, many at once": (kll, None),
    "datasketches t-digest, quantiles only, many at once": (tdigest, None),
}


def rates(values: list[float]) -> dict[str, list[float]]:
    """Values per second of processor time, per round."""
    found: dict[str, list[float]] = {name: [] for name in SUBJECTS}
    for _ in range(ROUNDS):
        for name, (act, _target) in SUBJECTS.items():
            begun = time.process_time()
            act(values)
            found[name].append(len(values) / (time.process_time() - begun))
    return found


def summary_of(values: list[float]) -> Summary:
    region = Region("rank-0")
    region.record_many("x", values)
    return region.drain()[0]["x"]


def answers(values: list[float]) -> dict[str, int]:
    """How many different answers the same values have in other orders and groupings."""
    drawn = random.Random(1)
    seen: dict[str, set[str]] = {"Narset": set(), "KLL": set(), "t-digest": set(), "plain sum": set()}
    for _ in range(ORDERS):
        drawn.shuffle(values)
        cut = drawn.randrange(1, len(values))
        parts = (values[:cut], values[cut:])
        ours = merged(summary_of(part) for part in parts)
        seen["Narset"].add(repr((*ours[:6], sorted(ours.buckets.items()))))
        sketches = [datasketches.kll_doubles_sketch(200) for _ in parts]
        digests = [datasketches.tdigest_double(200) for _ in parts]
        for part, sketch, digest in zip(parts, sketches, digests, strict=True):
            sketch.update(np.array(part))
            digest.update(np.array(part))
        sketches[0].merge(sketches[1])
        digests[0].merge(digests[1])
        seen["KLL"].add(repr([sketches[0].get_quantile(rank) for rank in (0.5, 0.95, 0.99)]))
        seen["t-digest"].add(repr([digests[0].get_quantile(rank) for rank in (0.5, 0.95, 0.99)]))
        seen["plain sum"].add(repr(sum(parts[0]) + sum(parts[1])))
    return {name: len(different) for name, different in seen.items()}


def worst_quantile(values: list[float]) -> float:
    """The largest relative error of p0 to p100."""
    summary, ordered = summary_of(values), sorted(values)
    errors = []
    for percent in range(101):
        exact = ordered[max(math.ceil(percent / 100 * len(values)) - 1, 0)]
        found = summary.quantile(percent / 100)
        assert found is not None
        errors.append(abs(found - exact) / exact)
    return max(errors)


def sizes(values: list[float]) -> tuple[int, int, int]:
    """Bytes of one summary, and of the values as messages and as lines of JSON."""
    summary = message_of("rank-0", {"step_seconds": summary_of(values)}, 0).SerializeToString()
    single = [
        messages.TelemetryEvent(
            version=1, kind="step", by="kasmina", at_seconds=1.8e9 + number, metrics={"step_seconds": value}
        ).SerializeToString()
        for number, value in enumerate(values)
    ]
    lines = [
        json.dumps(
            {"at_seconds": 1.8e9 + number, "kind": "step", "epoch": 1, "facts": {"step_seconds": value}}
        )
        for number, value in enumerate(values)
    ]
    return len(summary), sum(map(len, single)), sum(len(line) + 1 for line in lines)


def met(is_met: bool) -> str:
    return "met" if is_met else "**missed**"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--values", type=int, default=1 << 18)
    drawn = random.Random(0)
    values = [drawn.lognormvariate(-4.6, 0.1) for _ in range(parser.parse_args().values)]
    print("| summed up | million per second, median | fastest round | target | |\n|---|---|---|---|---|")
    found = rates(values)
    for name, rounds in found.items():
        target = SUBJECTS[name][1]
        verdict = f"{target / 1e6:g} | {met(median(rounds) >= target)}" if target else " | "
        print(f"| {name} | {median(rounds) / 1e6:.2f} | {max(rounds) / 1e6:.2f} | {verdict} |")
    single = median(found["Narset, all tiers, one by one"])
    share = (1 / single + clock_seconds()) / STEP_SECONDS
    print(f"\nOf a step of 10 ms: {share:.4%} (target {MAX_SHARE:.1%}: {met(share <= MAX_SHARE)})")
    different = ", ".join(f"{name} {count}" for name, count in answers(values[:5000]).items())
    print(f"\nDifferent answers in {ORDERS} orders and groupings (target 1 for Narset): {different}")
    print(f"\nWorst error of p0 to p100: {worst_quantile(values):.3%} (stated: {1 / 128:.3%})")
    print("\n| values | summary, bytes | as messages | ratio | as lines | ratio | target | |")
    print("|---|---|---|---|---|---|---|---|")
    for count in (1024, 4096, 32768):
        ours, single_bytes, line_bytes = sizes(values[:count])
        ratio = single_bytes / ours
        print(
            f"| {count} | {ours} | {single_bytes} | {ratio:.0f} | {line_bytes} | {line_bytes / ours:.0f} "
            f"| {LEAST_RATIO} | {met(ratio >= LEAST_RATIO)} |"
        )
    print("\nRecords: 32 x 32 = 1024 values are one (target 1000: met)")
    logging.getLogger("esper").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print("\n| a training's step, ms | counting and telemetry | microseconds | target | | tracking |")
    print("|---|---|---|---|---|---|")
    for width in (64, 512, 2048):
        seconds, counting, tracking = in_training(width)
        verdict = f"{MAX_SHARE:.1%} | {met(counting <= MAX_SHARE)}"
        own = f"{seconds * 1e3:.2f} | {counting:.3%} | {counting * seconds * 1e6:.1f}"
        print(f"| {own} | {verdict} | {tracking:.3%} |")


def in_training(width: int, steps: int = 200) -> tuple[float, float, float]:
    """Seconds of a step in a real training, and what counting and tracking take of it, by its own report."""
    torch.manual_seed(0)
    layers = (nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    model, loss = nn.Sequential(*layers), nn.functional.cross_entropy
    optimizer = torch.optim.AdamW(model.parameters())
    batch = torch.randn(128, 64), torch.randint(0, 10, (128,))
    given: dict[str, Any] = {"loss": loss, "sample": batch, "probe": [batch], "epochs": 3}
    with tempfile.TemporaryDirectory() as place:
        session = esper.attach(model, optimizer, run_dir=f"{place}/run", **given)
        for _ in range(3):
            for _ in range(steps):
                optimizer.zero_grad()
                loss(model(batch[0]), batch[1]).backward()
                optimizer.step()
            session.end_epoch(accuracy=0.5)
        seconds = median(row.seconds for row in session.log.epochs) / steps
        told = session.finish(latency=False).report.overhead
    assert told is not None
    return seconds, told.counting_fraction or math.nan, told.tracking_fraction or math.nan


def clock_seconds() -> float:
    """What reading the clock once per step costs."""
    begun = time.process_time()
    for _ in range(100_000):
        time.perf_counter()
    return (time.process_time() - begun) / 100_000


if __name__ == "__main__":
    main()
