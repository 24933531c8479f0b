"""State of every layout that optimizers keep: cut with its parameter, left alone, or refused."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adafactor, Adam, Muon, NAdam, Optimizer, RMSprop

from esper.anatomy.cut.live import cut
from esper.anatomy.cut.optimizers.state import WeightCopies, cut_state, named, refusal_of, zero_state
from esper.anatomy.proof import Inputs, Undo, difference, select
from esper.anatomy.structure import Anatomy
from esper.anatomy.units import inspect, masked_axes, zero_masked
from esper.arrays import BoolArray
from esper.errors import SurgeryError
from tests.anatomy.cutting import half
from tests.anatomy.optimizers import EXACT, Blockwise, KeepsWeights, Preconditioned, squares_only, states

KEPT = {"weight": {0: torch.tensor([0, 2])}}

Maker = Callable[..., Optimizer]


def _after_a_step(kind: Maker, **options: Any) -> tuple[nn.Linear, Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = kind(model.parameters(), lr=0.1, **options)
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("kind", [SGD, Adam, RMSprop, NAdam])
def test_state_of_the_parameters_shape_loses_the_same_rows(kind: Maker) -> None:
    model, optimizer = _after_a_step(kind, **({"momentum": 0.9} if kind is SGD else {}))
    before = {key: value.clone() for key, value in optimizer.state[model.weight].items()}
    cut_state(optimizer, named(dict(model.named_parameters())), KEPT, Undo())
    whole = [key for key, value in before.items() if value.shape == (3, 4)]
    assert whole
    for key, value in optimizer.state[model.weight].items():
        assert torch.equal(value, before[key][[0, 2]] if key in whole else before[key])
    assert all(v.shape == (3,) for v in optimizer.state[model.bias].values() if v.dim())


def test_undoing_brings_the_old_tensors_back() -> None:
    model, optimizer = _after_a_step(Adam)
    before = dict(optimizer.state[model.weight])
    undo = Undo()
    cut_state(optimizer, named(dict(model.named_parameters())), KEPT, undo)
    undo.run()
    assert all(value is before[key] for key, value in optimizer.state[model.weight].items())


def test_state_that_is_not_by_coordinate_is_refused_before_anything_changes() -> None:
    model, optimizer = _after_a_step(Adam)
    optimizer.state[model.weight]["mystery"] = torch.zeros(7)
    before = dict(optimizer.state[model.weight])
    with pytest.raises(SurgeryError, match=r"Adam holds state 'mystery' of shape \(7,\) for weight"):
        cut_state(optimizer, named(dict(model.named_parameters())), KEPT, Undo())
    assert all(value is before[key] for key, value in optimizer.state[model.weight].items())


def test_an_optimizer_without_state_is_fine() -> None:
    model = nn.Linear(4, 3)
    optimizer = SGD(model.parameters(), lr=0.1)
    cut_state(optimizer, named(dict(model.named_parameters())), KEPT, Undo())
    assert not optimizer.state


def test_state_that_is_no_tensor_is_left_alone() -> None:
    model, optimizer = _after_a_step(Adam)
    optimizer.state[model.weight]["note"] = "mine"
    cut_state(optimizer, named(dict(model.named_parameters())), KEPT, Undo())
    assert optimizer.state[model.weight]["note"] == "mine"
    step: Tensor = optimizer.state[model.weight]["step"]
    assert step == 1


def network() -> nn.Module:
    """A convolution, a norm, two linear layers: rank 1, 2 and 4."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 12), nn.ReLU(), nn.Linear(12, 5)
    ).double()


X = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()
FLAT = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)).double()


def train_step(model: nn.Module, optimizer: Optimizer, x: Tensor = X) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def masking(model: nn.Module, anatomy: Anatomy, keep: BoolArray) -> Callable[[], None]:
    parameters, axes = dict(model.named_parameters()), masked_axes(anatomy, keep)
    return lambda: zero_masked(parameters, axes)


