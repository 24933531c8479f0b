"""Two processes grow one network: every seed is the same in both, and what one of them sees both act on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.session.growing_ranks import CULLED, KEPT, LENGTH, rank
from tests.session.processes import Reports, reports_of
from tests.session.ranks import RANKS

ReportsOf = Callable[[str], Reports]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReportsOf]:
    """What each rank reports of a case; all cases run in one pair of processes, in turn."""
    with reports_of(rank, RANKS, tmp_path_factory.mktemp("ranks")) as found:
        yield found


def test_seeds_go_their_ways_on_every_rank_and_are_the_same(reports: ReportsOf) -> None:
    first, second = reports("straight")
    assert first["prints"] == second["prints"]
    for report in (first, second):
        assert report["answers"] == {1: True, 2: True}
        assert report["stages"][4] == {KEPT: "SHADOWING", CULLED: "BLENDING"}
        assert report["stages"][LENGTH] == {KEPT: "FOSSILIZED", CULLED: "DORMANT"}
        assert report["apart"] == []
        assert report["told"] == (report["before"], report["after"])
        assert report["in optimizer"] == 8 + 4  # all that is trained: two convolutions more
    assert first["after"] > first["before"]


def test_what_has_grown_is_averaged_with_the_gradients_of_the_host(reports: ReportsOf) -> None:
    """From when it is a part on, ranks with other data would part if nobody did."""
    for report in reports("straight"):
        assert report["stages"][6][KEPT] == "FOSSILIZED"
        assert report["grown weights"][LENGTH] != report["grown weights"][6]


def test_a_growing_run_goes_on_from_anywhere_bit_for_bit(reports: ReportsOf) -> None:
    for straight, resumed in zip(reports("straight"), reports("resumed"), strict=True):
        for epochs in resumed["prints"].values():
            assert epochs == {epoch: straight["prints"][epoch] for epoch in epochs}


def test_ranks_go_back_over_a_seed_that_has_become_a_part(reports: ReportsOf) -> None:
    for straight, resumed in zip(reports("straight"), reports("resumed"), strict=True):
        assert resumed["back"] == straight["prints"][4]
        assert resumed["later"] == {5: straight["prints"][5]}


def test_a_host_of_several_processes_is_bit_for_bit_as_without_a_seed(reports: ReportsOf) -> None:
    for report in reports("isolated"):
        assert report["with"] == report["without"]


def test_what_one_rank_alone_sees_of_a_seed_all_act_on(reports: ReportsOf) -> None:
    first, second = reports("odd")
    for report in (first, second):
        assert report["passed"] == (True, True)
        assert report["stages"] == {KEPT: "EMBARGOED", CULLED: "RESETTING"}
        assert report["breaker"] == ("OPEN", "CLOSED")
    assert first["culled"] == [
        "It violated its isolation 3 times: its own pass changed something in the host.",
        "It failed: ValueError: I cannot.",
    ]
    assert second["culled"] == []  # rank 0 tells people


def test_what_cannot_be_is_refused_by_all(reports: ReportsOf) -> None:
    for report in reports("odd"):
        assert report["another place"].startswith("RankDivergence: Rank 1 differs from rank 0 in the call")
        assert report["no blueprint"].startswith("ConfigError: ")
        assert "There is no blueprint 'no such'" in report["no blueprint"]
        assert "No module of the network that could have a seed fits 'nowhere.*'" in report["no place"]
        assert report["not made"].startswith("ConfigError: ")
        assert report["made apart"].startswith("RankDivergence: ")
        made = "differs from rank 0 in what the blueprint 'wider' makes: ['0.weight (2, "
        assert made in report["made apart"]
        told, slots = report["unwritten"]
        assert told.startswith("CheckpointError: ")
        assert slots == {}
        assert report["places"] == [f"features.{number}" for number in range(8)]


def test_a_seed_that_one_rank_cannot_make_none_has(reports: ReportsOf) -> None:
    first, second = reports("odd")
    assert "ConfigError: On rank 1: The blueprint 'not made' made nothing" in first["not made"]
    assert second["not made"] == first["not made"]


def test_a_policy_decides_for_all_and_what_has_grown_is_pruned(reports: ReportsOf) -> None:
    first, second = reports("decided")
    assert first["prints"] == second["prints"]
    for report in (first, second):
        assert report["apart"] == []
        assert sorted(report["stages"].values()) == ["DORMANT", "FOSSILIZED"]
        assert report["kinds"][:4] == ["germinated", "germinated", "culled", "fossilized"]
        assert report["kinds"].count("cut") >= 1
        assert report["reached"] > 0.2
