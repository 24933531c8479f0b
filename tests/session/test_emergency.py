"""What is kept when a seed reaches the network that it must not touch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import esper
from esper.session.emergency import EMERGENCY
from tests.session.growers import CULLED, GROWN, GrowingTraining, network
from tests.session.runs import optimizer_of


class Meddling(nn.Module):
    """Writes into the host whenever it learns."""

    def __init__(self, victim: nn.Parameter) -> None:
        super().__init__()
        self.weight, self.victims = nn.Parameter(torch.zeros(())), [victim]

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.victims[0].data.add_(1e-3)
        return x * self.weight


class Meddled(GrowingTraining):
    """A seed meddles with its host in every step of the first epoch."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir, growing={**GROWN["growing"], "check_every": 1, "train_steps": 99})

    def blueprints(self) -> Mapping[str, Callable[..., nn.Module]]:
        victim = self.model.get_parameter("0.weight")
        return {"meddling": lambda _: Meddling(victim)}

    def act(self) -> None:
        if self.session.epoch == 0 and not self.session.growing.slots:
            assert self.session.grow(CULLED, "meddling").passed


def test_a_seed_that_reaches_its_host_three_times_goes_and_the_state_is_kept_beside_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Meddled(tmp_path / "run")
    run.epoch()
    assert run.session.growing.slots[CULLED].stage.name in ("EMBARGOED", "RESETTING")
    assert "Emergency: The seed at 4 violated its isolation 3 times" in caplog.text
    run.session.detach()
    # The run's own checkpoints are those at its beginning and at the end of the epoch.
    steps = sorted(int(path.name[5:].split("-")[0]) for path in (tmp_path / "run/checkpoints").glob("step-*"))
    assert steps == [0, 6]
    model = network()
    kept = esper.resume(
        tmp_path / "run" / EMERGENCY,
        model,
        optimizer_of(model, "adamw"),
        loss=nn.CrossEntropyLoss(),
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer_of(network(), "adamw"), 1),
        blueprints={"meddling": lambda _: Meddling(model.get_parameter("0.weight"))},
    )
    assert (kept.step, kept.epoch) == (2, 0)
    assert kept.growing.slots[CULLED].stage.name == "TRAINING"
    assert kept.growing.breaker_state.name == "OPEN"  # what happened is remembered
    kept.close_breaker()
    assert kept.growing.breaker_state.name == "CLOSED"
    kept.detach()


def test_that_it_cannot_be_kept_is_told_and_the_seed_goes_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Meddled(tmp_path / "run")
    (tmp_path / "run" / EMERGENCY).write_text("no folder")
    run.epoch()
    assert run.session.growing.slots[CULLED].stage.name in ("EMBARGOED", "RESETTING")
    assert "The state of then could not be kept" in caplog.text
    run.session.detach()
