"""Analyses beside training that are late: what becomes of them when what they are about goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.emrakul import MaskState, Schedule
from tests.session.runs import EPOCHS, Held, Reading, Training, small_network

AT_ONCE: dict[str, Any] = {
    "target": {"flops": 0.4},
    "schedule": {"start_epoch": 5, "end_epoch": 5, "max_step_fraction": 0.6, "quiet_fraction": 0.0},
}


def hold(run: Training) -> Held:
    """From now on analyses of this run are late, until `let_go`."""
    parts = run.session.parts
    parts.runner.strategy = strategy = Held(parts.terms.config.pruning, parts.terms.epochs or 8)
    strategy.go.clear()
    return strategy


def be_patient(run: Training, seconds: float) -> None:
    """How long the end of an epoch waits for an analysis."""
    terms = run.session.parts.terms
    analysis = terms.config.analysis.model_copy(update={"max_wait_seconds": seconds})
    terms.config = terms.config.model_copy(update={"analysis": analysis})


def late_beside_a_trial(path: Path) -> tuple[Training, Held]:
    """A run with a mask on probation for a second epoch, and an analysis that was started beside it."""
    early = {"target": {"flops": 0.4}, "schedule": {"start_epoch": 2, "end_epoch": 3}}
    run = Training(path, pruning=early)
    parts = run.session.parts
    parts.terms.epochs = 8
    parts.runner.strategy = Schedule(parts.terms.config.pruning, 8)
    run.until_masked()
    assert parts.trial.watch is not None
    parts.trial.watch = replace(parts.trial.watch, is_on_probation=True)
    strategy = hold(run)
    run.epoch(lambda _: 0.5)
    be_patient(run, 0.01)
    assert parts.trial.mask is MaskState.ON_TRIAL
    assert is_analyzed(run)
    return run, strategy


def is_analyzed(run: Training) -> bool:
    return run.session.parts.runner.is_running


def let_go(run: Training, strategy: Held) -> None:
    strategy.go.set()
    be_patient(run, 60.0)


def test_what_proves_itself_beside_a_late_analysis_is_cut_after_it_as_the_analysis_counts_its_units(
    tmp_path: Path,
) -> None:
    run, strategy = late_beside_a_trial(tmp_path / "run")
    parts = run.session.parts
    run.until(lambda: parts.trial.mask is MaskState.NONE)
    assert parts.runner.is_running
    assert run.marks() == ["mask"]
    let_go(run, strategy)
    run.epoch(lambda _: 0.5)
    assert run.marks() == ["mask", "mask"]
    assert parts.trial.watch is not None
    parts.trial.watch = replace(parts.trial.watch, is_on_probation=False)
    run.until(lambda: run.marks()[-1] == "cut")
    assert parts.network.masks.num_masked == 0
    run.session.detach()


def test_a_veto_ends_a_late_analysis_with_the_mask_that_it_was_made_beside(tmp_path: Path) -> None:
    run, strategy = late_beside_a_trial(tmp_path / "run")
    run.session.veto("it squints")
    assert not is_analyzed(run)
    let_go(run, strategy)
    run.epoch(lambda _: 0.5)
    assert run.marks() == ["mask", "rollback"]
    assert run.session.parts.network.masks.num_masked == 0
    run.session.detach()


def test_what_is_cut_to_make_way_for_a_seed_ends_a_late_analysis_also_where_a_unit_has_to_stay(
    tmp_path: Path,
) -> None:
    early = {"levels": ["channel", "layer"], "start_epoch": 1}
    run = Reading(tmp_path / "run", pruning={"schedule": early, "target": {"flops": 0.9}})
    network = run.session.parts.network
    strategy = hold(run)
    be_patient(run, 0.01)
    keep = np.ones(network.anatomy.num_units, np.bool_)
    keep[network.anatomy.unit_slice(network.anatomy.group_named("layer:down"))] = False
    keep[network.anatomy.unit_slice(network.anatomy.group_named("hidden"))][:3] = False
    network.masks.apply(keep)
    run.epoch()
    assert is_analyzed(run)
    assert "1 unit(s) are masked" in str(run.session.grow("hidden", "mlp"))
    assert network.anatomy.num_units == keep.size - 3
    assert not is_analyzed(run)
    let_go(run, strategy)
    run.epoch()
    run.session.detach()


def test_what_was_decided_before_a_kill_and_carried_out_after_it_is_in_the_report(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=AT_ONCE)
    for _ in range(EPOCHS - 1):
        run.epoch()
    end = run.decision()  # committed, and taken by nobody before the process is gone
    assert end.mask is not None
    gone = int((run.session.parts.network.masks.keep & ~end.mask.keep).sum())
    run.session.detach()
    again = Training(tmp_path / "run", pruning=AT_ONCE)
    again.epoch()
    rows = again.session.log.progress.decisions
    assert again.marks() == ["mask"]
    assert {row.epoch for row in rows} == {EPOCHS - 1}
    assert sum(row.units for row in rows) == gone > 0
    assert {row.verdict for row in rows} <= {"go", "conditional_go"}
    again.session.detach()
    once_more = Training(tmp_path / "run", pruning=AT_ONCE)
    assert once_more.session.log.progress.decisions == rows
    once_more.session.detach()


def test_a_mask_is_tried_again_where_the_checkpoint_that_had_cut_it_is_lost(tmp_path: Path) -> None:
    early = {**AT_ONCE, "schedule": {**AT_ONCE["schedule"], "start_epoch": 2, "end_epoch": 2}}
    whole = Training(tmp_path, pruning=early)
    whole.until(lambda: "cut" in whole.marks())
    when = [(mark.kind, mark.epoch) for mark in whole.session.log.marks]
    lost = whole.session.epoch - when[0][1] + 1  # all from the one that was saved with the mask
    whole.session.detach()
    for checkpoint in whole.session.parts.saving.store.list().checkpoints[-lost:]:
        (checkpoint.path / "trainer.json").write_text("{")
    parted = Training(tmp_path, pruning=early)
    assert parted.marks() == []
    parted.until(lambda: "cut" in parted.marks())
    assert [(mark.kind, mark.epoch) for mark in parted.session.log.marks] == when
    parted.session.detach()


class Alike(nn.Module):
    """Answers every sample alike, whatever it has learned."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = small_network()
        self.last = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.last + 0.0 * self.inside(x)
        return answer


class Plateau(Training):
    """A run that stays on its plateau."""

    build = Alike


def test_on_a_plateau_the_first_mask_waits_while_two_will_fit_which_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = {"start_epoch": 1, "end_epoch": 5, "min_learned_fraction": 0.05}
    run = Plateau(tmp_path, pruning={"schedule": schedule})
    with caplog.at_level("INFO", "esper"):
        for _ in range(EPOCHS):
            run.epoch(lambda _: 0.5)
        result = run.session.finish()
    waits = [one.epoch for one in run.session.parts.runner.coordinator.state.history if not one.units]
    assert waits == [1, 2, 3]
    assert run.marks().count("mask") == 2
    assert sum("hardly knows one input from another" in line for line in caplog.messages) == 1
    assert result.reached
