"""When seeds are tried out: never beside something else, never too late, and only where the metric rests."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from esper.errors import ConfigError
from esper.tamiyo.asking import ask, check_policy
from esper.tamiyo.policy import (
    Command,
    Cull,
    Periodic,
    Plateau,
    SystemState,
    TryOut,
    foreseen,
    policy_of,
    why_not,
)
from esper.tamiyo.settings import StrategySettings

RESTING = (0.5, 0.8, 0.81, 0.80, 0.81, 0.80, 0.81)
REST = SystemState(
    epoch=7,
    epochs_left=20,
    metrics=RESTING,
    is_higher_better=True,
    is_mask_under_way=False,
    is_seed_under_way=False,
    epochs_of_a_seed=6.0,
    grown=0,
    tries=(),
)


def test_a_plateau_is_where_the_metric_rises_no_more_than_its_noise() -> None:
    plateau = Plateau(StrategySettings(policy="plateau", slots="layer*", blueprint="mlp", width=8))
    (command,) = plateau.decide(REST)
    assert isinstance(command, TryOut)
    assert (command.slots, command.blueprint, command.options) == ("layer*", "mlp", {"width": 8})
    assert "0.81" in command.why
    rising = replace(REST, metrics=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7))
    falling_loss = replace(REST, metrics=(7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0), is_higher_better=False)
    unmeasured = replace(REST, metrics=(0.8, None, float("nan"), None, None, None, None))
    for state in (rising, falling_loss, unmeasured):
        assert plateau.decide(state) == ()
        assert "had not come to rest" in why_not(plateau, state)
    # After a try the metric gets time again.
    assert plateau.decide(replace(REST, tries=(4,))) == ()


def test_a_metric_that_still_rises_slowly_is_on_no_plateau() -> None:
    """By as much as its noise in every two epochs: the best of three is hardly better than those before."""
    slow = (0.80, 0.812, 0.806, 0.818, 0.812, 0.82)
    state = replace(REST, metrics=slow, epoch=6)
    assert not Plateau(StrategySettings(policy="plateau")).decide(state)
    assert Plateau(StrategySettings(policy="plateau")).decide(replace(state, metrics=slow[::-1]))


@pytest.mark.parametrize("stuck", [0.1, 0.137, 0.25, 0.6, 0.7, 0.913])
def test_a_metric_that_is_stuck_is_on_a_plateau(stuck: float) -> None:
    for patience in (2, 3, 5, 7):
        plateau = Plateau(StrategySettings(policy="plateau", patience_epochs=patience))
        metrics = (stuck,) * 24
        assert plateau.decide(replace(REST, metrics=metrics, epoch=24))


def test_nothing_is_tried_while_a_place_is_being_reset() -> None:
    plateau = Plateau(StrategySettings(policy="plateau"))
    assert not plateau.decide(replace(REST, slots={"layer1": "RESETTING"}))
    assert plateau.decide(replace(REST, slots={"layer1": "DORMANT"}))


def test_periodic_counts_from_the_last_try() -> None:
    periodic = Periodic(StrategySettings(policy="periodic", every_epochs=5))
    assert periodic.decide(REST)
    assert not periodic.decide(replace(REST, tries=(3,)))
    assert "too few epochs had passed" in why_not(periodic, replace(REST, tries=(3,)))
    assert periodic.decide(replace(REST, tries=(2,)))


def test_after_tries_in_vain_the_next_one_is_farther_and_farther_away() -> None:
    periodic = Periodic(StrategySettings(policy="periodic", every_epochs=2))
    once, twice = (replace(REST, tries=(3,), refused_in_row=count) for count in (1, 2))
    assert periodic.decide(once)
    assert not periodic.decide(twice)
    assert periodic.decide(replace(twice, epoch=11))
    patient = Periodic(StrategySettings(policy="periodic", every_epochs=2, backoff=1.0))
    assert patient.decide(twice)
    plateau = Plateau(StrategySettings(policy="plateau", patience_epochs=3))
    assert plateau.decide(replace(REST, refused_in_row=1))
    assert not plateau.decide(replace(REST, refused_in_row=2))


def test_what_has_grown_large_enough_is_not_tried_on() -> None:
    small = Periodic(StrategySettings(policy="periodic", max_growth=1.5))
    assert small.decide(replace(REST, parameters=149, parameters_at_start=100))
    assert not small.decide(replace(REST, parameters=150, parameters_at_start=100))
    assert Periodic(StrategySettings(policy="periodic")).decide(
        replace(REST, parameters=900, parameters_at_start=100)
    )


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"is_mask_under_way": True}, "a mask was under way"),
        ({"is_seed_under_way": True}, "a seed was under way"),
        ({"slots": {"0": "TERMINATED", "2": "EMBARGOED"}}, "rested after a cull"),
        ({"epochs_left": 5}, "too few epochs were left: a seed needs "),
        ({"grown": 4}, "strategy.max_seeds"),
        ({"tries": (1, 1, 1, 1, 1, 1)}, "strategy.max_tries"),
    ],
)
def test_nothing_is_tried_beside_something_else_too_late_or_too_often_and_it_is_said(
    changes: dict[str, object], word: str
) -> None:
    settings = StrategySettings(policy="plateau")
    assert policy_of(settings) == Plateau(settings)
    assert policy_of(StrategySettings()) is None
    state = replace(REST, **changes)  # type: ignore[arg-type]
    for policy in (Plateau(settings), Periodic(settings)):
        assert policy.decide(REST)
        assert why_not(policy, REST) == ""
        assert not policy.decide(state)
        assert word in why_not(policy, state)


class Hanging:
    def __init__(self) -> None:
        self.end = threading.Event()

    def decide(self, state: SystemState) -> Sequence[Command]:
        self.end.wait(60)
        return ()


class Failing:
    def decide(self, state: SystemState) -> Sequence[Command]:
        raise ZeroDivisionError("by nothing")


class Own:
    def decide(self, state: SystemState) -> Sequence[Command]:
        return [Cull("It is in the way.", "2")]


def test_a_policy_that_hangs_or_fails_is_one_that_does_nothing() -> None:
    hanging = Hanging()
    assert ask(hanging, REST, 0.01) == ((), "did not answer within 0.01 s")
    hanging.end.set()
    assert ask(Failing(), REST) == ((), "failed with ZeroDivisionError: by nothing")
    assert ask(Own(), REST) == ((Cull("It is in the way.", "2"),), "")


class Saying:
    def __init__(self, *said: object) -> None:
        self.said = said

    def decide(self, state: SystemState) -> Any:
        return self.said


@pytest.mark.parametrize(
    ("command", "flaw"),
    [
        ("grow", "'grow' is neither a TryOut nor a Cull"),
        (TryOut, "neither a TryOut nor a Cull"),
        (Cull("It is in the way.", 2), "Cull has slot=2, which is no text"),  # type: ignore[arg-type]
        (TryOut("Why not.", slots=None), "TryOut has slots=None, which is no text"),  # type: ignore[arg-type]
        (TryOut("Why not.", options=[3]), r"options=\[3\], which is no mapping"),  # type: ignore[arg-type]
        (TryOut("Why not.", options={"pattern": "2"}), "'pattern', which is a field"),
    ],
)
def test_a_policy_that_says_what_is_no_command_is_one_that_does_nothing(command: object, flaw: str) -> None:
    said, why = ask(Saying(TryOut("Why not."), command), REST)
    assert said == ()
    assert re.search(f"answered what is no command: .*{flaw}", why)


def test_what_cannot_be_asked_is_refused() -> None:
    for fit in (None, Own()):
        check_policy(fit)
    for unfit, what in (("plateau", "a str"), (Own, "the class Own"), (lambda state: [], "a function")):
        with pytest.raises(ConfigError, match=f"policy= is {what}, .*config="):
            check_policy(unfit)


def test_what_our_policies_will_ask_for_is_known_before_and_of_others_nobody_knows() -> None:
    class Own:
        def decide(self, state: SystemState) -> list[TryOut]:
            return []

    policy = policy_of(StrategySettings(policy="plateau", slots="layer*", blueprint="mlp", width=3))
    assert policy is not None
    assert foreseen(policy) == TryOut("", "layer*", "mlp", {"width": 3})
    assert foreseen(Own()) is None
    assert why_not(Own(), REST) == ""