class AfterACut:
    """A network that was trained masked, cut, and trained one step more, beside its masked twin."""

    def __init__(
        self, make: Callable[[Any], Optimizer], build: Callable[[], nn.Module] = network, x: Tensor = X
    ) -> None:
        self.masked = build()
        self.anatomy = inspect(self.masked, x)
        self.keep = half(self.anatomy)
        self.masked_optimizer = make(self.masked.parameters())
        mask = masking(self.masked, self.anatomy, self.keep)
        mask()
        for _ in range(3):  # at zero, ReLU passes no gradient: masked coordinates have no history
            train_step(self.masked, self.masked_optimizer, x)
            mask()
        self.model, self.optimizer = copy.deepcopy((self.masked, self.masked_optimizer))
        self.before = {name: p.detach().clone() for name, p in self.masked.named_parameters()}
        self.made = cut(self.model, self.anatomy, self.keep, Inputs((x,)), (self.optimizer,))
        train_step(self.model, self.optimizer, x)
        train_step(self.masked, self.masked_optimizer, x)
        mask()

    def errors(self) -> dict[str, float]:
        """By parameter: how far one step of the cut network is from one step of the masked one."""
        expected = dict(self.masked.named_parameters())
        return {
            name: difference(p, select(expected[name], self.made.kept.get(name, {})))
            for name, p in self.model.named_parameters()
        }

    def moved(self) -> dict[str, tuple[Tensor, Tensor]]:
        """By parameter: how far the step went, in the cut network and in the masked one."""
        expected = dict(self.masked.named_parameters())
        kept = self.made.kept
        return {
            name: (
                (p - select(self.before[name], kept.get(name, {}))).detach(),
                select(expected[name] - self.before[name], kept.get(name, {})),
            )
            for name, p in self.model.named_parameters()
        }


@pytest.mark.parametrize("name", EXACT)
def test_one_step_after_the_cut_is_one_step_of_the_masked_network(name: str) -> None:
    after = AfterACut(EXACT[name])
    assert after.made.parameters_after < after.made.parameters_before
    assert max(after.errors().values()) <= 1e-9
    assert all(float(ours.abs().max()) > 0 for ours, _ in after.moved().values())


@pytest.mark.parametrize("name", ["Adam", "Adafactor factors", "row maximum"])
def test_square_matrices_do_not_confuse_the_axes(name: str) -> None:
    assert max(AfterACut(EXACT[name], squares_only, FLAT).errors().values()) <= 1e-9


def test_factored_state_has_the_shape_that_adafactor_would_give_it() -> None:
    after = AfterACut(EXACT["Adafactor factors"])
    state = after.optimizer.state[after.model.get_parameter("3.weight")]
    assert (state["row_var"].shape, state["col_var"].shape) == ((6, 1), (1, 16))


def test_adafactors_own_step_size_counts_weights_so_its_steps_grow_by_a_known_factor() -> None:
    after = AfterACut(lambda p: Adafactor(p, 1e-3, d=1e9))
    for name, (ours, masked) in after.moved().items():
        ratio = (after.before[name].numel() / ours.numel()) ** 0.5
        assert difference(ours, masked * ratio) <= 1e-6, name


def test_muon_makes_the_same_step_up_to_the_rounding_of_its_bfloat16_and_its_rate_by_shape() -> None:
    def matrices(parameters: Any) -> Optimizer:
        return Muon([p for p in parameters if p.dim() == 2], lr=0.01, weight_decay=0.0)

    after = AfterACut(matrices)
    for name, (ours, masked) in after.moved().items():
        if ours.dim() == 2:
            rows, columns = ours.shape
            whole_rows, whole_columns = after.before[name].shape
            ratio = (max(1, rows / columns) / max(1, whole_rows / whole_columns)) ** 0.5
            assert difference(ours, masked * ratio) <= 0.05, name


def test_a_cut_that_is_taken_back_gives_factored_state_its_old_shapes() -> None:
    model = network()
    optimizer = EXACT["Adafactor factors"](model.parameters())
    train_step(model, optimizer)
    shapes = [{k: v.shape for k, v in state.items() if isinstance(v, Tensor)} for state in states(optimizer)]
    anatomy = inspect(model, X)
    made = cut(model, anatomy, half(anatomy), Inputs((X,)), (optimizer,))
    made.undo(model, (optimizer,))
    after = [{k: v.shape for k, v in state.items() if isinstance(v, Tensor)} for state in states(optimizer)]
    assert after == shapes
    train_step(model, optimizer)


def test_state_of_masked_coordinates_is_zeroed_in_factors_too() -> None:
    model = network()
    optimizer = EXACT["Adafactor factors"](model.parameters())
    train_step(model, optimizer)
    weight = model.get_parameter("3.weight")
    columns = optimizer.state[weight]["col_var"].clone()
    expected = optimizer.state[weight]["row_var"].clone()
    expected[[2, 5]] = 0
    zero_state(optimizer, {weight: {0: torch.tensor([2, 5])}})
    assert torch.equal(optimizer.state[weight]["row_var"], expected)
    assert torch.equal(optimizer.state[weight]["col_var"], columns)


