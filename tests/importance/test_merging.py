"""Merging what several trackers or ranks have measured."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import EvidenceError
from esper.importance.products import StepSums
from esper.importance.statistics import UnitStatistics
from tests.importance.networks import two
from tests.importance.steps import sgd, step, tracker_of

MOMENTUM = 0.9
STEPS = st.lists(st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=3), max_size=6)


def statistics_of(steps: list[list[float]], taking_part: float = 1.0) -> UnitStatistics:
    made = UnitStatistics.empty(3, torch.device("cpu"))
    part = torch.tensor([taking_part, 1.0, 1.0])
    for values in steps:
        sums = torch.tensor(values)
        made.update(StepSums(sums, sums.square(), part, part, torch.ones(())), MOMENTUM, stride=2)
    return made


def read(statistics: UnitStatistics) -> list[list[float]]:
    signals = (statistics.taylor, statistics.absolute_taylor, statistics.fisher)
    return [signal(MOMENTUM, 1, 1).tolist() for signal in signals]


def nearly(expected: list[list[float]]) -> list[object]:
    return [pytest.approx(row, rel=1e-4, abs=1e-5, nan_ok=True) for row in expected]


@given(STEPS, STEPS, STEPS)
def test_a_merge_is_the_mean_by_samples_in_every_order(
    a: list[list[float]], b: list[list[float]], c: list[list[float]]
) -> None:
    one, other, third = statistics_of(a), statistics_of(b, taking_part=0.0), statistics_of(c)
    merged = UnitStatistics.merged([one, other, third], MOMENTUM)
    backwards = UnitStatistics.merged([third, other, one], MOMENTUM)
    pairwise = UnitStatistics.merged([UnitStatistics.merged([one, other], MOMENTUM), third], MOMENTUM)
    assert read(backwards) == nearly(read(merged))
    assert read(pairwise) == nearly(read(merged))
    assert merged.samples.tolist() == [len(a) + len(c), *[len(a) + len(b) + len(c)] * 2]
    assert merged.steps.tolist() == [2 * count for count in merged.samples.tolist()]
    parts = [(len(a), read(one)), (len(b), read(other)), (len(c), read(third))]
    for row in (1, 2):  # of root mean squares the squares are averaged
        expected = [_mean([(n, part[row][unit]) for n, part in parts]) for unit in range(3)]
        assert read(merged)[row] == nearly([expected])[0]


def _mean(parts: list[tuple[int, float]]) -> float:
    known = [(count, value) for count, value in parts if count and not np.isnan(value)]
    total = sum(count for count, _ in known)
    return sum(count * value for count, value in known) / total if total else float("nan")


@given(STEPS)
def test_what_measured_nothing_changes_nothing(steps: list[list[float]]) -> None:
    empty = UnitStatistics.empty(3, torch.device("cpu"))
    assert read(UnitStatistics.merged([empty, statistics_of(steps), empty], MOMENTUM)) == nearly(
        read(statistics_of(steps))
    )


def test_trackers_merge_their_states_and_refuse_those_of_others() -> None:
    network, anatomy = two(width=3)
    first, second = (tracker_of(network, anatomy, sgd(network)) for _ in range(2))
    optimizer = sgd(network)
    third = tracker_of(network, anatomy, optimizer)
    step(network, optimizer, torch.randn(4, 3))
    first.merge([second.state(), third.state()])
    assert first.taylor().tolist() == pytest.approx(third.taylor().tolist(), rel=1e-4)
    other, other_anatomy = two(width=4)
    with pytest.raises(EvidenceError, match="3 units"):
        first.merge([third.state(), tracker_of(other, other_anatomy, sgd(other)).state()])
    assert first.state()["samples"].tolist() == [1.0] * 3


def test_ranks_end_up_with_the_same_and_differing_structures_are_refused(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "tests.importance.rank", port, str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    told = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert told[0]["merged"] == told[1]["merged"]
    alone = np.array([told[0]["alone"], told[1]["alone"]])
    samples = np.array([[3.0], [5.0]])
    assert told[0]["merged"] == pytest.approx((alone * samples).sum(0) / 8, rel=1e-4)
    assert told[0]["samples"] == [8.0] * 3
    assert ["RankDivergence" in report["refused"] for report in told] == [True, True]
