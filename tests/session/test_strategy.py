"""A session does what a policy says, tells it, and goes on where the policy fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.errors import ConfigError
from esper.nissa import ListSink, seed_events
from esper.tamiyo import Command, Cull, Policy, SystemState, TryOut
from tests.session.growers import GROWN, GrowingTraining


class Told(GrowingTraining):
    """Grows only by its policy."""

    plan = {}  # noqa: RUF012
    given: Policy | None = None

    def policy(self) -> Policy | None:
        return self.given


class Odd:
    """Asks for what there is, for what there is not, and fails."""

    def __init__(self) -> None:
        self.states: list[SystemState] = []

    def decide(self, state: SystemState) -> Sequence[Command]:
        self.states.append(state)
        if state.epoch == 1:
            return [TryOut("Why not.", slots="1", options={"width": 4}), TryOut("Nowhere.", slots="leaf*")]
        if state.epoch == 2:
            return [Cull("Enough.", "1"), Cull("Once more.", "1")]
        raise ZeroDivisionError("by nothing")


def test_a_session_acts_for_its_policy_tells_why_and_outlives_its_failures(tmp_path: Path) -> None:
    policy, sink = Odd(), ListSink()
    Told.given = policy
    training = Told(tmp_path)
    training.session.log.telling.sinks.append(sink)
    training.epoch()
    assert training.stages() == {"1": "GERMINATED"}
    for _ in range(3):
        training.epoch()
    assert training.stages()["1"] in ("EMBARGOED", "RESETTING", "DORMANT")
    failed = [event.why for event in sink.events if isinstance(event, seed_events.PolicyFailed)]
    assert len(failed) == 3
    assert "leaf*" in failed[0]
    assert "nothing can cull" in failed[1]
    assert not any(".." in event.text for event in sink.events)
    assert failed[2] == "failed with ZeroDivisionError: by nothing"  # told once
    planned = [event for event in sink.events if isinstance(event, seed_events.Planned)]
    assert [event.why for event in planned] == ["Why not.", "Nowhere.", "Enough.", "Once more."]
    assert training.session.parts.saving.store.audit.told(seed_events.Planned) == planned
    first, second = policy.states[:2]
    assert (first.epoch, first.tries, first.is_seed_under_way) == (1, (), False)
    assert (second.tries, second.is_seed_under_way, second.slots["1"]) == ((1,), True, "BLENDING")
    assert [state.refused_in_row for state in (first, policy.states[3])] == [0, 1]
    training.session.detach()
    Told.given = again = Odd()
    training = Told(tmp_path)
    training.epoch()
    assert (again.states[0].tries, again.states[0].refused_in_row) == ((1,), 1)  # as if it had never stopped
    training.session.detach()


def test_the_policy_in_the_settings_tries_seeds_out_where_the_metric_rests(tmp_path: Path) -> None:
    Told.given = None
    strategy = {"policy": "plateau", "patience_epochs": 1, "slots": "[14]", "width": 4}
    training = Told(tmp_path, strategy=strategy, growing={**GROWN["growing"], "ramp_steps": 1})
    training.session.parts.terms.epochs = 20  # of six planned epochs too few are left
    training.until(lambda: bool(training.stages()))
    assert set(training.stages()) == {"1", "4"}
    assert {row.epoch for row in training.session.log.seeds} == {2}
    training.session.detach()


def attached(path: Path, given: Policy | None = None, **strategy: Any) -> Told:
    Told.given = given
    return Told(path, strategy=strategy)


class Sure:
    """Asks in every epoch for a place that is not there."""

    def __init__(self) -> None:
        self.states: list[SystemState] = []

    def decide(self, state: SystemState) -> Sequence[Command]:
        self.states.append(state)
        return [TryOut("Why not.", slots="leaf*")]


def test_a_try_of_which_nothing_came_is_a_try_also_after_a_resume(tmp_path: Path) -> None:
    policy = Sure()
    training = attached(tmp_path, policy)
    for _ in range(3):
        training.epoch()
    training.session.detach()
    again = Sure()
    training = attached(tmp_path, again)
    training.epoch()
    training.session.detach()
    states = (*policy.states, *again.states)
    assert [state.tries for state in states] == [(), (1,), (1, 2), (1, 2, 3)]
    assert [state.refused_in_row for state in states] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"blueprint": "cnv"}, "no blueprint 'cnv'"),
        ({"blueprint": "norm", "width": 3}, "'norm' does not take width=3"),
        ({"slots": "leaf*"}, r"fits 'leaf\*'"),
    ],
)
def test_a_strategy_of_which_nothing_can_come_is_refused_before_the_run_begins(
    tmp_path: Path, strategy: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"Nothing can come of the section `strategy`. .*{message}"):
        attached(tmp_path, policy="periodic", **strategy)
    training = attached(tmp_path, policy="periodic", slots="[14]")  # and nothing stands in its way
    assert training.session.growing.state() is None
    training.session.detach()


def test_a_strategy_that_never_tries_anything_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Told, "length", {"epochs": 6})
    training = attached(tmp_path, policy="periodic", every_epochs=1)
    for _ in range(2):
        training.epoch()
    training.session.finish(latency=False)
    (note,) = (note for note in training.session.log.notes if note.startswith("No seed was tried"))
    assert "by the policy Periodic: in 2 epoch(s) too few epochs were left: a seed needs" in note


def test_a_policy_is_not_asked_where_nothing_can_grow_which_is_told_once(tmp_path: Path) -> None:
    class Copied(Told):
        def companions(self) -> dict[str, torch.Tensor]:
            return {name: value.detach().clone() for name, value in self.model.named_parameters()}

    Told.given = policy = Sure()
    training = Copied(tmp_path)
    training.epoch()
    training.session.finish(latency=False)
    assert policy.states == []
    (note,) = (note for note in training.session.log.notes if "Sure" in note)
    assert "Sure is never asked. Nothing can be grown: 1 companion(s)" in note
    assert ".." not in note
