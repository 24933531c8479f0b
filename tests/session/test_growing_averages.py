"""A running average that is a companion of the network grows along with it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from esper.anatomy.graph import named_tensors
from esper.errors import ConfigError
from tests.session.growers import KEPT, LENGTH, Averaged, GrowingTraining


class Same(Averaged):
    """What is averaged is the network as it stands: whatever it does, the copy does."""

    decay: ClassVar[float] = 0.0


def answers(module: nn.Module, inputs: Tensor) -> Tensor:
    was = module.training
    module.eval()
    with torch.no_grad():
        output: Tensor = module(inputs)
    module.train(was)
    return output


def test_an_average_of_this_moment_answers_as_the_network_does_at_every_stage(tmp_path: Path) -> None:
    training, stages = Same(tmp_path), set[str]()
    while training.session.epoch < LENGTH:
        training.act()
        for batch in training.batches():
            training.step(*batch)
            assert torch.equal(answers(training.average, batch[0]), answers(training.model, batch[0]))
            mine, theirs = named_tensors(training.average.module), named_tensors(training.model)
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)
            stages |= set(training.stages().values())
        training.session.end_epoch(accuracy=0.5)
    assert {"TRAINING", "BLENDING", "PROBATIONARY", "FOSSILIZED"} <= stages
    training.session.finish(latency=False)
    assert f"{KEPT}.seed.0.weight" in named_tensors(training.average.module)


class Double(GrowingTraining):
    """A frozen copy in double precision, into which the loop averages by hand."""

    def companions(self) -> nn.Module:
        self.average = copy.deepcopy(self.model).double().requires_grad_(False)
        return self.average

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        loss = super().step(inputs, targets)
        for mine, live in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mine.lerp_(live.detach().double(), 0.2)
        return loss


def test_a_copy_in_another_type_grows_in_its_own_and_comes_back_in_it(tmp_path: Path) -> None:
    training = Double(tmp_path)
    training.go(10)  # the seed is a plain part by then
    values = {name: value.clone() for name, value in named_tensors(training.average).items()}
    training.session.detach()
    assert values[f"{KEPT}.seed.0.weight"].dtype == torch.float64
    again = Double(tmp_path)
    found = named_tensors(again.average)
    assert found.keys() == values.keys()
    assert all(torch.equal(found[name], value) for name, value in values.items())
    assert not any(parameter.requires_grad for parameter in again.average.parameters())
    again.session.detach()


class Plain(GrowingTraining):
    """The average is kept in a dict."""

    def companions(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.named_parameters()}


def test_beside_a_copy_in_plain_tensors_nothing_grows(tmp_path: Path) -> None:
    training = Plain(tmp_path)
    with pytest.raises(ConfigError, match=r"1 companion\(s\) are plain tensors.*AveragedModel"):
        training.session.grow(KEPT, "mlp")
    training.session.detach()
