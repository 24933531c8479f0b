"""An average that a loop keeps in a dict or list of tensors goes through a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from esper.errors import ConfigError
from esper.session.companions import GivenCompanions
from tests.session.runs import EPOCHS, Training


class InDict(Training):
    """Puts new tensors into a dict after every step."""

    def companions(self) -> GivenCompanions:
        self.average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        return self.average

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        loss = super().step(inputs, targets)
        for name, value in self.model.state_dict().items():
            self.average[name] = 0.9 * self.average[name] + 0.1 * value
        return loss

    def kept(self) -> list[Tensor]:
        return list(self.average.values())


class InList(Training):
    """Changes the tensors of a list in place after every step."""

    def companions(self) -> GivenCompanions:
        self.average = [parameter.detach().clone() for parameter in self.model.parameters()]
        return self.average

    @torch.no_grad()
    def _update(self) -> None:
        for average, parameter in zip(self.average, self.model.parameters(), strict=True):
            average.sub_(0.1 * (average - parameter))

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        loss = super().step(inputs, targets)
        self._update()
        return loss

    def kept(self) -> list[Tensor]:
        return self.average


Kept = type[InDict] | type[InList]


@pytest.mark.parametrize("build", [InDict, InList])
def test_a_run_that_was_interrupted_goes_on_with_the_average_to_the_last_bit(
    build: Kept, tmp_path: Path
) -> None:
    whole = build(tmp_path / "whole")
    for _ in range(EPOCHS):
        whole.epoch()
    expected = whole.fingerprint(), [tensor.clone() for tensor in whole.kept()]
    whole.session.detach()
    first = build(tmp_path / "parts")
    first.until(lambda: bool(first.session.network.changes))
    first.session.detach()
    again = build(tmp_path / "parts")
    while again.session.epoch < EPOCHS:
        again.epoch()
    assert again.fingerprint() == expected[0]
    assert all(map(torch.equal, again.kept(), expected[1]))
    result = again.session.finish(latency=False)
    assert [t.shape for t in again.kept()] == [p.shape for p in result.model.parameters()]
    assert result.report.parameters_after < result.report.parameters_before


@pytest.mark.parametrize("build", [InDict, InList])
def test_going_back_across_a_cut_gives_the_average_its_old_widths(build: Kept, tmp_path: Path) -> None:
    run = build(tmp_path)
    before = [tensor.clone() for tensor in run.kept()]
    run.until(lambda: bool(run.session.network.changes))
    run.session.rollback(0)
    assert all(map(torch.equal, run.kept(), before))
    run.epoch()
    run.session.detach()


class OfGradients(Training):
    """Averages gradients from the first step on, and gives nothing of that."""

    average: dict[str, Tensor] | None = None

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        loss = super().step(inputs, targets)
        now = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        self.average = self.average or {name: gradient.clone() for name, gradient in now.items()}
        for name, gradient in now.items():
            self.average[name] = 0.9 * self.average[name] + 0.1 * gradient
        return loss


class NearStart(Training):
    """Measures how far it has come from where it began, and gives nothing of that."""

    start: dict[str, Tensor] | None = None

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        self.start = self.start or {name: p.detach().clone() for name, p in self.model.named_parameters()}
        way = sum(float((p.detach() - self.start[name]).norm()) for name, p in self.model.named_parameters())
        assert way < 100
        return super().step(inputs, targets)


COUNT = "esper.anatomy.graph.plain_beside.programs_made"


@pytest.mark.parametrize("build", [OfGradients, NearStart])
def test_cuts_wait_for_the_end_where_a_loop_computes_with_tensors_of_the_networks_shapes(
    build: type[Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(COUNT, lambda: 0)  # whatever else was compiled in this process
    run = build(tmp_path)
    while run.session.epoch < EPOCHS:
        run.epoch()
    assert "mask" in run.marks()
    assert "cut" not in run.marks()
    assert any("a dict of this process (" in note for note in run.session.log.notes)
    report = run.session.finish(latency=False).report
    assert report.parameters_after < report.parameters_before


def test_whole_layers_stay_where_a_loop_would_still_ask_for_their_tensors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Whole layers may go, and a dict or list of tensors"):
        InList(tmp_path, pruning={"target": {"flops": 0.4}, "schedule": {"levels": ("layer",)}})
