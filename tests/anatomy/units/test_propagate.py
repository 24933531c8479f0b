"""What flows through a graph, and that what is not understood only freezes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.cut import cut, cut_program
from esper.anatomy.structure import Anatomy
from esper.anatomy.units.inspection import inspect
from tests.anatomy.cutting import half, probe_of


class Between(nn.Module):
    """Two linear layers and something between them."""

    def __init__(
        self, between: Callable[[Tensor], Tensor], width: int = 12, after: int | None = None
    ) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, width), nn.Linear(after or width, 2)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.between(self.first(x)))
        return out


def _inspected(
    between: Callable[[Tensor], Tensor], after: int | None = None
) -> tuple[nn.Module, Tensor, Anatomy]:
    torch.manual_seed(0)
    model, x = Between(between, after=after), torch.randn(2, 6)
    return model, x, inspect(model, x)


FREE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "in-place": lambda x: x.relu_().mul_(2.0).add_(1.0),
    "cosine is not zero at zero": torch.cos,
    "sigmoid": torch.sigmoid,
    "clamp": lambda x: x.clamp(0.5, 1.0),
    "power": lambda x: x**3,
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "product with itself": lambda x: x * x.sigmoid(),
    "larger of two": lambda x: torch.maximum(x, 0.5 * x),
    "max of two": lambda x: torch.max(x, -x),
    "double and back": lambda x: x.double().exp().float(),
    "flip": lambda x: x.flip(-1),
    "repeat": lambda x: x.repeat(2, 1)[:2],
    "round trip": lambda x: x.reshape(2, -1, 4).permute(2, 0, 1).permute(1, 2, 0).reshape(2, -1),
    "stack of equal parts": lambda x: torch.stack([x, -x], 1).sum(1),
    "no grad region": lambda x: x + _without_gradient(x),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "sum of three operands": lambda x: torch.einsum("bi,bi,bi->bi", x, x.tanh(), x),
    "einsum with dots": lambda x: torch.einsum("b...,...->b...", x, torch.ones(1)),
    "einsum without arrow": lambda x: torch.einsum("ab,c", x, torch.ones(1)).squeeze(-1),
    "nothing else": lambda x: x.clone(),
}


def _without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x.sign()


@pytest.mark.parametrize("what", FREE)
def test_elementwise_and_moving_operators_leave_units_free(what: str) -> None:
    model, x, anatomy = _inspected(FREE[what])
    assert [group.width for group in anatomy.groups] in ([12], [4], [3], [6])
    cut(model, anatomy, half(anatomy), probe_of(x))


FROZEN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "softmax": (lambda x: x.softmax(-1), "softmax at softmax runs over it"),
    "mean": (lambda x: x - x.mean(-1, keepdim=True), "mean at mean runs over it"),
    "layer norm": (lambda x: F.layer_norm(x, (12,)), "layer_norm"),
    "sort": (lambda x: x.sort(-1).values, "sort"),
    "top": (lambda x: x.topk(12, -1).values, "topk"),
    "cumulative sum": (lambda x: x.cumsum(-1), "cumsum"),
    "fast fourier transform": (lambda x: torch.fft.fft(x).real, "fft"),
    "roll": (lambda x: x.roll(1, -1), "roll at roll names its coordinates by number"),
    "unbind": (lambda x: torch.stack(x.unbind(-1)[::-1], -1), "unbind"),
    "constant of that size": (lambda x: x + torch.arange(12.0), "add at add combines it with a fixed size"),
    "logarithm": (torch.log, "log at log is not defined at zero"),
    "division": (lambda x: 1 / (x * x.sigmoid()), "reciprocal"),
    "index": (lambda x: x[:, torch.tensor([3, 1, 2, 0, 4, 5, 6, 7, 8, 9, 10, 11])], "index"),
    "distance": (lambda x: torch.cdist(x, x).sum() * x, "cdist"),
    "matrix of constants": (
        lambda x: x @ torch.arange(144.0).reshape(12, 12),
        "multiplies it with a fixed size",
    ),
    "grid of places": (
        lambda x: F.grid_sample(torch.ones(2, 12, 1, 1), x.reshape(2, 6, 1, 2)[:, :1]).reshape(2, 12),
        "grid_sampler",
    ),
}


@pytest.mark.parametrize("what", FROZEN)
def test_operators_that_need_every_coordinate_freeze_it_and_are_named(what: str) -> None:
    _, _, anatomy = _inspected(FROZEN[what][0])
    reasons = [axis.reason for axis in anatomy.frozen if axis.name == "first"]
    assert anatomy.groups == ()
    assert any(FROZEN[what][1] in reason for reason in reasons), reasons


def test_a_state_that_a_recurrent_layer_is_given_freezes_it_and_is_named() -> None:
    class Carrying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.GRU(6, 12, batch_first=True), nn.Linear(12, 2)

        def forward(self, x: Tensor, state: Tensor) -> Tensor:
            out: Tensor = self.last(self.first(x, state)[0])
            return out

    anatomy = inspect(Carrying(), (torch.randn(3, 5, 6), torch.zeros(1, 3, 12)))
    assert anatomy.groups == ()
    reasons = [axis.reason for axis in anatomy.frozen if axis.name == "first"]
    assert reasons == ["gru at gru starts from a state of a fixed size"]


def test_a_form_of_an_operator_that_is_not_followed_freezes_instead_of_failing() -> None:
    def diagonal(x: Tensor) -> Tensor:
        return torch.einsum("bii->bi", x[:, :, None] * x[:, None])

    _, _, anatomy = _inspected(diagonal)
    assert anatomy.groups == ()
    assert any("einsum" in axis.reason and "not followed" in axis.reason for axis in anatomy.frozen)


def test_a_by_product_that_nobody_reads_freezes_nothing() -> None:
    def wasteful(x: Tensor) -> Tensor:
        x.softmax(-1)
        return x

    assert len(_inspected(wasteful)[2].groups) == 1


class Bayesian(nn.Linear):
    """Draws its weights as it trains, and keeps a measure of their deviations for the loop to add up."""

    def __init__(self, inputs: int, outputs: int, deviation: Callable[[Tensor], Tensor]) -> None:
        super().__init__(inputs, outputs)
        self.rho = nn.Parameter(torch.full((outputs, inputs), -5.0))
        self.deviation = deviation

    def forward(self, x: Tensor) -> Tensor:
        spread = self.deviation(self.rho)
        self.penalty = (spread**2 + self.weight**2).sum()
        drawn = self.weight + spread * torch.randn_like(spread) if self.training else self.weight
        return F.linear(x, drawn, self.bias)


def test_what_only_training_reads_stays_where_a_zero_in_it_would_not_be_nothing() -> None:
    def anatomy(deviation: Callable[[Tensor], Tensor]) -> Anatomy:
        model = nn.Sequential(Bayesian(6, 12, deviation), nn.ReLU(), Bayesian(12, 2, deviation))
        return inspect(model, torch.randn(4, 6))

    kept = anatomy(F.softplus)
    assert kept.num_units == 0
    assert any("0.rho is read only as the network trains" in part.reason for part in kept.frozen)
    assert anatomy(torch.tanh).num_units == 12


def test_units_read_where_no_gate_can_reach_stay() -> None:
    class Region(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = nn.Linear(6, 8), nn.Linear(8, 10), nn.Linear(10, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            with torch.autocast("cpu"):
                x = self.middle(x)
            out: Tensor = self.last(x.float())
            return out

    anatomy = inspect(Region(), torch.randn(2, 6))
    reasons = {axis.name: axis.reason for axis in anatomy.frozen}
    assert [group.name for group in anatomy.groups] == ["middle"]
    assert "cannot be measured" in reasons["first"]


def test_the_users_default_device_does_not_matter() -> None:
    model, x = Between(F.relu), torch.randn(2, 6)
    expected = inspect(model, x).digest
    with torch.device("meta"):
        assert inspect(model, x).digest == expected


def test_a_network_on_the_meta_device_has_an_anatomy() -> None:
    model, x = Between(F.relu), torch.randn(2, 6)
    assert inspect(model.to("meta"), x.to("meta")).digest == inspect(Between(F.relu), x).digest


def test_groups_of_a_convolution_called_by_its_lowest_name_go_whole() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
            self.weight = nn.Parameter(torch.randn(8, 2, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            pairs, off, geometry = [1, 1], [0, 0], (False, False, False, False)
            x = torch._convolution(
                self.first(x), self.weight, None, pairs, pairs, pairs, False, off, 4, *geometry
            )
            out: Tensor = self.last(x.relu())
            return out

    model, x = Raw(), torch.randn(2, 3, 6, 6)
    anatomy = inspect(model, x)
    assert [(group.name, group.width) for group in anatomy.groups] == [("weight", 4)]
    made = cut_program(model, anatomy, half(anatomy), probe_of(x))
    assert made.parameters_after < made.parameters_before


class Perceptual(nn.Module):
    """A loss that looks through a network of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(2, 9), nn.ReLU(), nn.Linear(9, 7)).requires_grad_(False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(self.features(output), self.features(target))


def test_the_network_of_a_loss_stays_whole_says_why_and_costs_nothing() -> None:
    torch.manual_seed(0)
    model, x, loss = Between(F.relu), torch.randn(4, 6), Perceptual()
    anatomy = inspect(model, (x, torch.randn(4, 2)), loss)
    assert [group.name for group in anatomy.groups] == ["first"]
    reasons = {axis.name: axis.reason for axis in anatomy.frozen}
    assert "belongs to the loss" in reasons["<loss.features.0"]
    assert anatomy.flops() == inspect(model, x).flops()  # a target is of the network alone
    cut(model, anatomy, half(anatomy), probe_of(x))
    assert loss(model(x), torch.zeros(4, 2)).isfinite()
