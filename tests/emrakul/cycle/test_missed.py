"""A target that was missed is explained by what stood in the way last."""

from __future__ import annotations

import pytest

from esper.emrakul.cycle.coordinator import CoordinatorState
from esper.emrakul.cycle.decide import AT_FLOOR
from esper.emrakul.cycle.history import CycleRecord
from esper.emrakul.cycle.missed import RunEnd, why_missed
from esper.emrakul.schedule import Schedule
from esper.emrakul.settings import Settings, Target

SETTINGS = Settings.model_validate({"target": {"flops": 0.5}})
HALF = Target(flops=0.5)


def told(*records: CycleRecord, epoch: int = 10, **more: object) -> str:
    end = RunEnd(0.3, epoch, **more)  # type: ignore[arg-type]  # fields by name
    return why_missed(HALF, end, Schedule(SETTINGS, 10), CoordinatorState(history=records))


def record(status: str, reason: str = "Because.", **more: object) -> CycleRecord:
    return CycleRecord("key", 9, "ramp", status, reason, **more)  # type: ignore[arg-type]  # fields by name


def test_a_target_that_was_met_is_no_word_worth() -> None:
    assert why_missed(HALF, RunEnd(0.5, 10), Schedule(SETTINGS, 10), CoordinatorState()) == ""


