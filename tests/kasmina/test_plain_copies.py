"""What a loop keeps as plain tensors follows masks and cuts, whatever it does with its dict or list."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.checkpoint import misfits
from esper.errors import ConfigError
from esper.kasmina import LiveNetwork, PlainCopy
from esper.nissa import Event, given_events
from tests.kasmina.networks import Convolutional, Tied, images, some_units, tokens

Average = dict[str, Tensor]


def small(build: Callable[[], nn.Module] = Convolutional) -> nn.Module:
    torch.manual_seed(0)
    return build()


def cloned(model: nn.Module) -> Average:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def live(
    model: nn.Module,
    given: Mapping[str, Tensor] | Sequence[Tensor],
    batch: tuple[Tensor, Tensor] | None = None,
) -> tuple[LiveNetwork, PlainCopy, list[Event]]:
    """A network with what a loop keeps of it; and what is told of that."""
    kept, told = PlainCopy(model, given, 0), list[Event]()
    kept.tell = told.append
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    network = LiveNetwork(model, optimizer, batch or images(), F.cross_entropy, (kept,))
    return network, kept, told


def mask(network: LiveNetwork) -> None:
    keep = some_units(network.anatomy, 4) | ~network.cuttable_units()
    with network.attended():
        network.mask(keep)


def cut(network: LiveNetwork) -> None:
    with network.attended():
        network.cut_masked()


def step(network: LiveNetwork, batch: tuple[Tensor, Tensor] | None = None) -> None:
    inputs, target = batch or images()
    F.cross_entropy(network.model(inputs), target).backward()
    network.optimizer.step()
    network.optimizer.zero_grad()


def in_place(average: Average, model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].mul_(0.5).add_(value, alpha=0.5)


def assigned(average: Average, model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        average[name] = 0.5 * average[name] + 0.5 * value


def fits(average: Mapping[str, Tensor], model: nn.Module) -> bool:
    own = model.state_dict()
    return all(tensor.shape == own[name].shape for name, tensor in average.items())


@pytest.mark.parametrize("update", [in_place, assigned])
def test_a_dict_is_masked_stays_masked_and_is_cut_like_the_network(
    update: Callable[[Average, nn.Module], None],
) -> None:
    model = small()
    average = cloned(model)
    network, _, told = live(model, average)
    step(network)
    update(average, model)
    mask(network)
    gone = {name: value == 0 for name, value in model.named_parameters()}
    step(network)
    update(average, model)
    assert any(where.all(dim=-1).any() for name, where in gone.items() if where.dim() == 2)
    assert not any(average[name][where].count_nonzero() for name, where in gone.items())
    cut(network)
    assert model.get_parameter("hidden.weight").shape[0] < 16
    assert fits(average, model)
    update(average, model)
    model.load_state_dict(average)
    assert not told
    network.detach()


def test_a_mask_that_is_taken_back_gives_new_tensors_the_values_of_the_old_ones() -> None:
    model = small()
    average = cloned(model)
    network, _, _ = live(model, average)
    before = average["hidden.weight"].clone()
    mask(network)
    average["hidden.weight"] = average["hidden.weight"].double()
    hidden = average["hidden.weight"] == 0
    with network.attended():
        network.unmask(np.ones(network.anatomy.num_units, np.bool_))
    assert hidden.any()
    assert torch.equal(average["hidden.weight"], before.double())
    network.detach()


@pytest.mark.parametrize("is_all", [True, False])
def test_a_list_is_of_all_parameters_or_of_those_that_are_trained(is_all: bool) -> None:
    model = small()
    for name in ("0.weight", "0.bias"):
        model.get_submodule("inner").get_parameter(name).requires_grad_(False)
    average = [p.detach().clone() for p in model.parameters() if is_all or p.requires_grad]
    network, kept, _ = live(model, average)
    mask(network)
    cut(network)
    shapes = [p.shape for p in model.parameters() if is_all or p.requires_grad]
    assert [tensor.shape for tensor in average] == shapes
    assert torch.equal(
        kept.copy.get_buffer("stem.1.running_var"), model.get_buffer("stem.1.running_var")
    )  # the loop keeps none
    network.detach()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_an_average_may_have_another_type(dtype: torch.dtype) -> None:
    model = small()
    average = {name: value.detach().to(dtype, copy=True) for name, value in model.named_parameters()}
    network, _, _ = live(model, average)
    network.adjust({"hidden.bias": torch.ones(16)})
    assert [version["hidden.bias"].dtype for version in network.versions()] == [torch.float32] * 2
    mask(network)
    cut(network)
    assert fits(average, model)
    assert {tensor.dtype for tensor in average.values()} == {dtype}
    network.detach()


def test_tensors_that_the_network_has_tied_may_be_apart() -> None:
    model = small(Tied)
    average = cloned(model)
    assert average["head.weight"] is not average["embedding.weight"]
    network, _, _ = live(model, average, tokens())
    mask(network)
    assert torch.equal(average["head.weight"], average["embedding.weight"])
    cut(network)
    assert fits(average, model)
    model.load_state_dict(average)
    network.detach()


class Sparse(nn.Module):
    """Some of its hidden units are off for good."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 5)
        self.register_buffer("is_on", torch.arange(16) % 5 != 0)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.second(torch.relu(self.first(x)) * self.get_buffer("is_on"))
        return logits


