"""Two processes train one network under Esper: rank 0 decides, both do the same, and stay one network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from esper.session.standing import joined
from tests.session.processes import Reports, reports_of
from tests.session.ranks import EPOCHS, RANKS, STEPS, rank


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Reports]]:
    """What each rank reports of a case; all cases run in one pair of processes, in turn."""
    with reports_of(rank, RANKS, tmp_path_factory.mktemp("ranks")) as found:
        yield found


def test_two_processes_prune_one_network_and_stay_one(reports: Callable[[str], Reports]) -> None:
    first, second = reports("whole")
    for report in (first, second):
        assert report["apart"] == []
        assert all("running" in name for name in report["apart later"])  # of the last batch of each
        assert report["reached"] > 0.3
        before, after = report["parameters"]
        assert after < 0.75 * before
        assert report["parameters told"] == (before, after)
        assert report["widths in training"] < [12, 16]  # cut while it trained, and trained on
        assert report["kinds"].count("cut") >= 1
        assert report["has page"]
        assert report["is same model"]
        assert report["step"] == EPOCHS * STEPS
        assert report["accuracies"] == [0.55] * EPOCHS  # the mean of 0.5 and 0.6
    assert first["fingerprint"][:-2] == second["fingerprint"][:-2]
    assert first["fingerprint"][-2:] != second["fingerprint"][-2:]  # every rank draws numbers of its own
    told = "2 processes train this network: rank 0 decides, and all of them do it at the same step."
    assert told in first["notes"]
    told = (
        "The processes have measured accuracy differently, each on its own share of the data: decisions are "
    )
    assert f"{told}made by the mean of their numbers." in first["notes"]


def test_the_steps_of_every_rank_are_counted_and_added_up(reports: Callable[[str], Reports]) -> None:
    counted = reports("whole")[0]["counted"]
    between = STEPS - 1  # from the first step of an epoch to the last
    one_epoch = [("rank-0", between), ("rank-1", between), ("all-ranks", RANKS * between)]
    assert counted == [(epoch, *told) for epoch in range(1, EPOCHS + 1) for told in one_epoch]


def test_a_run_of_two_processes_goes_on_bit_for_bit(reports: Callable[[str], Reports]) -> None:
    for uninterrupted, report in zip(reports("whole"), reports("resumed"), strict=True):
        assert report["at"] == (3, 3 * STEPS)
        assert report["widths"] < [12, 16]
        assert report["fingerprint"] == uninterrupted["fingerprint"]


def test_a_cut_that_one_rank_cannot_make_is_made_by_none(reports: Callable[[str], Reports]) -> None:
    for report in reports("resumed"):
        assert not report["is cut at last"]
        assert report["apart"] == []
        (note,) = [note for note in report["notes"] if "stay masks" in note]
        assert "The cut failed on rank 1 and was undone on this one too." in note
        assert "Rank 1 says: RuntimeError: " in note


def test_all_ranks_go_back_over_a_cut(reports: Callable[[str], Reports]) -> None:
    for report in reports("goes wrong"):
        assert report["was cut"]
        assert report["is back"]
        assert report["apart"] == []


def test_a_mask_is_taken_back_on_all_ranks(reports: Callable[[str], Reports]) -> None:
    for report in reports("vetoed"):
        assert report["masked"] > 0.2
        assert report["left"] == 0.0
        assert all("running" in name for name in report["apart"])


def test_a_teacher_teaches_on_every_rank(reports: Callable[[str], Reports]) -> None:
    for report in reports("vetoed"):
        assert abs(report["lesson"]) > 0.01
        assert report["unseen"].startswith(
            "ConfigError: There is a teacher, and it must see what the network"
        )
        assert report["alone"].startswith("RankDivergence: Rank 1 differs from rank 0 in the teacher: None")


def test_what_has_parted_is_named_and_nothing_is_done(reports: Callable[[str], Reports]) -> None:
    for report in reports("goes wrong"):
        assert report["other weights"].startswith(
            "RankDivergence: Rank 1 differs from rank 0 in the weights of head.weight. Nothing was"
        )
        assert "in the call: close_breaker there, end_epoch on rank 0." in report["other call"]
        assert report["right"] == ""


@pytest.mark.parametrize(
    ("case", "kind", "words"),
    [
        ("other metric", "ConfigError", "end_epoch was told mine, and attach(metric='accuracy')"),
        ("no number", "ConfigError", "end_epoch was told something that is no single number"),
        ("step", "ConfigError", "This run counts in epochs"),
        ("grow", "UnknownPathError", "The network has no module 'nowhere'"),
        ("checkpoint", "CheckpointMissing", "No checkpoint of step 12345"),
        ("veto", "ConfigError", "There is no mask on trial"),
    ],
)
def test_what_one_rank_refuses_all_refuse(
    case: str, kind: str, words: str, reports: Callable[[str], Reports]
) -> None:
    for report in reports("goes wrong"):
        assert report[case].startswith(f"{kind}: ")
        assert words in report[case]


def test_where_a_save_fails_the_epoch_has_ended_on_all_ranks(reports: Callable[[str], Reports]) -> None:
    for report in reports("goes wrong"):
        assert report["unsaved"]
        assert report["epochs"] == (2, 2)


def test_rank_0_does_nothing_to_the_network_alone(reports: Callable[[str], Reports]) -> None:
    told = reports("goes wrong")[0]["alone"]
    assert told.startswith("EsperError: Rank 0 was about to do something alone (bring units back)")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("another config", "RankDivergence: Rank 1 differs from rank 0 in `config`"),
        ("an unknown key", "There is no such key; 'pruning' is near"),
        ("an optimizer of another", "none of them belongs to the given"),
        ("its inside", "Make the DistributedDataParallel first, and give esper.attach that."),
        ("wrapped later", "Make the DistributedDataParallel first, and give esper.attach that."),
        ("sharded", "Use esper.anatomy.cut with a mask that one rank has decided"),
        ("another policy", "RankDivergence: Rank 1 differs from rank 0 in `policy`: Idle there"),
        ("another teacher", "RankDivergence: Rank 1 differs from rank 0 in the teacher"),
        ("a lesson", "what it was before does not teach it under them yet"),
        ("layers", 'Leave "layer" out of the levels.'),
        ("no run", "holds no checkpoint. Start a run there"),
    ],
)
def test_what_several_processes_cannot_have_is_refused_by_all(
    case: str, words: str, reports: Callable[[str], Reports]
) -> None:
    for report in reports("refused"):
        assert words in report[case]
        assert report["is nothing made"]


def test_a_run_goes_on_with_another_number_of_processes_and_that_is_told(
    reports: Callable[[str], Reports],
) -> None:
    first, second = reports("refused")
    told = "The checkpoint holds the random numbers of 1 process(es), and 2 go on"
    assert any(note.startswith(told) for note in first["notes"])
    told = "The checkpoint holds the random numbers of 2 process(es), and 1 go on"
    assert any(note.startswith(told) for note in first["parted"])
    assert second["notes"] == []  # rank 0 tells people


def test_periods_of_steps_end_on_all_ranks_with_what_one_of_them_measured(
    reports: Callable[[str], Reports],
) -> None:
    for report in reports("by steps until one dies"):
        assert report["ends"] == [6, 12]
        assert report["rows"] == [({"accuracy": 0.25}, 5), ({"accuracy": 0.25}, 11)]
        assert "call session.end_step(...) after every optimizer step" in report["wrong"]


def test_a_rank_that_has_died_is_told_of(reports: Callable[[str], Reports]) -> None:
    told = reports("by steps until one dies")[0]["told"]
    assert told.startswith("RankLost: A rank no longer answers: it has ended")
    assert "resume=True" in told


def test_metrics_of_all_ranks_are_joined_to_the_mean_of_those_that_measured() -> None:
    states = [
        {"numbers": {"accuracy": 0.5, "loss": 1.0}, "step": 7},
        {"numbers": {"accuracy": 0.75}, "step": 9},
        {"numbers": {}, "step": -1},
    ]
    assert joined(states) == {"numbers": {"accuracy": 0.625, "loss": 1.0}, "step": 9}
    same = joined([{"numbers": {"accuracy": 0.1}, "step": 1}] * 3)
    assert same["numbers"] == {"accuracy": 0.1}
    broken = joined([{"numbers": {"loss": float("inf")}, "step": 1}, {"numbers": {"loss": 1.0}, "step": 1}])
    assert broken["numbers"]["loss"] != broken["numbers"]["loss"]
