"""What is decided about a checkpoint meets weights that have moved on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from esper.emrakul.cycle import CycleEnd
from esper.emrakul.plan import Plan, shrink
from esper.kasmina import confirm
from esper.urabrask import RetentionLimits
from tests.session.runs import Training

TARGET = {"target": {"flops": 0.4}}
AT_ONCE = {
    "target": {"flops": 0.6},
    "schedule": {"start_epoch": 5, "end_epoch": 5, "max_step_fraction": 0.6, "quiet_fraction": 0.0},
    "floors": {"min_channels": 4},
    "recovery": {"reconstruct": False},
}


def decided(run: Training) -> tuple[CycleEnd, Plan]:
    """A decision that was made and not applied yet."""
    for _ in range(5):
        run.epoch()
    decision = run.decision()
    assert decision.mask is not None
    return decision, decision.mask.plan


def limit_to(run: Training, points: float) -> None:
    rules = run.session.parts.config.validation.model_copy(
        update={"limits": RetentionLimits.model_construct(channel=points)}
    )
    run.session.parts.config = run.session.parts.config.model_copy(update={"validation": rules})


def drop(run: Training, plan: Plan) -> float:
    """What a plan costs on the live weights, in points."""
    parts = run.session.parts
    assert parts.held_out is not None
    _, seen = confirm(parts.network, parts.held_out, plan.keep, parts.config.validation)
    assert seen.before.correctness is not None
    assert seen.after.correctness is not None
    return float(np.mean(seen.before.correctness) - np.mean(seen.after.correctness))


def test_a_plan_that_costs_too_much_by_now_is_shrunk_until_it_does_not(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=AT_ONCE)
    decision, plan = decided(run)
    smaller = shrink(plan, run.session.parts.situation())
    assert 0 < smaller.units.size < plan.units.size
    assert drop(run, smaller) < drop(run, plan)
    limit_to(run, (drop(run, smaller) + drop(run, plan)) / 2)
    run.session.masking._apply(decision)
    assert np.array_equal(run.session.parts.network.masks.keep, smaller.keep)
    told = run.session.log.marks[-1].text
    assert f"Masked {smaller.units.size} of {plan.units.size} units" in told
    run.session.detach()


def test_a_plan_of_which_every_part_costs_too_much_is_not_applied(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning=AT_ONCE)
    decision, _ = decided(run)
    limit_to(run, -1.0)
    run.session.masking._apply(decision)
    assert run.session.parts.network.masks.keep.all()
    assert run.marks() == ["no_go"]
    run.session.detach()


class Read(nn.Module):
    """Its own code reads the weight of one block, so that block cannot become nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.up, self.down = nn.Linear(8, 6), nn.Linear(6, 16), nn.Linear(16, 6)
        self.hidden, self.head = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.down(torch.relu(self.up(x)))
        logits: Tensor = self.head(torch.relu(self.hidden(x))) + 0 * self.down.weight.shape[0]
        return logits


class Reading(Training):
    build = staticmethod(Read)


def test_a_layer_that_cannot_go_does_not_hold_the_rest_back_and_people_are_told(tmp_path: Path) -> None:
    run = Reading(tmp_path / "run", pruning={"schedule": {"levels": ["channel", "layer"]}, **TARGET})
    network = run.session.parts.network
    anatomy = network.anatomy
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[anatomy.unit_slice(anatomy.group_named("layer:down"))] = False
    keep[anatomy.unit_slice(anatomy.group_named("hidden"))][:3] = False
    network.masks.apply(keep)
    assert run.session.masking.cut_masked() is not None
    assert network.masks.num_masked == 1
    assert dict(run.model.named_parameters())["hidden.weight"].shape[0] == 13
    assert any("1 masked layer(s)" in note for note in run.session.log.notes)
    run.session.detach()
