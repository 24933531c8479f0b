"""A live network is cut, looked at again, and given back its old shapes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW

from esper.anatomy import Anatomy, Kind
from esper.arrays import BoolArray, IntArray
from esper.errors import CheckpointError, SurgeryError
from esper.kasmina.network import LiveNetwork
from tests.kasmina.networks import Convolutional, Tied, images, some_units, tokens

Batch = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Fused projection, its heads counted in an attribute of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.n_head = 4

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (p.view(b, t, self.n_head, -1).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1)
        result: Tensor = self.out(mixed)
        return result


class FixedAttention(Attention):
    """Takes the head width from the width of the stream, so its heads cannot go."""

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (p.view(b, t, self.n_head, c // self.n_head).transpose(1, 2) for p in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c)
        result: Tensor = self.out(mixed)
        return result


class Transformer(nn.Module):
    """Two attentions of different make, and a hidden layer."""

    def __init__(self, attention: type[Attention] = Attention) -> None:
        super().__init__()
        self.first = attention()
        self.second = nn.MultiheadAttention(16, 4, batch_first=True)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x)
        x = x + self.second(x, x, x, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(x)))
        logits: Tensor = self.head(x.mean(1))
        return logits


def sequences(count: int = 6, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, 16, generator=random), torch.randint(0, 5, (count,), generator=random)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], Batch]]] = {
    "convolutional": (Convolutional, images),
    "transformer": (Transformer, sequences),
    "tied": (Tied, tokens),
}

IN_EVERY_NETWORK = pytest.mark.parametrize(
    "name", ["convolutional", *(pytest.param(n, marks=pytest.mark.no_cover) for n in ("transformer", "tied"))]
)


def live(name: str, *, steps: int = 3) -> LiveNetwork:
    """A network after a few steps of training."""
    build, batches = NETWORKS[name]
    torch.manual_seed(0)
    model = build()
    network = LiveNetwork(model, AdamW(model.parameters(), 0.01), batches(6, 0), F.cross_entropy)
    train(network, batches, steps)
    return network


def train(network: LiveNetwork, batches: Callable[[int, int], Batch], steps: int) -> None:
    for step in range(steps):
        x, y = batches(6, step)
        network.optimizer.zero_grad()
        F.cross_entropy(network.model(x), y).backward()
        network.optimizer.step()


def bits(network: LiveNetwork) -> list[Tensor]:
    """Everything that training changes."""
    states = [v for s in network.optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
    return [value.detach().clone() for value in (*network.model.state_dict().values(), *states)]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def producer_rows(model: nn.Module, anatomy: Anatomy, unit: int) -> list[Tensor]:
    """The producing vectors (biases) of a unit: what it can be recognized by."""
    group = anatomy.groups[int(anatomy.group_of[unit])]
    number = unit - int(anatomy.offsets[int(anatomy.group_of[unit])])
    tensors = dict(model.named_parameters(remove_duplicate=False))
    biases = [m for m in group.members if m.role == "producer" and tensors[m.tensor].dim() == 1]
    return [tensors[m.tensor].detach()[torch.from_numpy(m.index[number])] for m in biases]


@IN_EVERY_NETWORK
def test_every_kept_unit_is_found_again_by_its_new_number(name: str) -> None:
    network = live(name)
    before, old = network.anatomy, copy.deepcopy(network.model)
    keep = some_units(before, 3)
    network.masks.apply(keep)
    change = network.cut_masked()
    made, numbers = change.cut, change.numbers
    assert made.parameters_after == network.anatomy.parameters() < before.parameters()
    assert network.anatomy.num_units == int(keep.sum())
    assert (numbers[~keep] == -1).all()
    assert sorted(numbers[keep].tolist()) == list(range(network.anatomy.num_units))
    for unit in np.flatnonzero(keep).tolist():
        rows = producer_rows(old, before, unit)
        assert rows
        assert equal(rows, producer_rows(network.model, network.anatomy, int(numbers[unit])))
    train(network, NETWORKS[name][1], 2)


@IN_EVERY_NETWORK
def test_what_a_cut_leaves_masked_stays_masked_and_keeps_its_hidden_values(name: str) -> None:
    network = live(name)
    before = network.anatomy
    rows = {unit: producer_rows(network.model, before, unit) for unit in range(before.num_units)}
    rows = {unit: [row.clone() for row in found] for unit, found in rows.items()}
    keep = some_units(before, 3)
    stays = np.flatnonzero(~keep)[::2]
    left = np.zeros_like(keep)
    left[stays] = True
    network.masks.apply(keep)
    numbers = network.cut_masked(left).numbers
    assert network.masks.num_masked == stays.size
    assert (numbers[keep | left] >= 0).all()
    assert (numbers[~(keep | left)] == -1).all()
    assert not network.masks.keep[numbers[stays]].any()
    train(network, NETWORKS[name][1], 2)
    for unit in stays.tolist():
        assert not any(row.any() for row in producer_rows(network.model, network.anatomy, int(numbers[unit])))
    network.masks.unmask()
    for unit in stays.tolist():
        assert equal(rows[unit], producer_rows(network.model, network.anatomy, int(numbers[unit])))


def test_a_cut_that_the_code_refuses_leaves_every_mask_as_it_was() -> None:
    torch.manual_seed(0)
    model = Transformer(FixedAttention)
    network = LiveNetwork(model, AdamW(model.parameters()), sequences(), F.cross_entropy)
    train(network, sequences, 2)
    anatomy, keep = network.anatomy, np.ones(network.anatomy.num_units, np.bool_)
    heads = next(n for n, group in enumerate(anatomy.groups) if group.name in network.refused)
    keep[anatomy.unit_slice(heads).start] = False
    keep[-1] = False
    left = np.zeros_like(keep)
    left[-1] = True
    network.masks.apply(keep)
    before, hidden = bits(network), network.masks.originals()
    with pytest.raises(SurgeryError):
        network.cut_masked(left)
    assert equal(before, bits(network))
    np.testing.assert_array_equal(network.masks.keep, keep)
    assert all(torch.equal(value, hidden[name]) for name, value in network.masks.originals().items())


@IN_EVERY_NETWORK
def test_cuts_taken_back_give_the_old_shapes_and_a_checkpoint_from_then_fits(name: str) -> None:
    network = live(name)
    saved = {key: value.clone() for key, value in network.model.state_dict().items()}
    attributes = {path: plain(module) for path, module in network.model.named_modules()}
    digest, parameters = network.anatomy.digest, list(network.model.parameters())
    for _ in range(2):
        network.masks.apply(some_units(network.anatomy, 4))
        network.cut_masked()
    assert any(network.model.state_dict()[key].shape != value.shape for key, value in saved.items())
    network.load({"changes": [change.record() for change in network.changes], "companions": 0})
    assert len(network.changes) == 2
    network.load({"changes": [], "companions": 0})
    assert network.changes == []
    network.model.load_state_dict(saved)
    assert network.anatomy.digest == digest
    assert {path: plain(module) for path, module in network.model.named_modules()} == attributes
    assert all(a is b for a, b in zip(parameters, network.model.parameters(), strict=True))
    for parameter, state in network.optimizer.state.items():
        assert state["exp_avg"].shape == parameter.shape
    train(network, NETWORKS[name][1], 2)


def plain(module: nn.Module) -> tuple[type[nn.Module], dict[str, object]]:
    """Class and simple attributes of a module."""
    simple: dict[str, object] = {
        k: v for k, v in vars(module).items() if isinstance(v, (int, float, str, tuple, type(None)))
    }
    return type(module), simple


def test_attributes_and_classes_follow_a_cut_of_heads_and_come_back() -> None:
    network = live("transformer")
    assert {g.kind for g in network.anatomy.groups} == {Kind.HEAD, Kind.CHANNEL}
    keep = np.ones(network.anatomy.num_units, np.bool_)
    for number, group in enumerate(network.anatomy.groups):
        if group.kind is Kind.HEAD:
            keep[network.anatomy.unit_slice(number).start] = False
    network.masks.apply(keep)
    network.cut_masked()
    model = network.model
    assert isinstance(model, Transformer)
    assert model.first.n_head == 3
    assert type(model.second) is not nn.MultiheadAttention
    network.load({"changes": [], "companions": 0})
    assert model.first.n_head == 4
    assert type(model.second) is nn.MultiheadAttention
    assert model.second.num_heads == 4
    assert model.second._qkv_same_embed_dim


@IN_EVERY_NETWORK
def test_recorded_cuts_are_made_again_in_a_fresh_network(name: str) -> None:
    network = live(name)
    for every in (3, 4):
        network.masks.apply(some_units(network.anatomy, every))
        network.cut_masked()
    records = [change.record() for change in network.changes]
    fresh = live(name, steps=0)
    fresh.load({"changes": records, "companions": 0})
    assert fresh.anatomy.digest == network.anatomy.digest
    fresh.model.load_state_dict(network.model.state_dict())
    x = NETWORKS[name][1](6, 9)[0]
    assert torch.equal(fresh.model.eval()(x), network.model.eval()(x))
    assert [change.record() for change in fresh.changes] == records


def test_cuts_of_another_network_are_refused_before_anything_changes() -> None:
    network = live("convolutional")
    network.masks.apply(some_units(network.anatomy, 3))
    network.cut_masked()
    other = live("transformer")
    before = bits(other)
    with pytest.raises(CheckpointError, match="not the one that the run started with"):
        other.load({"changes": [change.record() for change in network.changes], "companions": 0})
    assert equal(before, bits(other))
    assert other.masks.num_masked == 0


def test_groups_that_the_code_refuses_are_found_without_touching_the_network() -> None:
    torch.manual_seed(0)
    model = Transformer(FixedAttention)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classes = [plain(module) for module in model.modules()]
    random = torch.get_rng_state()
    network = LiveNetwork(model, optimizer, sequences(), F.cross_entropy)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [plain(module) for module in model.modules()] == classes
    assert model.training
    assert list(network.refused) == ["first.qkv"]
    assert "C // self.n_head" in network.refused["first.qkv"]
    allowed = network.cuttable_units()
    refused = network.anatomy.unit_slice(network.anatomy.group_named("first.qkv"))
    assert not allowed[refused].any()
    assert int((~allowed).sum()) == refused.stop - refused.start
    network.masks.apply(only(network.anatomy, refused.start))
    masked = bits(network)
    with pytest.raises(SurgeryError):
        network.cut_masked()
    assert equal(masked, bits(network))
    assert network.changes == []
    assert network.masks.num_masked == 1
    network.masks.unmask()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def only(anatomy: Anatomy, *units: int) -> BoolArray:
    """A mask that removes just these."""
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[list(units)] = False
    return keep


class Shy(nn.Module):
    """Can be traced at its first width only, although it computes the same at every other."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        if self.up.weight.shape[0] != 8 and float(x.sum()) > 1e9:
            x = x * 0
        logits: Tensor = self.down(torch.relu(self.up(x)))
        return logits