@pytest.mark.parametrize("update", [in_place, assigned])
def test_tensors_of_truth_values_follow_also_where_the_loop_averages_them(
    update: Callable[[Average, nn.Module], None],
) -> None:
    model = small(Sparse)
    average = cloned(model)
    network, _, _ = live(model, average, (torch.randn(6, 6), torch.arange(6) % 5))
    update(average, model)
    saved = network.masks.plain_copies[0].state_dict()
    mask(network)
    cut(network)
    assert model.get_buffer("is_on").numel() < 16
    assert fits(average, model)
    update(average, model)
    assert torch.equal(average["is_on"], model.get_buffer("is_on").to(average["is_on"]))
    with network.attended():
        network.load({**network.state(), "changes": []})
        assert not misfits(saved, network.masks.plain_copies[0].state_dict(), is_typed=False)
    assert fits(average, model)
    network.detach()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_may_have_what_wrappers_put_before_them(prefix: str) -> None:
    model = small()
    average = OrderedDict((prefix + name, value) for name, value in cloned(model).items())
    network, _, _ = live(model, average)
    mask(network)
    cut(network)
    assert fits({name.removeprefix(prefix): value for name, value in average.items()}, model)
    network.detach()


def test_a_state_comes_back_in_fresh_tensors_to_the_last_bit_and_in_its_type() -> None:
    model = small()
    average = cloned(model)
    kept = PlainCopy(model, average, 0)
    assigned(average, model)
    assert kept.take()
    saved = {name: value.clone() for name, value in kept.state_dict().items()}
    assert saved["stem.1.num_batches_tracked"].dtype == torch.float32  # an average of whole numbers
    fresh = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    again = PlainCopy(model, fresh, 0)
    again.load_state_dict(saved)
    assert fresh.keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in fresh.items())
    assert fresh["stem.1.num_batches_tracked"].dtype == torch.float32
    again.copy(images()[0])  # its own count is of whole numbers still


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda a, _: a.pop("hidden.weight"), "is not there any more"),
        (
            lambda a, _: a.update({"hidden.weight": torch.ones(3)}),
            r"has the shape \(3,\), and the network's has",
        ),
        (lambda a, m: a.update({"hidden.weight": m.hidden.weight.data}), "is the network's own memory"),
        (lambda a, m: a.update({"hidden.weight": m.hidden.weight * 2}), "was computed with a gradient"),
        (lambda a, _: a.update({"hidden.weight": None}), "of the type NoneType"),
        (lambda a, _: a.update({"other": torch.ones(3)}), "is new since the run began"),
        (lambda a, _: setattr(a["hidden.weight"], "data", torch.ones(3)), r"has the shape \(3,\)"),
    ],
)
def test_what_cannot_be_followed_is_told_and_the_rest_is(
    spoil: Callable[[Any, Any], object], why: str
) -> None:
    model = small()
    average = cloned(model)
    network, _, told = live(model, average)
    step(network)
    in_place(average, model)
    spoil(average, model)
    mask(network)
    cut(network)
    (event,) = set(told)
    assert isinstance(event, given_events.TensorNotFollowed)
    assert re.search(why, event.text)
    assert average["hidden.bias"].shape == model.get_parameter("hidden.bias").shape
    average["hidden.weight"] = model.get_parameter("hidden.weight").detach().clone()  # as it should be
    average.pop("other", None)
    told.clear()
    with network.attended():
        pass
    assert not told
    network.detach()


def test_a_dict_that_the_loop_has_left_behind_is_told_of_once() -> None:
    model = small()
    average = cloned(model)
    network, _, told = live(model, average)
    with network.attended():
        pass
    assert not told  # nobody has trained it
    for _ in range(2):
        step(network)
        with network.attended():
            pass
    assert told == [given_events.CompanionAtRest(0)]
    network.detach()


def in_inference(model: nn.Module) -> Average:
    with torch.inference_mode():
        return cloned(model)


def of_one_memory(model: nn.Module) -> list[Tensor]:
    parameters = list(model.parameters())
    flat = torch.cat([p.detach().flatten() for p in parameters])
    parts = flat.split([p.numel() for p in parameters])
    return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (lambda _: {}, "holds nothing"),
        (lambda m: {**cloned(m), "n_averaged": torch.tensor(1)}, "'n_averaged', which is no parameter"),
        (lambda m: {**cloned(m), "head.bias": torch.ones(7)}, r"'head.bias' has the shape \(7,\)"),
        (lambda m: m.state_dict(), "is the network's own memory: clone it"),
        (
            lambda m: {n: p.clone() for n, p in m.named_parameters()},
            r"under torch\.no_grad\(\), or detach it",
        ),
        (lambda m: {n: p.tolist() for n, p in m.named_parameters()}, "no plain tensor, but of the type list"),
        (
            lambda m: [p.detach().clone() for p in m.parameters()][1:],
            "is a list of 13 tensors, and the network",
        ),
        (lambda m: {n: p.detach().int() for n, p in m.named_parameters()}, r"is of torch\.int32"),
        (in_inference, r"under torch\.inference_mode\(\)"),
        (of_one_memory, "lies in one piece of memory with"),
    ],
)
def test_what_is_no_copy_is_refused_with_the_reason(given: Callable[[nn.Module], Any], why: str) -> None:
    model = small()
    with pytest.raises(ConfigError, match=why) as refusal:
        PlainCopy(model, given(model), 0)
    assert "Nothing was changed." in str(refusal.value)
