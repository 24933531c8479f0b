"""The proof itself: it sees a wrong cut, and says what it could not measure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.anatomy.cut import cut
from esper.anatomy.proof import Inputs, Live, Mode, difference, prove, reference
from esper.anatomy.proof.reference import masked
from esper.anatomy.units import inspect
from esper.errors import NotEquivalentError
from tests.anatomy.cutting import anatomy_of, half
from tests.anatomy.networks import ZOO


def test_a_change_of_one_weight_is_seen() -> None:
    case, anatomy = ZOO["plain"], anatomy_of("plain")
    model, inputs = case.network(), Inputs((case.input(),))
    expected = reference(model, anatomy, np.ones(anatomy.num_units, dtype=np.bool_), inputs)
    prove(Live(model, inputs), expected)
    with torch.no_grad():
        model.get_parameter("7.weight")[3, 5] += 1e-6
    with pytest.raises(NotEquivalentError, match=r"float64 outputs by .* \(limit 1e-12\)"):
        prove(Live(model, inputs), expected)


def test_a_gradient_that_differs_is_seen_though_outputs_agree() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.is_detached = nn.Linear(4, 6), nn.Linear(6, 2), False

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            out: Tensor = self.last(2 * y - y.detach() if self.is_detached else y)
            return out

    torch.manual_seed(0)
    model, inputs = Detached(), Inputs((torch.randn(3, 4),))
    anatomy = inspect(model, inputs.args[0])
    expected = reference(model, anatomy, np.ones(anatomy.num_units, dtype=np.bool_), inputs)
    model.is_detached = True
    with pytest.raises(NotEquivalentError, match="float64 gradients"):
        prove(Live(model, inputs), expected)


class Chaotic(nn.Module):
    """Every layer enlarges a small difference several times."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.last = nn.ModuleList(nn.Linear(24, 24) for _ in range(6)), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(16 * layer(x))
        out: Tensor = self.last(x)
        return out


def test_a_network_that_enlarges_rounding_is_judged_by_how_much_it_does() -> None:
    torch.manual_seed(0)
    model, inputs = Chaotic().double(), Inputs((torch.randn(6, 24, dtype=torch.float64),))
    anatomy = inspect(model, inputs.args[0])
    expected = reference(model, anatomy, np.ones(anatomy.num_units, dtype=np.bool_), inputs)
    weight = next(model.parameters())
    with torch.no_grad():
        weight.mul_(1 + 2.0**-52)  # what rounding does
    found = prove(Live(model, inputs), expected)
    assert found.float64_error is not None
    assert found.float64_error > 1e-12  # a steady network would have been refused
    with torch.no_grad():
        weight.mul_(1 + 2.0**-40)  # what it does not
    with pytest.raises(NotEquivalentError, match="float64 outputs"):
        prove(Live(model, inputs), expected)


def test_observing_leaves_the_network_alone() -> None:
    case, anatomy = ZOO["resnet8"], anatomy_of("resnet8")
    model = case.network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    subject = masked(model, anatomy, half(anatomy), Inputs((case.input(),)))
    subject.see(Mode(torch.float64, batch_statistics=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())
    assert all(module.training for module in model.modules())


def test_batch_statistics_are_part_of_the_proof() -> None:
    case, anatomy = ZOO["resnet8"], anatomy_of("resnet8")
    expected = reference(case.network(), anatomy, half(anatomy), Inputs((case.input(),)))
    assert expected.training is not None
    assert expected.double is not None
    assert difference(expected.training.outputs[0], expected.double.outputs[0]) > 1e-3


class SinglePrecision(nn.Module):
    """Multiplies by a matrix of type float32, whatever the type of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        turn = torch.eye(4, dtype=torch.float32)
        out: Tensor = self.last(self.first(x @ turn))
        return out


def test_a_network_of_one_precision_is_proven_in_it_and_says_so() -> None:
    torch.manual_seed(0)
    model, x = SinglePrecision(), torch.randn(3, 4)
    anatomy = inspect(model, x)
    found = cut(model, anatomy, half(anatomy), Inputs((x,))).equivalence
    assert found.float64_error is None
    assert found.gradient_error is None
    assert found.float32_error <= 1e-5
    assert found.note.startswith("not measured in float64")


class NotForDouble(nn.Module):
    """Adds the smallest number of the input's type to masked places, computed in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        out: Tensor = self.last(hidden + (1.0 - torch.ones(1)) * torch.finfo(hidden.dtype).min)
        return out


def test_a_network_that_computes_nan_in_double_is_proven_in_its_own_precision() -> None:
    torch.manual_seed(0)
    model, x = NotForDouble(), torch.randn(3, 4)
    assert bool(model.double()(x.double()).isnan().all())
    model.float()
    anatomy = inspect(model, x)
    found = cut(model, anatomy, half(anatomy), Inputs((x,))).equivalence
    assert found.note == "not measured in float64: the network computes NaN there"
    assert found.float32_error <= 1e-5


def test_a_network_that_computes_nan_is_refused_before_anything_changes() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(3, 4)
    anatomy = inspect(model, x)
    with pytest.raises(NotEquivalentError, match="computes NaN on the inputs"):
        cut(model, anatomy, half(anatomy), Inputs((x / 0.0 * 0.0,)))
    assert model.get_parameter("0.weight").shape == (6, 4)


def test_a_frozen_network_is_proven_by_its_outputs() -> None:
    case, anatomy = ZOO["plain"], anatomy_of("plain")
    model = case.network().requires_grad_(False)
    assert cut(model, anatomy, half(anatomy), Inputs((case.input(),))).equivalence.gradient_error is not None
    assert not any(p.requires_grad for p in model.parameters())


def test_differences_are_relative_and_never_pass_when_they_cannot_be_compared() -> None:
    assert difference(torch.tensor([100.0]), torch.tensor([101.0])) == pytest.approx(1 / 101)
    assert difference(torch.zeros(2), torch.zeros(2)) == 0
    assert difference(torch.zeros(0), torch.zeros(0)) == 0
    assert difference(torch.zeros(2), torch.zeros(3)) == float("inf")
    assert difference(torch.tensor([float("nan")]), torch.tensor([1.0])) == float("inf")
    nan, masked = torch.tensor([float("nan")]), torch.tensor([float("-inf"), 100.0])
    assert difference(nan, nan) == float("inf")
    assert difference(masked, masked) == 0
    assert difference(torch.tensor([float("-inf"), 101.0]), masked) == pytest.approx(1 / 100)
    assert difference(torch.tensor([0.0, 100.0]), masked) == float("inf")
    assert difference(-masked, masked) == float("inf")


class Rounding(nn.Module):
    """Computes its norm in float32, whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 40), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        short = x.float() * torch.rsqrt(1.0 + x.float().pow(2).sum(-1, keepdim=True))
        scores: Tensor = self.leave(short.to(x.dtype))
        return scores


def test_what_code_rounds_itself_is_no_difference() -> None:
    torch.manual_seed(0)
    model, x = Rounding(), torch.randn(16, 6)
    anatomy = inspect(model, x)
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[::3] = False
    made = cut(model, anatomy, keep, Inputs((x,)))
    assert made.equivalence.gradient_error is not None
    assert made.equivalence.gradient_error < 1e-6