def test_a_cut_after_which_the_network_cannot_be_traced_is_undone() -> None:
    torch.manual_seed(0)
    model = Shy()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    batch = torch.randn(6, 4), torch.randint(0, 5, (6,))
    network = LiveNetwork(model, optimizer, batch, F.cross_entropy)
    train(network, lambda count, seed: batch, 2)
    network.masks.apply(only(network.anatomy, 1, 5))
    before = bits(network)
    with pytest.raises(SurgeryError, match="cannot be traced, so the cut was undone"):
        network.cut_masked()
    assert equal(before, bits(network))
    assert network.changes == []
    assert network.masks.num_masked == 2
    train(network, lambda count, seed: batch, 2)
    assert not model.up.weight.detach()[[1, 5]].count_nonzero()


class OneSize(nn.Module):
    """Works with batches of twelve samples and with no others."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.down(torch.relu(self.up(x)).view(12, -1))
        return logits


def test_a_network_with_one_batch_size_is_proven_on_that_size() -> None:
    torch.manual_seed(0)
    model = OneSize()
    batch = torch.randn(12, 4), torch.randint(0, 5, (12,))
    network = LiveNetwork(model, SGD(model.parameters(), 0.1), batch, F.cross_entropy)
    assert network.inputs.args[0].shape[0] == 12
    assert network.refused == {}
    network.masks.apply(only(network.anatomy, 2))
    network.cut_masked()
    assert model.up.weight.shape == (7, 4)


def test_the_original_is_the_network_from_before_the_first_cut() -> None:
    network = live("convolutional")
    for _ in range(2):
        network.masks.apply(some_units(network.anatomy, 4))
        network.cut_masked()
    assert network.original is not None
    first = sum(p.numel() for p in network.original.parameters())
    assert first == network.changes[0].before.parameters()
    assert first > sum(p.numel() for p in network.model.parameters())


def test_parameters_are_named_in_the_order_of_the_optimizer_state() -> None:
    torch.manual_seed(0)
    model = Tied()
    groups: list[dict[str, Any]] = [{"params": [model.shift]}, {"params": [model.embedding.weight, model.up]}]
    optimizer = SGD(groups, 0.1, momentum=0.9)
    network = LiveNetwork(model, optimizer, tokens(), F.cross_entropy)
    assert network.parameter_names() == ["shift", "embedding.weight", "up"]
    assert list(network.named_parameters()) == [name for name, _ in model.named_parameters()]
    network.masks.apply(some_units(network.anatomy, 3))
    network.renew_masks()
    assert network.masks.num_masked == 0
    network.detach()


def test_numbers_are_what_a_tracker_needs() -> None:
    network = live("convolutional")
    network.masks.apply(some_units(network.anatomy, 3))
    numbers: IntArray = network.cut_masked().numbers
    assert numbers.dtype == np.int64


def test_a_copy_in_which_tied_weights_are_apart_has_a_version_too() -> None:
    model, apart = Tied(), Tied()
    apart.head.weight = nn.Parameter(apart.head.weight.detach().clone())
    network = LiveNetwork(model, AdamW(model.parameters()), tokens(), F.cross_entropy, [apart])
    assert torch.equal(network.versions()[1]["up"], apart.up.detach())
