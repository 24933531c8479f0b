"""Layers go from a live network together with units of what is left, and every mask and number follows."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW
from torch.optim.optimizer import Optimizer

from esper.arrays import BoolArray
from esper.errors import CheckpointError, SurgeryError
from esper.kasmina.changes import join
from esper.kasmina.network import LiveNetwork
from esper.kasmina.seeds import Recipe


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.down(torch.relu(self.up(x)))
        return made


class Stack(nn.Module):
    """Four blocks on a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.head(x)
        return logits


class Fixed(Stack):
    """Its own code reads the weight of the third block, so that block cannot become nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * block(self, 2).down.weight.shape[0]


class Closed(Stack):
    """Of two nested blocks only the outer one falls silent, and the inner one comes last in it."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(8, 4), nn.Linear(4, 8)
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = self.into(x)
        return super().forward(x + self.out(y + self.inner(y)))


class Flip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.flip(-1)


class Mirrored(Stack):
    """A stem whose channels a block ties together in pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.flip = nn.Linear(8, 8), Flip()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.flip(x)
        logits: Tensor = self.head(x)
        return logits


class TiedStack(Stack):
    def __init__(self) -> None:
        super().__init__()
        block(self, 2).down.weight = block(self, 0).down.weight


def block(model: nn.Module, number: int) -> Block:
    found = model.get_submodule(f"blocks.{number}")
    assert isinstance(found, Block)
    return found


def batch(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 8, generator=random), torch.randint(0, 3, (count,), generator=random)


def live(
    optimizer: Callable[[nn.Module], Optimizer] = lambda m: AdamW(m.parameters(), 0.01),
    build: type[Stack] = Stack,
) -> LiveNetwork:
    torch.manual_seed(0)
    model = build()
    return LiveNetwork(model, optimizer(model), batch(), F.cross_entropy, layers=True)


def train(network: LiveNetwork, steps: int = 2) -> None:
    for step in range(steps):
        x, y = batch(6, step)
        network.optimizer.zero_grad()
        F.cross_entropy(network.model(x), y).backward()
        network.optimizer.step()


def removing(network: LiveNetwork, *layers: int, channels: dict[int, int] | None = None) -> BoolArray:
    """A mask without these blocks, and without the first so-many channels of others."""
    anatomy = network.anatomy
    keep = np.ones(anatomy.num_units, np.bool_)
    for layer in layers:
        keep[anatomy.unit_slice(anatomy.group_named(f"layer:blocks.{layer}.down"))] = False
    for number, count in (channels or {}).items():
        keep[anatomy.unit_slice(anatomy.group_named(f"blocks.{number}.up"))][:count] = False
    return keep


def outputs(network: LiveNetwork) -> Tensor:
    with torch.no_grad():
        result: Tensor = network.model(batch(9, 7)[0])
    return result


def test_a_masked_layer_adds_nothing_stays_zero_and_comes_back_exactly() -> None:
    network = live()
    train(network)
    before = copy.deepcopy(network.model.state_dict())
    network.masks.apply(removing(network, 1))
    train(network)
    assert not network.masks.num_revived()
    x = batch()[0]
    assert not block(network.model, 1)(x).any()
    network.masks.unmask()
    after = network.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("blocks.1."))


@pytest.mark.parametrize("channels", [{}, {0: 3, 3: 5}, {1: 4}], ids=["alone", "others too", "inside"])
def test_what_is_left_computes_what_the_masked_network_computed(channels: dict[int, int]) -> None:
    network = live()
    train(network)
    network.masks.apply(removing(network, 1, channels=channels))
    expected = outputs(network)
    change = network.cut_masked()
    made, numbers = change.cut, change.numbers
    assert torch.allclose(outputs(network), expected, atol=1e-6)
    assert made.parameters_after == sum(p.numel() for p in network.model.parameters())
    trained = {p for group in network.optimizer.param_groups for p in group["params"]}
    assert trained == set(network.model.parameters())
    kept = numbers[numbers >= 0]
    assert sorted(kept.tolist()) == list(range(network.anatomy.num_units))
    train(network)


def test_units_of_other_layers_are_found_again_by_their_new_numbers() -> None:
    network = live()
    rows = {n: block(network.model, n).up.bias.detach().clone() for n in (0, 2, 3)}
    before = network.anatomy
    network.masks.apply(removing(network, 1, channels={2: 4}))
    numbers = network.cut_masked().numbers
    after = network.anatomy
    for number, bias in rows.items():
        old = before.unit_slice(before.group_named(f"blocks.{number}.up"))
        new = after.unit_slice(after.group_named(f"blocks.{number}.up"))
        left = [unit for unit in range(old.start, old.stop) if numbers[unit] >= 0]
        assert [numbers[unit] - new.start for unit in left] == list(range(new.stop - new.start))
        now = block(network.model, number).up.bias.detach()
        assert torch.equal(now, bias[[unit - old.start for unit in left]])
    assert (numbers[before.unit_slice(before.group_named("blocks.1.up"))] == -1).all()


def test_what_stays_masked_stays_masked_also_a_layer() -> None:
    network = live()
    keep = removing(network, 1, 2, channels={3: 2})
    network.masks.apply(keep)
    left = np.ones_like(keep)
    left[network.anatomy.unit_slice(network.anatomy.group_named("layer:blocks.1.down"))] = False
    network.cut_masked(left)
    assert np.array_equal(network.masks.keep, removing(network, 2, channels={3: 2}))
    assert not network.masks.num_revived()


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_removal_is_taken_back_also_after_the_optimizer_was_loaded_anew(kind: str) -> None:
    kinds: dict[str, Callable[[nn.Module], Optimizer]] = {
        "adamw": lambda m: AdamW(m.parameters(), 0.01),
        "sgd": lambda m: SGD(m.parameters(), 0.01, momentum=0.9),
    }
    network = live(kinds[kind])
    train(network)
    model, optimizer = copy.deepcopy((network.model.state_dict(), network.optimizer.state_dict()))
    expected, digest = outputs(network), network.anatomy.digest
    network.masks.apply(removing(network, 1, channels={0: 3}))
    network.cut_masked()
    network.masks.apply(removing(network, 2))
    network.cut_masked()
    network.optimizer.load_state_dict(copy.deepcopy(network.optimizer.state_dict()))
    network.load({"changes": [], "companions": 0})
    network.model.load_state_dict(model)
    network.optimizer.load_state_dict(optimizer)
    assert network.anatomy.digest == digest
    assert torch.equal(outputs(network), expected)
    train(network)
    assert all(parameter in network.optimizer.state for parameter in network.model.parameters())


def test_recorded_cuts_are_made_again_in_a_fresh_network() -> None:
    network = live()
    network.masks.apply(removing(network, 1, channels={0: 3}))
    network.cut_masked()
    records = [change.record() for change in network.changes]
    fresh = live()
    fresh.load({"changes": records, "companions": 0})
    assert fresh.anatomy.digest == network.anatomy.digest
    fresh.model.load_state_dict(network.model.state_dict())
    assert torch.equal(outputs(fresh), outputs(network))
    (known,) = fresh.changes
    numbers = range(known.before.num_units)
    assert {*records[0]["removed"], *records[0]["inside"]} == {n for n in numbers if known.numbers[n] < 0}
    fresh.load({"changes": [{**records[0], "removed": [0, 1]}], "companions": 0})
    assert fresh.changes != [known]
    fresh.load({"changes": records, "companions": 0})
    (known,) = fresh.changes
    older = {name: value for name, value in records[0].items() if name != "inside"}
    fresh.load({"changes": [older], "companions": 0})
    assert fresh.changes == [known]  # not made again
    model = Stack()
    plain = LiveNetwork(model, AdamW(model.parameters()), batch(), F.cross_entropy)
    with pytest.raises(CheckpointError, match="not the one that the run started with"):
        plain.load({"changes": records, "companions": 0})


def test_a_layer_whose_absence_the_code_does_not_bear_is_refused_by_name() -> None:
    network = live(build=Fixed)
    assert list(network.refused) == ["layer:blocks.2.down"]
    free = network.cuttable_units()
    assert not free[network.anatomy.unit_slice(network.anatomy.group_named("layer:blocks.2.down"))].any()
    keep = removing(network, 2, channels={0: 3})
    network.masks.apply(keep)
    expected = copy.deepcopy(network.model.state_dict())
    with pytest.raises(SurgeryError):
        network.cut_masked()
    assert np.array_equal(network.masks.keep, keep)
    now = network.model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in expected.items())
    assert not network.changes


def test_units_inside_of_a_masked_layer_are_not_offered_again() -> None:
    network = live()
    network.masks.apply(removing(network, 1))
    free = network.cuttable_units()
    assert not free[network.anatomy.unit_slice(network.anatomy.group_named("blocks.1.up"))].any()
    assert free[network.anatomy.unit_slice(network.anatomy.group_named("blocks.0.up"))].all()


def test_of_nested_blocks_the_one_that_was_masked_goes() -> None:
    network = live(build=Closed)
    keep = np.ones(network.anatomy.num_units, np.bool_)
    keep[network.anatomy.unit_slice(network.anatomy.group_named("layer:out"))] = False
    network.masks.apply(keep)
    expected = outputs(network)
    network.cut_masked()
    assert torch.allclose(outputs(network), expected, atol=1e-6)
    left = {name.partition(".")[0] for name, _ in network.model.named_parameters()}
    assert left == {"blocks", "head"}


def test_units_that_come_apart_when_a_layer_goes_stay_masked_in_all_parts() -> None:
    network = live(build=Mirrored)
    anatomy = network.anatomy
    stem = anatomy.unit_slice(anatomy.group_named("stem"))
    layer = anatomy.unit_slice(anatomy.group_named("layer:flip.scale"))
    assert stem.stop - stem.start == 4
    keep, left = np.ones((2, anatomy.num_units), np.bool_)
    keep[[stem.start, layer.start]] = False
    left[layer] = False
    network.masks.apply(keep)
    expected = outputs(network)
    network.cut_masked(left)
    assert torch.allclose(outputs(network), expected, atol=1e-6)
    assert network.masks.num_masked == 2
    train(network)
    assert not network.masks.num_revived()


def test_a_layer_that_shares_weights_with_another_is_refused_by_name() -> None:
    network = live(build=TiedStack)
    assert list(network.refused) == ["layer:blocks.0.up"]
    assert "tied to a weight of a block that would go" in network.refused["layer:blocks.0.up"]
    keep = np.ones(network.anatomy.num_units, np.bool_)
    keep[network.anatomy.unit_slice(network.anatomy.group_named("layer:blocks.2.up"))] = False
    network.masks.apply(keep)
    expected = outputs(network)
    network.cut_masked()
    assert torch.allclose(outputs(network), expected, atol=1e-6)


class Basic(nn.Module):
    """As in a ResNet: norms, and an activation after the sum; wider inside than its stream."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(6, inside, 3, padding=1, bias=False), nn.BatchNorm2d(inside)
        self.conv2, self.norm2 = nn.Conv2d(inside, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        made = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(x + made)


def test_the_stream_of_a_resnet_can_be_cut_with_a_layer_and_after_it() -> None:
    torch.manual_seed(0)
    blocks = Basic(9), Basic(6), Basic(9)
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), *blocks, *ends)
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sample = images, torch.arange(6) % 3
    network = LiveNetwork(model, AdamW(model.parameters()), sample, F.cross_entropy, layers=True)
    assert not network.refused
    for layer, channel in (("layer:1.conv2", 0), ("layer:2.conv2", 2)):
        anatomy = network.anatomy
        keep = np.ones(anatomy.num_units, np.bool_)
        keep[anatomy.offsets[anatomy.group_named(layer)]] = False
        keep[anatomy.offsets[anatomy.group_named("0")] + channel] = False
        network.masks.apply(keep)
        model.eval()
        with torch.no_grad():
            expected = model(images)
            network.cut_masked()
            torch.testing.assert_close(model(images), expected)
        model.train()
    assert dict(model.named_parameters())["0.weight"].shape[0] == 4


