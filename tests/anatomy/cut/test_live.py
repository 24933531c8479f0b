"""Every network of the zoo, cut: proven equal, trained on, taken back where it must be."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, SparseAdam

from esper.anatomy.cut.live import cut
from esper.anatomy.proof import Inputs, difference, select
from esper.anatomy.units import inspect
from esper.errors import MaskError, NotEquivalentError, SurgeryError
from tests.anatomy.cutting import (
    OPTIMIZERS,
    anatomy_of,
    half,
    loss_of,
    masked_copy,
    probe_of,
    to_double,
    train_step,
    without_dropout,
)
from tests.anatomy.networks import ZOO
from tests.anatomy.networks.attention import Decoder, FixedWidthAttention
from tests.anatomy.networks.convolution import ResNet, plain

IN_EVERY_NETWORK = pytest.mark.parametrize("name", ZOO)


@IN_EVERY_NETWORK
@pytest.mark.no_cover
def test_half_of_the_units_of_every_group_can_go(name: str) -> None:
    model, sample, anatomy = ZOO[name].network(), ZOO[name].input(), anatomy_of(name)
    keep = half(anatomy)
    made = cut(model, anatomy, keep, probe_of(sample))
    assert made.equivalence.float64_error is not None
    assert made.parameters_before == anatomy.parameters()
    assert made.parameters_after == anatomy.parameters(keep) == sum(p.numel() for p in model.parameters())
    assert made.parameters_after < made.parameters_before


@IN_EVERY_NETWORK
@pytest.mark.parametrize("method", OPTIMIZERS)
def test_one_step_of_the_cut_network_is_one_step_of_the_masked_one(name: str, method: str) -> None:
    model, sample = without_dropout(ZOO[name].network().double()), to_double(ZOO[name].input())
    anatomy = anatomy_of(name)
    keep = half(anatomy, seed=1)
    optimizer = OPTIMIZERS[method](model.parameters())
    for _ in range(2):
        train_step(model, optimizer, sample)
    masked, other, mask = masked_copy(model, optimizer, anatomy, keep)
    made = cut(model, anatomy, keep, probe_of(sample), (optimizer,))
    for _ in range(2):
        mask()
        assert train_step(model, optimizer, sample) == pytest.approx(
            train_step(masked, other, sample), rel=1e-9
        )
        mask()
        expected = dict(masked.named_parameters())
        for parameter_name, parameter in model.named_parameters():
            whole = expected[parameter_name]
            axes = made.kept.get(parameter_name, {})
            assert difference(parameter, select(whole, axes)) <= 1e-6, parameter_name
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.dim():
                    assert difference(value, select(other.state[whole][key], axes)) <= 1e-6, (
                        parameter_name,
                        key,
                    )


@IN_EVERY_NETWORK
@pytest.mark.no_cover
def test_training_goes_on_after_a_cut_with_every_parameter(name: str) -> None:
    model, sample, anatomy = ZOO[name].network().train(), ZOO[name].input(), anatomy_of(name)
    optimizer = Adam(model.parameters(), lr=1e-3)
    train_step(model, optimizer, sample)
    kept_alive = loss_of(model, sample)  # a loop that logs its last loss keeps the old graph alive
    kept_alive.backward()
    before = {id(p): p.requires_grad for p in model.parameters()}
    reached = {id(p) for p in model.parameters() if p.grad is not None}
    cut(model, anatomy, half(anatomy), probe_of(sample), (optimizer,))
    assert {id(p): p.requires_grad for p in model.parameters()} == before
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(before)
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.shape == parameter.shape
        state = optimizer.state.get(parameter, {})
        assert all(v.shape == parameter.shape for k, v in state.items() if k.startswith("exp_avg"))
    values = {id(p): p.detach().clone() for p in model.parameters()}
    train_step(model, optimizer, sample)
    assert {id(p) for p in model.parameters() if p.grad is not None} == reached
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.grad.abs().max() > 1e-6:
            assert not torch.equal(parameter, values[id(parameter)])


@IN_EVERY_NETWORK
@pytest.mark.no_cover
def test_a_cut_network_can_be_inspected_and_cut_again(name: str) -> None:
    model, sample, anatomy = ZOO[name].network(), ZOO[name].input(), anatomy_of(name)
    keep = half(anatomy)
    cut(model, anatomy, keep, probe_of(sample))
    again = inspect(model, sample)
    assert again.parameters() == anatomy.parameters(keep)
    assert again.flops() == pytest.approx(anatomy.flops(keep), rel=1e-12)
    known = {(group.name, group.kind) for group in anatomy.groups}
    more = half(again)
    for number, group in enumerate(again.groups):
        if (
            group.name,
            group.kind,
        ) not in known:  # one head that is left has a width that its code spells out
            more[again.unit_slice(number)] = True
    assert cut(model, again, more, probe_of(sample)).parameters_after == again.parameters(more)


def test_heads_of_code_with_a_fixed_width_are_refused_and_nothing_changes() -> None:
    torch.manual_seed(0)
    model, numbers = Decoder(FixedWidthAttention), torch.randint(0, 50, (2, 12))
    anatomy = inspect(model, numbers)
    optimizer = Adam(model.parameters())
    train_step(model, optimizer, numbers)
    loss_of(model, numbers).backward()
    parameters = {
        n: (p, p.detach().clone(), p.grad.clone()) for n, p in model.named_parameters() if p.grad is not None
    }
    attributes = {
        n: {k: v for k, v in vars(m).items() if isinstance(v, int)} for n, m in model.named_modules()
    }
    state = copy.deepcopy(optimizer.state_dict())
    keep = np.ones(anatomy.num_units, dtype=np.bool_)
    heads = next(n for n, g in enumerate(anatomy.groups) if g.kind == "head")
    keep[anatomy.unit_slice(heads).start] = False

    with pytest.raises(NotEquivalentError, match=r"(?s)nothing changed.*fixed size"):
        cut(model, anatomy, keep, probe_of(numbers), (optimizer,))

    for name, parameter in model.named_parameters():
        same, value, gradient = parameters[name]
        assert parameter is same
        assert torch.equal(parameter, value)
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)
    now = {n: {k: v for k, v in vars(m).items() if isinstance(v, int)} for n, m in model.named_modules()}
    assert now == attributes
    for key, entry in optimizer.state_dict()["state"].items():
        assert all(torch.equal(entry[k], v) for k, v in state["state"][key].items())
    train_step(model, optimizer, numbers)


def test_channels_of_such_code_can_still_go() -> None:
    model, numbers = Decoder(FixedWidthAttention), torch.randint(0, 50, (2, 12))
    anatomy = inspect(model, numbers)
    keep = half(anatomy)
    for number, group in enumerate(anatomy.groups):
        if group.kind == "head":
            keep[anatomy.unit_slice(number)] = True
    assert cut(model, anatomy, keep, probe_of(numbers)).parameters_after == anatomy.parameters(keep)


def test_running_statistics_are_untouched_when_a_cut_is_refused() -> None:
    torch.manual_seed(0)
    model, x = ResNet(), torch.randn(2, 3, 16, 16)
    anatomy = inspect(model, x)
    optimizer = Adam(model.parameters())
    train_step(model, optimizer, x)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    optimizer.state[model.head.weight]["factor"] = torch.zeros(7)
    with pytest.raises(SurgeryError, match=r"'factor' of shape \(7,\).*Nothing was changed"):
        cut(model, anatomy, half(anatomy), probe_of(x), (optimizer,))
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert all(
        p.shape == s
        for p, s in zip(model.parameters(), (p.shape for p in ResNet().parameters()), strict=True)
    )


def test_a_mask_that_leaves_nothing_of_a_group_is_refused() -> None:
    model, x = plain(), torch.randn(2, 3, 16, 16)
    anatomy = inspect(model, x)
    keep = np.ones(anatomy.num_units, dtype=np.bool_)
    keep[anatomy.unit_slice(0)] = False
    with pytest.raises(MaskError, match="at least one unit"):
        cut(model, anatomy, keep, Inputs((x,)))


def test_a_mask_of_another_network_is_refused() -> None:
    model, x = plain(), torch.randn(2, 3, 16, 16)
    anatomy = inspect(model, x)
    with pytest.raises(MaskError, match="does not fit"):
        cut(model, anatomy, np.ones(3, dtype=np.bool_), Inputs((x,)))


def test_an_anatomy_of_another_network_is_refused() -> None:
    x = torch.randn(2, 3, 16, 16)
    anatomy = inspect(plain(), x)
    with pytest.raises(SurgeryError, match="another network"):
        cut(ResNet(), anatomy, half(anatomy), Inputs((x,)))


def test_tied_weights_stay_tied() -> None:
    model, numbers = Decoder(), torch.randint(0, 50, (2, 12))
    anatomy = inspect(model, numbers)
    cut(model, anatomy, half(anatomy), probe_of(numbers))
    assert model.head.weight is model.tokens.weight


def test_a_compiled_network_can_be_cut_and_runs() -> None:
    torch.manual_seed(0)
    model, x = plain().eval(), torch.randn(2, 3, 16, 16)
    compiled = torch.compile(model, backend="eager")
    assert isinstance(compiled, nn.Module)
    before = compiled(x)
    anatomy = inspect(model, x)
    cut(model, anatomy, half(anatomy), Inputs((x,)))
    after = compiled(x)
    assert torch.allclose(after, model(x))
    assert not torch.allclose(after, before)


def test_memory_format_survives_a_cut() -> None:
    model = plain()
    model.get_parameter("3.weight").data = model.get_parameter("3.weight").to(
        memory_format=torch.channels_last
    )
    x = torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    anatomy = inspect(model, x)
    cut(model, anatomy, half(anatomy), Inputs((x,)))
    assert model.get_parameter("3.weight").is_contiguous(memory_format=torch.channels_last)


def test_two_optimizers_share_one_network() -> None:
    torch.manual_seed(0)
    model, x = ResNet(), torch.randn(2, 3, 16, 16)
    first = SGD(model.stem.parameters(), lr=0.1, momentum=0.9)
    second = Adam([*model.blocks.parameters(), *model.head.parameters()])
    for optimizer in (first, second):
        train_step(model, optimizer, x)
    anatomy = inspect(model, x)
    cut(model, anatomy, half(anatomy), Inputs((x,)), (first, second))
    for optimizer in (first, second):
        train_step(model, optimizer, x)


def test_rows_with_sparse_gradients_are_cut_and_trained_on_by_their_own_optimizer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 8, sparse=True), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    x = torch.arange(12)
    rows = SparseAdam(list(model[0].parameters()), 0.01)
    rest = Adam(list(model[1:].parameters()), 0.01)

    def backward() -> None:
        model.zero_grad()
        model(x).square().sum().backward()

    backward()
    rows.step()
    anatomy = inspect(model, x)
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[0] = keep[-1] = False
    cut(model, anatomy, keep, Inputs((x,)), (rows, rest))
    (weight,) = model[0].parameters()
    assert weight.shape == (20, 7)
    assert rows.state[weight]["exp_avg"].shape == weight.shape
    rows.step()  # with the gradient from before the cut
    backward()
    rows.step()
    rest.step()