@pytest.mark.parametrize(
    ("sentence", "reason", "advice"),
    [
        (told(epoch=3), "ended after epoch 3 of 10 that were planned", "attach(epochs=...)"),
        (
            told(record("accepted"), epoch=14),
            "planned for 10 epochs and had 14, and nothing is decided after epoch 8",
            "attach(epochs=...)",
        ),
        (
            told(record("accepted"), taken_back=(9, "The metric fell.")),
            "(The metric fell)",
            "pruning.rollback",
        ),
        (
            told(record("accepted"), refused=(9, "Nothing was masked: it costs.")),
            "because in epoch 9 nothing was masked: it costs.",
            "validation.limits",
        ),
        (
            told(record("accepted"), refused=(9, "Refused."), taken_back=(10, "It fell.")),
            "(It fell)",
            "pruning.rollback",
        ),
        (
            told(record("accepted", removed_after=0.5, goal_fraction=0.5)),
            "only a part of the plan of epoch 9 still held when it was applied",
            "analysis.max_wait_seconds",
        ),
        (
            told(record("accepted", removed_after=0.5, goal_fraction=0.5), grown=0.1),
            "nothing is decided after epoch 8; besides, seeds have added 10.0%.",
            "more epochs",
        ),
        (told(seeds=(3, 9)), "because seeds were on their way from epoch 3 to 9", "strategy.max_tries"),
        (told(record("accepted"), seeds=(9, 10)), "seeds were on their way from epoch 9", "more epochs"),
        (told(seeds=(3, 5)), "before anything could be decided", "more epochs"),
        (told(record("accepted"), seeds=(3, 9)), "nothing is decided after epoch 8", "more epochs"),
        (
            told(
                record("accepted", removed_after=0.5), masked=0.5, uncut="It holds state. Nothing was done."
            ),
            "another 20.0% is masked and could not be cut (It holds state).",
            "masks that stay masks",
        ),
        (
            told(record("rejected", "Worse.")),
            "refused the plan of epoch 9 (Worse)",
            "(validation.limits and validation.min_retention: the stricter one counts)",
        ),
        (
            told(record("rejected", "Worse.", measure="loss"), record("skipped"), refused=(10, "It costs.")),
            "because in epoch 10 it costs.",
            "(validation.min_retention)",
        ),
        (told(record("skipped", held={"floor": 12, "loss": 1})), "12 by floor, 1 by loss", "pruning.floors"),
        (
            told(record("skipped", held={"budget": 2})),
            "each of the 2 units that could still go takes more than is missing",
            "pruning.schedule.overshoot_fraction",
        ),
        (
            told(record("failed", "AnalysisError: gone")),
            "the only analysis failed, first in epoch 9 (AnalysisError: gone)",
            "see `esper audit show`",
        ),
        (
            told(record("failed", "AnalysisError: first."), record("skipped"), record("failed", "Other.")),
            "2 of 3 analyses failed, first in epoch 9 (AnalysisError: first)",
            "please report it",
        ),
        (told(record("failed", "AnalysisTimeout: 9 s.")), "(AnalysisTimeout: 9 s)", "deadline_seconds"),
        (told(record("skipped", "No unit may go.")), "(No unit may go)", "more epochs"),
        (told(record("skipped", AT_FLOOR)), "at the floor", "lower pruning.floors"),
        (
            told(record("skipped", AT_FLOOR), is_unsaid=True),
            "cannot be cut",
            "set pruning.plan.configurable to false, or lower",
        ),
        (told(record("accepted")), "nothing is decided after epoch 8", "more epochs"),
        (
            told(record("accepted", removed_after=0.3, goal_fraction=0.5, held={"confidence": 3})),
            "held back: 3 by confidence",
            "calibration_samples",
        ),
        (
            told(record("accepted", removed_after=0.3, goal_fraction=0.5, held={"floor": 9, "shrunk": 3})),
            "only a part of the plan of epoch 9",
            "validation.limits",
        ),
        (told(), "before anything could be decided", "more epochs"),
        (told(late=2), "came of the analysis of epoch 2", "analysis.max_wait_seconds"),
        (
            told(record("accepted"), late=8),
            "came of the analysis of epoch 8",
            "analysis.max_wait_seconds",
        ),
        (told(record("accepted"), late=9), "nothing is decided after epoch 8", "more epochs"),
        (told(record("accepted"), unmeasured="acc"), "no epoch measured acc", "report it after every epoch"),
        (told(record("failed", "It broke.", held={"budget": 2})), "(It broke)", "see `esper audit show`"),
        (
            told(record("rejected", "Worse."), reach=(0.4, "What holds the rest: sort (60%).")),
            "at most 40.0% can go (what holds the rest: sort (60%)); besides, the validator refused",
            "lower the target",
        ),
        (
            told(record("rejected", "Worse."), reach=(0.305, "")),
            "because at most 30.5% can go. To get",
            "lower the target",
        ),
        (
            told(record("rejected", "Worse."), reach=(0.4, ""), grown=0.1),
            "refused the plan of epoch 9 (Worse); besides, seeds have added",
            "validation.limits",
        ),
        (told(has_stepped=False), "made no step", "whose step() the loop calls"),
    ],
)
def test_the_sentence_names_the_share_the_reason_and_what_to_do(
    sentence: str, reason: str, advice: str
) -> None:
    assert sentence.startswith("The target was missed: 30.0% of the flops went instead of 50.0%, because ")
    assert reason in sentence
    assert advice in sentence.partition("To get further, ")[2]


def test_a_target_that_growth_has_moved_away_is_told_of_that_and_of_the_way_out() -> None:
    end = RunEnd(-0.266, 20, refused=(17, "Refused."), grown=0.84)
    sentence = why_missed(HALF, end, Schedule(SETTINGS, 20), CoordinatorState())
    assert sentence.startswith(
        "The target was missed: 26.6% more flops than at the start instead of 50.0% fewer, because seeds "
        "have added 84.0%, and a target counts from the network as it was at the start. To get further, "
        "prune the grown network in a second session"
    )


@pytest.mark.parametrize("status", ["RuntimeError: gone", "AnalysisError: it broke"])
def test_who_failed_is_not_told_to_train_longer(status: str) -> None:
    assert "more epochs" not in told(record("failed", status))


def test_a_loop_that_never_ends_an_epoch_is_told_of_that() -> None:
    sentence = told(epoch=0, unmeasured="accuracy")
    assert "because end_epoch() was never called. To get further, call it after every epoch" in sentence


def test_a_refusal_before_the_last_plan_is_not_what_stood_in_the_way() -> None:
    assert "fell" not in told(record("accepted"), taken_back=(8, "The metric fell."))
