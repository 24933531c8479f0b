"""Two processes train one network: they make the same cut or none, and go on as one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.anatomy.ranks import RANKS

Reports = list[dict[str, Any]]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Reports]]:
    """What each rank reports of a case; all cases run in one pair of processes."""
    directory = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.anatomy.ranks", str(rank), port, str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
        assert all(process.returncode == 0 for process in processes), "\n".join(outputs)
        found = [json.loads((directory / f"rank-{rank}.json").read_text()) for rank in range(RANKS)]
        yield lambda case: [report[case] for report in found]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize("case", ["plain", "bucket views", "static graph", "own group and hook"])
def test_ranks_stay_one_network_after_a_cut(case: str, reports: Callable[[str], Reports]) -> None:
    for report in reports(case):
        assert report["smaller"]
        assert report["moved"]
        assert report["apart"] == 0.0
        assert report["hooks"] == int(case == "own group and hook")


def test_gradients_are_averaged_over_the_ranks_after_a_cut(reports: Callable[[str], Reports]) -> None:
    for report in reports("averages gradients"):
        assert report["apart"] == 0.0
        assert report["error"] <= 1e-6


def test_ranks_with_different_masks_are_refused_before_anything_changes(
    reports: Callable[[str], Reports],
) -> None:
    for report in reports("another mask"):
        assert report["told"].startswith("RankDivergence: Rank 1 would have made another cut")
        assert report["same"]
        assert report["apart"] == 0.0


def test_a_cut_that_fails_on_one_rank_is_undone_on_the_other(reports: Callable[[str], Reports]) -> None:
    first, second = reports("fails on one")
    assert "failed on rank 1" in first["told"]
    assert second["told"].startswith("NotEquivalentError")
    for report in (first, second):
        assert report["same"]
        assert report["apart"] == 0.0


def test_a_sharded_network_is_cut_and_sharded_again(reports: Callable[[str], Reports]) -> None:
    for report in reports("shards"):
        assert report["same anatomy"]
        assert report["same class"]
        assert report["smaller"]
        assert report["kinds"] == ["DTensor"]
        assert report["local"]
        assert report["shapes"]
        assert report["error"] <= 1e-6
        assert report["hooks called"] == 4


def test_gradients_that_were_not_exchanged_are_not_lost(reports: Callable[[str], Reports]) -> None:
    for report in reports("accumulates"):
        assert report["told"].startswith("SurgeryError: A parameter of shape")
        assert "have not yet exchanged" in report["told"]


def test_a_refused_cut_leaves_every_shard_as_it_was(reports: Callable[[str], Reports]) -> None:
    for report in reports("shards, another mask"):
        assert report["told"].startswith("RankDivergence")
        assert report["same"]
    first, second = reports("shards, fails on one")
    assert "failed on rank 1" in first["told"]
    assert second["told"].startswith("NotEquivalentError")
    assert first["same"]
    assert second["same"]


def test_flattened_parameters_are_refused_by_name(reports: Callable[[str], Reports]) -> None:
    for report in reports("flattened"):
        assert report["told"].startswith("UntraceableError: The network is a FullyShardedDataParallel")
        assert "fully_shard" in report["told"]
