"""Units that are there twice are folded into their twin: smaller, and the outputs stay what they were."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from esper.anatomy.mend.folding import fold
from esper.anatomy.proof import Inputs
from esper.anatomy.structure import Anatomy
from esper.anatomy.units import inspect
from esper.errors import SurgeryError
from tests.anatomy.cutting import anatomy_of, probe_of, train_step
from tests.anatomy.networks import ZOO


def make_twins(model: nn.Module, anatomy: Anatomy, group: str, of: int, others: list[int]) -> None:
    """Gives units of a group what makes another one of them."""
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    with torch.no_grad():
        for member in anatomy.groups[anatomy.group_named(group)].members:
            if member.role != "consumer":
                rows = tensors[member.tensor].movedim(member.axis, 0)
                for other in others:
                    rows[member.index[other]] = rows[member.index[of]].clone()


@pytest.mark.parametrize("name", ["plain", "gpt"])
def test_twins_in_all_groups_are_folded_at_once(name: str) -> None:
    model, anatomy = ZOO[name].network().eval(), anatomy_of(name)
    for group in anatomy.groups:
        make_twins(model, anatomy, group.name, 0, [1])
    probe = probe_of(ZOO[name].input())
    with torch.no_grad():
        before = model(*probe.args, **probe.kwargs)
    made = fold(model, anatomy, probe)
    assert made.equivalence.float64_error is not None
    assert made.equivalence.float64_error <= 1e-12
    assert (~made.keep).sum() == len(anatomy.groups)
    assert made.parameters_after < made.parameters_before
    with torch.no_grad():
        torch.testing.assert_close(model(*probe.args, **probe.kwargs), before, rtol=1e-4, atol=1e-5)


def small() -> tuple[nn.Sequential, Anatomy, Tensor]:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(5, 4)
    return model, inspect(model, x), x


def test_what_reads_a_twin_is_added_and_optimizer_and_average_follow() -> None:
    model, anatomy, x = small()
    make_twins(model, anatomy, "0", 1, [3, 5])
    optimizer, average = AdamW(model.parameters()), AveragedModel(model)
    train_step(model, optimizer, x)
    make_twins(model, anatomy, "0", 1, [3, 5])  # the step has told them apart
    makes, reader = model.get_parameter("0.weight"), model.get_parameter("2.weight")
    reads = reader.detach().clone()
    expected, of_average = model(x), average(x)
    made = fold(model, anatomy, Inputs((x,)), (optimizer,), (average,))
    assert made.keep.tolist() == [True, True, True, False, True, False]
    torch.testing.assert_close(reader[:, 1], reads[:, [1, 3, 5]].sum(1))
    assert torch.equal(reader[:, 2], reads[:, 2])
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(average(x), of_average)
    assert makes.shape == optimizer.state[makes]["exp_avg"].shape == (4, 4)
    train_step(model, optimizer, x)
    average.update_parameters(model)


def test_a_copy_without_the_same_twins_is_refused_and_nothing_changes() -> None:
    model, anatomy, x = small()
    average = AveragedModel(model)
    make_twins(model, anatomy, "0", 1, [3])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SurgeryError, match="AveragedModel units are different that are twins"):
        fold(model, anatomy, Inputs((x,)), companions=(average,))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nothing_twice_is_nothing_to_fold() -> None:
    model, anatomy, x = small()
    before = copy.deepcopy(model.state_dict())
    made = fold(model, anatomy, Inputs((x,)))
    assert made.keep.all()
    assert made.parameters_after == made.parameters_before
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_groups_that_may_not_be_cut_keep_their_twins() -> None:
    model, anatomy, x = small()
    make_twins(model, anatomy, "0", 1, [3])
    assert fold(model, anatomy, Inputs((x,)), allowed=np.zeros(1, np.bool_)).keep.all()


def test_a_cut_that_the_code_refuses_gives_the_weights_back() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.b(self.a(x).view(-1, 2 * 3))
            return scores

    torch.manual_seed(0)
    model, x = Fixed(), torch.randn(5, 4)
    anatomy = inspect(model, x)
    make_twins(model, anatomy, "a", 0, [1])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SurgeryError):
        fold(model, anatomy, Inputs((x,)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