def test_records_of_seeds_that_were_noted_with_the_network_they_all_led_to_are_read() -> None:
    def live() -> LiveNetwork:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Tanh(), nn.Linear(8, 3))
        return LiveNetwork(model, AdamW(model.parameters(), 0.01), batch(), F.cross_entropy)

    recipes = [Recipe(str(place), 1, "mlp", {"width": 3}, (6, 8)) for place in range(3)]
    old, made = live(), live()
    for recipe in recipes:  # as Esper did it at first
        recipe.graft(old.model, {}, old.optimizer)
    for recipe in recipes:
        join(old, recipe)
        recipe.graft(made.model, {}, made.optimizer)
        join(made, recipe)
    written = old.state()
    first, *others = [record["anatomy"] for record in written["changes"]]
    assert others == [old.anatomy.digest] * 2 != [first] * 2
    fresh = live()
    fresh.check(written)
    fresh.load(written)
    assert fresh.state() == made.state() != written  # and notes it as it is
    assert fresh.parameter_names() == old.parameter_names()
    fresh.load({**written, "changes": written["changes"][:0]})
    assert fresh.anatomy.digest == first
    lacking = written["changes"][:2]
    with pytest.raises(CheckpointError, match="not the one"):
        fresh.load({**written, "changes": lacking})
