"""What is decided about a checkpoint meets weights that have moved on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from esper.emrakul import MaskState, Schedule
from esper.emrakul.cycle import CycleEnd
from esper.emrakul.plan import Plan, shrink
from esper.kasmina import Preview, compared
from esper.urabrask import RetentionLimits, joined
from tests.session.runs import Reading, Training

TARGET = {"target": {"flops": 0.4}}
AT_ONCE = {
    "target": {"flops": 0.6},
    "schedule": {"start_epoch": 5, "end_epoch": 5, "max_step_fraction": 0.6, "quiet_fraction": 0.0},
    "floors": {"min_channels": 4},
    "plan": {"required_confidence": 0.95, "healing_factor": 0.0},  # limits are as they are said
    "recovery": {"reconstruct": False},
}


def decided(run: Training) -> tuple[CycleEnd, Plan]:
    """What a cycle decided, before anything of it is applied."""
    for _ in range(5):
        run.epoch()
    end = run.decision()
    assert end.mask is not None
    return end, end.mask.plan


def apply(run: Training, end: CycleEnd) -> None:
    """Ends the epoch as if the cycle had just ended so."""
    run.session.pruning.cycles._resumed = end
    run.session.pruning.end_epoch(is_measured=True)


def limit_to(run: Training, points: float) -> None:
    terms = run.session.parts.terms
    rules = terms.config.validation.model_copy(
        update={"limits": RetentionLimits.model_construct(channel=points)}
    )
    terms.config = terms.config.model_copy(update={"validation": rules})


def drop(run: Training, plan: Plan) -> float:
    """What a plan costs on the live weights beyond the noise of that, in points."""
    parts = run.session.parts
    assert parts.held_out is not None
    preview, anatomy = Preview(parts.network, parts.held_out), parts.network.anatomy
    qualities = preview.before, preview.under(plan.keep).after
    masks = parts.network.masks.keep, plan.keep
    cost = compared(anatomy, masks, qualities, parts.terms.config.validation)[0].retention
    assert cost is not None
    return cost.drop - cost.noise


def test_a_plan_that_costs_too_much_by_now_is_shrunk_until_it_does_not(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=AT_ONCE)
    end, plan = decided(run)
    smaller = shrink(plan, run.session.parts.terms.situation(run.session.parts.network))
    assert 0 < smaller.units.size < plan.units.size
    assert drop(run, smaller) < drop(run, plan)
    limit_to(run, (drop(run, smaller) + drop(run, plan)) / 2)
    apply(run, end)
    assert np.array_equal(run.session.parts.network.masks.keep, smaller.keep)
    told = run.session.log.marks[-1].text
    assert f"Masked {smaller.units.size} of {plan.units.size} units" in told
    run.session.detach()


def test_the_last_plan_is_shrunk_only_as_far_as_it_has_to_be(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=AT_ONCE)
    end, plan = decided(run)
    situation = run.session.parts.terms.situation(run.session.parts.network)
    half, more = shrink(plan, situation), shrink(plan, situation, 0.75)
    assert set(half.units.tolist()) < set(more.units.tolist()) < set(plan.units.tolist())
    limit_to(run, max(drop(run, more), drop(run, half)))
    assert drop(run, plan) > max(drop(run, more), drop(run, half))
    run.session.log.progress.epoch += 1
    assert run.session.pruning.cycles.steps_left == 0
    apply(run, end)
    masked = set((~run.session.parts.network.masks.keep).nonzero()[0].tolist())
    assert masked >= set(more.units.tolist())
    assert masked < set(plan.units.tolist())
    run.session.detach()


def test_a_plan_of_which_every_part_costs_too_much_is_not_applied(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=AT_ONCE)
    end, _ = decided(run)
    limit_to(run, -1.0)
    apply(run, end)
    assert run.session.parts.network.masks.keep.all()
    assert run.marks() == ["no_go"]
    assert {row.verdict for row in run.session.log.progress.decisions} == {"go, not applied"}
    run.session.detach()


def test_a_mask_that_waited_for_a_metric_in_vain_is_no_decision_that_was_carried_out(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=AT_ONCE)
    end, _ = decided(run)
    run.session.pruning.cycles._resumed = end
    run.session.pruning.end_epoch(is_measured=False)
    assert {row.verdict for row in run.session.log.progress.decisions} == {"go"}
    run.session.pruning.end_run()
    assert {row.verdict for row in run.session.log.progress.decisions} == {"go, not applied"}
    assert run.session.parts.network.masks.keep.all()
    run.session.detach()


def in_doubt(run: Training) -> CycleEnd:
    """A decision that is tried as it is or not at all, and costs a little more than the limit."""
    end, plan = decided(run)
    terms = run.session.parts.terms
    rules = terms.config.pruning.plan.model_copy(update={"max_attempts": 1})
    pruning = terms.config.pruning.model_copy(update={"plan": rules})
    terms.config = terms.config.model_copy(update={"pruning": pruning})
    limit_to(run, drop(run, plan) - 1e-3)
    return end


def test_after_a_refusal_what_may_be_within_the_limit_is_tried_on_probation(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=AT_ONCE)
    end = in_doubt(run)
    apply(run, end)
    apply(run, end)
    assert run.marks() == ["no_go", "mask"]
    assert "on probation" in run.session.log.marks[-1].text
    run.session.detach()


def test_on_the_live_weights_a_plan_may_cost_what_it_might_of_the_checkpoint(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=AT_ONCE)
    end = in_doubt(run)
    assert end.mask is not None
    wide = replace(end.mask.plan, leeway=2.0)
    apply(run, replace(end, mask=replace(end.mask, plan=wide)))
    assert run.marks() == ["mask"]
    assert "On the weights of now: Mean correctness" in run.session.log.marks[-1].text
    run.session.finish(latency=False)
    assert "rollback" not in run.marks()  # nor are the usual limits those that it is judged by at the end


def test_no_limit_gives_way_where_none_is_asked(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=AT_ONCE)
    end = in_doubt(run)
    assert end.mask is not None
    terms = run.session.parts.terms
    rules = terms.config.validation.model_copy(update={"validation": "none"})
    terms.config = terms.config.model_copy(update={"validation": rules})
    apply(run, replace(end, mask=replace(end.mask, plan=replace(end.mask.plan, leeway=2.0))))
    assert run.marks() == ["mask"]
    assert "On the weights of now" not in run.session.log.marks[-1].text
    run.session.detach()


def test_a_decision_after_which_there_is_no_other_is_tried_even_in_doubt(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=AT_ONCE)
    end = in_doubt(run)
    run.session.log.progress.epoch += 1
    assert run.session.pruning.cycles.steps_left == 0
    apply(run, end)
    assert run.marks() == ["mask"]
    run.session.detach()


def test_a_decision_waits_for_an_epoch_with_a_metric_also_over_a_resume(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=TARGET)
    run.epoch()
    run.epoch()
    for _ in range(2):
        run.train_epoch()
        run.session.end_epoch()
    assert run.session.parts.network.masks.keep.all()
    assert sum("waits for an epoch" in note for note in run.session.log.notes) == 1
    run.session.detach()
    again = Training(tmp_path / "run", pruning=TARGET)
    again.train_epoch()
    again.session.end_epoch(accuracy=None, loss=0.5)
    assert again.session.parts.network.masks.keep.all()
    again.epoch()
    assert again.marks() == ["mask"]
    again.session.detach()


def test_epochs_without_a_metric_neither_prove_a_mask_nor_take_it_back(tmp_path: Path) -> None:
    at_once = {"target": {"flops": 0.1}, "schedule": {"start_epoch": 2, "end_epoch": 2}}
    run = Training(tmp_path / "run", pruning=at_once)
    run.until_masked()
    for _ in range(2):
        run.train_epoch()
        run.session.end_epoch()
    assert run.marks() == ["mask"]
    run.epoch(lambda _: 0.5)
    assert run.marks() == ["mask", "cut"]
    run.session.detach()


def test_nan_of_a_sound_network_counts_as_not_measured_and_is_told_once(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=TARGET)
    run.until_masked()
    for _ in range(2):
        run.epoch(lambda _: float("nan"))
    assert run.marks() == ["mask"]
    assert sum("taken as not measured" in note for note in run.session.log.notes) == 1
    run.session.detach()


def test_a_mask_that_nobody_measured_is_judged_when_the_run_ends_and_then_cut(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=TARGET)
    run.until_masked()
    report = run.session.finish(latency=False).report
    assert run.marks() == ["mask", "judged", "cut"]
    assert report.quality_after is None  # the last metric is about the network before the mask
    assert "held-out data judged it" in report.quality_source
    assert "last measured in epoch" in report.quality_source


@pytest.mark.parametrize(("noises", "end"), [(0.5, "cut"), (1.5, "rollback")])
def test_what_is_over_the_limit_at_the_end_by_less_than_its_noise_stays(
    tmp_path: Path, noises: float, end: str
) -> None:
    run = Training(tmp_path / "run", pruning=TARGET)
    run.until_masked()
    pruning = run.session.pruning
    assert pruning._trial.watch is not None
    assert pruning._trial.watch.before is not None
    settled = pruning._trial.settled(run.session.parts.network.masks.keep)
    cost = pruning.acting.judge(settled, pruning._trial.watch.before)[0].retention
    assert cost is not None
    limit_to(run, cost.drop - noises * cost.noise)
    run.session.finish(latency=False)
    assert run.marks()[-1] == end
    told = [mark.text for mark in run.session.log.marks if mark.kind == "judged"]
    assert all("over the limit by less than one standard error" in text for text in told)
    assert len(told) == (end == "cut")


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_mask_that_costs_too_much_at_the_end_is_taken_back(tmp_path: Path, is_broken: bool) -> None:
    run = Training(tmp_path / "run", pruning=TARGET)
    run.until_masked()
    limit_to(run, -1.0)
    step = run.session.step
    if is_broken:
        run.train_epoch()
        with torch.no_grad():
            next(run.model.parameters()).fill_(float("nan"))
    report = run.session.finish(latency=False).report
    assert run.marks() == ["mask", "rollback"]
    assert report.flops_after == report.flops_before
    assert (run.session.step < step) == is_broken  # weights that are no numbers come from the checkpoint
    assert all(bool(torch.isfinite(parameter).all()) for parameter in run.model.parameters())


def test_a_target_that_was_missed_is_said_once_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Training(tmp_path / "run", pruning=TARGET)
    run.epoch()
    notes = run.session.finish(latency=False).report.notes
    missed = [note for note in notes if note.startswith("The target was missed")]
    assert len(missed) == 1
    assert "the run ended after epoch 1" in missed[0]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == missed


def test_a_layer_that_cannot_go_does_not_hold_the_rest_back_and_people_are_told(tmp_path: Path) -> None:
    run = Reading(tmp_path / "run", pruning={"schedule": {"levels": ["channel", "layer"]}, **TARGET})
    network = run.session.parts.network
    anatomy = network.anatomy
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[anatomy.unit_slice(anatomy.group_named("layer:down"))] = False
    keep[anatomy.unit_slice(anatomy.group_named("hidden"))][:3] = False
    network.masks.apply(keep)
    assert run.session.pruning.acting.cut() is not None
    assert network.masks.num_masked == 1
    assert dict(run.model.named_parameters())["hidden.weight"].shape[0] == 13
    assert any("1 masked unit(s) in layer:down" in note for note in run.session.log.notes)
    run.session.detach()


def test_the_last_analysis_is_made_beside_a_trial_where_it_would_be_too_late_afterwards(
    tmp_path: Path,
) -> None:
    early = {"target": {"flops": 0.4}, "schedule": {"start_epoch": 2, "end_epoch": 3}}
    run = Training(tmp_path / "run", pruning=early)
    run.session.parts.terms.epochs = 4
    run.session.parts.runner.strategy = Schedule(run.session.parts.terms.config.pruning, 4)
    run.until_masked()
    assert run.session.epoch == 3
    assert run.session.pruning.cycles.is_last_call
    run.epoch(lambda _: 0.5)
    assert run.marks() == ["mask", "mask"]
    watch = run.session.parts.trial.watch
    assert watch is not None
    assert watch.settled  # the first mask has proved itself
    result = run.session.finish(latency=False)
    assert result.report.marks[-1].kind == "cut"
    assert result.reached == pytest.approx(run.session.removed_fraction)
    assert result.reached > 0.35
    assert result.target == 0.4
    assert (result.reached < 0.4) == bool(result.why)
    assert str(result).startswith(f"{result.reached:.1%} of the flops removed (target 40.0%)")
    assert result.why in str(result)


def test_with_few_steps_left_an_analysis_is_made_beside_the_second_epoch_of_a_probation(
    tmp_path: Path,
) -> None:
    early = {"target": {"flops": 0.4}, "schedule": {"start_epoch": 2, "end_epoch": 3}}
    run = Training(tmp_path / "run", pruning=early)
    run.session.parts.terms.epochs = 8
    run.session.parts.runner.strategy = Schedule(run.session.parts.terms.config.pruning, 8)
    run.until_masked()
    cycles, trial = run.session.pruning.cycles, run.session.parts.trial
    assert trial.watch is not None
    trial.watch = replace(trial.watch, is_on_probation=True)
    run.epoch(lambda _: 0.5)
    assert trial.mask is MaskState.ON_TRIAL
    assert cycles.steps_left == 2
    assert not cycles.is_last_call
    assert run.session.parts.runner.is_running
    run.session.detach()


def test_an_analysis_that_the_end_of_the_run_overtakes_is_the_reason_for_a_missed_target(
    tmp_path: Path,
) -> None:
    run = Training(tmp_path / "run", pruning=AT_ONCE)
    for _ in range(5):
        run.epoch(lambda _: 0.5)
    result = run.session.finish(latency=False)
    assert "the run ended before anything came of the analysis of epoch 5" in result.why
    assert "analysis.max_wait_seconds" in result.why


class Normed(Training):
    @staticmethod
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))


def test_norms_get_the_statistics_that_belong_to_a_mask_with_it(tmp_path: Path) -> None:
    run = Normed(tmp_path / "run", pruning=TARGET)
    run.until_masked()
    network, held_out = run.session.parts.network, run.session.parts.held_out
    assert held_out is not None
    live, still = network.tensors(), Preview(network, held_out).standing
    batches = joined(network.graph, held_out.calibration)
    right = network.graph.recalibrated(live, batches, still=still, before=live)
    for name in ("1.running_mean", "1.running_var"):
        torch.testing.assert_close(live[name], right[name])
    gone = torch.from_numpy(~network.masks.keep)  # a unit is a channel here
    assert gone.any()
    assert live["1.running_var"][gone].max() < 0.1 * live["1.running_var"][~gone].min()
    run.session.detach()