def lbfgs(parameters: Any) -> Optimizer:
    return LBFGS(parameters, lr=0.01, max_iter=2)


@pytest.mark.parametrize(
    ("make", "build", "x", "told"),
    [
        (lbfgs, network, X, r"LBFGS holds state '\w+' .*(list of tensors|single coordinates)"),
        (Blockwise, network, X, r"Blockwise holds state 'state1' .*uint8, .*quantized in blocks"),
        (Preconditioned, network, X, r"Preconditioned holds state 'outer_\d' .*single coordinates"),
        (Preconditioned, squares_only, FLAT, r"Preconditioned holds state 'outer_\d' .*single coordinates"),
    ],
)
def test_state_that_cannot_follow_is_refused_by_name_and_nothing_changes(
    make: Callable[[Any], Optimizer], build: Callable[[], nn.Module], x: Tensor, told: str
) -> None:
    model = build()
    optimizer = make(model.parameters())

    def loss() -> float:
        optimizer.zero_grad()
        value = model(x).square().mean()
        value.backward()
        return float(value.detach())

    for _ in range(2):
        loss()
        optimizer.step(loss)
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = states(optimizer)
    anatomy = inspect(model, x)
    assert re.search(told, refusal_of(optimizer, named(dict(model.named_parameters()))))
    with pytest.raises(SurgeryError, match=f"{told}.*Nothing was changed"):
        cut(model, anatomy, half(anatomy), Inputs((x,)), (optimizer,))
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())
    for old, new in zip(before, states(optimizer), strict=True):
        assert str(old) == str(new)


def test_an_optimizer_that_is_asked_is_not_touched() -> None:
    model = network()
    optimizer = EXACT["Adafactor factors"](model.parameters())
    steps: list[int] = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    train_step(model, optimizer)
    scheduler.step()
    groups = copy.deepcopy(optimizer.param_groups)
    random = torch.get_rng_state()
    anatomy = inspect(model, X)
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[0] = False
    cut(model, anatomy, keep, Inputs((X,)), (optimizer,))
    assert steps == [1]
    assert torch.equal(random, torch.get_rng_state())
    assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in groups]
    assert list(optimizer.state) == list(model.parameters())


@pytest.mark.parametrize("kind", [SGD, Adam, RMSprop, NAdam, Muon])
def test_moments_are_no_copies_of_weights_even_under_weight_decay(kind: Maker) -> None:
    settings: dict[str, Any] = {"momentum": 0.9} if kind is SGD else {}
    weight = nn.Parameter(torch.randn(4, 3))
    optimizer = kind([weight], lr=0.1, weight_decay=0.1, **settings)
    weight.grad = torch.randn(4, 3)
    optimizer.step()
    assert optimizer.state[weight]
    assert WeightCopies((optimizer,)).of(weight) == {}


def test_weights_in_the_state_are_found_and_a_change_reaches_them() -> None:
    model, optimizer = _after_a_step(KeepsWeights)
    copies = WeightCopies((SGD(model.parameters(), lr=0.1), optimizer))
    before = {name: held.clone() for name, held in copies.of(model.weight).items()}
    assert sorted(before) == ["optimizer 1 master", "optimizer 1 slow", "optimizer 1 start"]
    copies.add(model.weight, torch.ones(3, 4), sign=-1)
    for name, held in copies.of(model.weight).items():
        assert torch.equal(held, before[name] - 1)


class Wrapped(Optimizer):
    """Steps by another optimizer, so it cannot be asked; its slow weights show themselves."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter].setdefault("slow", parameter.detach().clone())
            self.state[parameter].setdefault("gradient", parameter.grad.clone())
        self.inner.step()


def test_an_optimizer_that_cannot_be_asked_is_known_by_what_its_state_is_near() -> None:
    model, optimizer = _after_a_step(lambda parameters, lr: Wrapped(SGD(parameters, lr=lr / 100)))
    assert list(WeightCopies((optimizer,)).of(model.weight)) == ["optimizer 0 slow"]


def test_copies_that_were_found_once_stay_copies_whatever_they_look_like() -> None:
    model, optimizer = _after_a_step(Adam)
    known = WeightCopies((optimizer,), {"optimizer 0 exp_avg"}, is_complete=True)
    assert list(known.of(model.weight)) == ["optimizer 0 exp_avg"]
