"""Residual blocks removed for real: equal to the network with the blocks at zero, or refused by name."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel

from esper.anatomy.cut.form import Form, Snapshot
from esper.anatomy.cut.layers.blocks import residual_blocks
from esper.anatomy.cut.layers.removed import RemovedModule
from esper.anatomy.proof import Inputs
from esper.errors import ConfigError, SurgeryError, UnknownPathError
from esper.leyline import decode, encode
from tests.anatomy.cutting import loss_of, probe_of, program_without, train_step, without
from tests.anatomy.networks import ZOO

KINDS = ["resnet8", "gpt", "mixer", "encoder", "llama"]


def outputs(model: nn.Module, probe: Inputs) -> list[Tensor]:
    with torch.no_grad():
        found = model(*probe.args, **probe.kwargs)
    leaves = found.values() if isinstance(found, dict) else found if isinstance(found, tuple) else [found]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.no_cover
def test_every_block_of_a_network_can_go_at_once(name: str) -> None:
    model, probe = ZOO[name].network(), probe_of(ZOO[name].input())
    blocks = residual_blocks(model, ZOO[name].input())
    made = without(model, [block.name for block in blocks], probe)
    assert made.equivalence.float64_error is not None
    assert made.equivalence.float64_error <= 1e-12
    assert made.equivalence.gradient_error is not None
    assert made.parameters_before - made.parameters_after == sum(block.parameters for block in blocks)
    assert made.leftover == ()
    assert not any(block.tensors[0] in model.state_dict() for block in blocks)
    train_step(model.train(), AdamW(model.parameters()), ZOO[name].input())


@pytest.mark.parametrize("name", ["resnet8", "convnext"])
@pytest.mark.no_cover
def test_a_program_without_its_blocks_holds_nothing_of_them(name: str) -> None:
    model, probe = ZOO[name].network().eval(), probe_of(ZOO[name].input())
    before = copy.deepcopy(model.state_dict())
    blocks = residual_blocks(model, ZOO[name].input())
    made = program_without(model, [block.name for block in blocks], probe)
    left = {id(p): p.numel() for p in made.module().parameters()}
    assert sum(left.values()) == sum(p.numel() for p in model.parameters()) - sum(
        block.parameters for block in blocks
    )
    assert not {t.removeprefix("model.") for t in made.state_dict} & {
        t for block in blocks for t in block.tensors
    }
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def removed(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, RemovedModule)]


class Layer(nn.Module):
    """Two blocks in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.mix = nn.LayerNorm(6), nn.Linear(6, 6)
        self.norm2 = nn.LayerNorm(6)
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def small() -> tuple[nn.Sequential, Tensor, Inputs]:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), Layer(), Layer(), nn.Linear(6, 3)), torch.randn(5, 4)
    return model, x, Inputs((x,))


def test_what_is_left_computes_as_if_the_block_gave_zero() -> None:
    model, _, probe = small()
    other = copy.deepcopy(model)
    other.get_submodule("2.mlp").register_forward_hook(lambda module, given, made: made * 0)
    expected = outputs(other, probe)
    made = without(model, ["2.mlp"], probe)
    assert removed(model) == ["2.norm2", "2.mlp"]
    for ours, theirs in zip(outputs(model, probe), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    again = without(model, ["1.mix"], probe)
    assert again.parameters_after < made.parameters_after == again.parameters_before


def test_a_program_and_the_live_network_agree() -> None:
    model, _, probe = small()
    names = ["1.mix", "2.mlp"]
    program = program_without(model, names, probe).module()
    without(model, names, probe)
    torch.testing.assert_close(program(*probe.args), outputs(model, probe)[0])


def test_a_layer_of_which_nothing_is_left_gives_its_input() -> None:
    model, _, probe = small()
    without(model, ["1", "2.mlp"], probe)
    assert removed(model) == ["1", "2.norm2", "2.mlp"]
    x = torch.randn(2, 6)
    assert model.get_submodule("1")(x) is x


def test_a_running_average_loses_the_same_blocks_and_a_schedule_goes_on() -> None:
    model, sample, probe = small()
    optimizer = AdamW(model.parameters(), lr=0.1)
    schedule = CosineAnnealingLR(optimizer, 10)
    average = AveragedModel(model)
    train_step(model, optimizer, sample)
    average.update_parameters(model)
    expected = copy.deepcopy(average.module)
    without(expected, ["1.mlp"], probe)
    without(model, ["1.mlp"], probe, (optimizer,), (average,))
    for ours, theirs in zip(outputs(average, probe), outputs(expected, probe), strict=True):
        assert torch.equal(ours, theirs)
    train_step(model, optimizer, sample)
    schedule.step()
    average.update_parameters(model)
    assert optimizer.param_groups[0]["lr"] < 0.1


def test_one_step_afterwards_is_the_step_of_the_network_with_the_block_at_zero() -> None:
    model, sample, probe = small()
    optimizer = AdamW(model.parameters(), lr=0.1)
    train_step(model, optimizer, sample)
    masked, masked_optimizer = copy.deepcopy((model, optimizer))
    masked.get_submodule("2.mlp").register_forward_hook(lambda module, given, made: made * 0)
    without(model, ["2.mlp"], probe, (optimizer,))
    for network, its in ((model, optimizer), (masked, masked_optimizer)):
        train_step(network, its, sample)
    theirs = dict(masked.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, theirs[name])


def test_what_fails_afterwards_takes_everything_back() -> None:
    model, sample, probe = small()
    optimizer, average = AdamW(model.parameters()), AveragedModel(model)
    train_step(model, optimizer, sample)
    before, state = outputs(model, probe), copy.deepcopy(optimizer.state_dict())

    def fail() -> None:
        assert removed(model) == ["1"]
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        without(model, ["1"], probe, (optimizer,), (average,), then=fail)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, probe), before, strict=True))
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)
    assert not any(isinstance(m, RemovedModule) for m in (*model.modules(), *average.modules()))


def test_an_optimizer_that_treats_all_parameters_as_one_is_refused() -> None:
    model, _, probe = small()
    with pytest.raises(SurgeryError, match="LBFGS keeps parameters in '_params'"):
        without(model, ["1"], probe, (LBFGS(model.parameters()),))
    assert not any(isinstance(m, RemovedModule) for m in model.modules())


def test_what_is_no_copy_is_refused() -> None:
    model, _, probe = small()
    with pytest.raises(SurgeryError, match="holds no copy of"):
        without(model, ["1"], probe, companions=(nn.Linear(2, 2),))
    with pytest.raises(SurgeryError, match=r"shares .* with the network itself"):
        without(model, ["1"], probe, companions=(nn.Sequential(model),))
    assert not any(isinstance(m, RemovedModule) for m in model.modules())


def test_a_fresh_network_takes_the_form_without_its_blocks() -> None:
    model, _, probe = small()
    fresh, before = copy.deepcopy(model), Snapshot.of(model)
    for parameter in fresh.parameters():
        nn.init.normal_(parameter)
    without(model, ["1.mix", "2"], probe)
    form = decode(Form, json.loads(json.dumps(encode(Form.between(before, model, [])))))
    form.shape(fresh, dict(model.state_dict()))
    assert torch.equal(outputs(fresh, probe)[0], outputs(model, probe)[0])
    assert fresh.state_dict().keys() == model.state_dict().keys()


def test_modules_stay_the_objects_that_they_are_and_the_optimizer_forgets_their_parameters() -> None:
    model, sample, probe = small()
    optimizer = AdamW(model.parameters())
    train_step(model, optimizer, sample)
    mlp = model.get_submodule("1.mlp")
    own = ("1.mlp.", "1.norm2.")
    kept = {id(p) for name, p in model.named_parameters() if not name.startswith(own)}
    without(model, ["1.mlp"], probe, (optimizer,))
    assert model.get_submodule("1.mlp") is mlp
    assert isinstance(mlp, RemovedModule)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == kept
    assert {id(p) for p in optimizer.state} == kept
    train_step(model, optimizer, sample)


class Peeks(nn.Module):
    """Its code looks into the block that could go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(x) * self.block.weight.shape[0]
        scores: Tensor = self.head(x)
        return scores


class Between(nn.Module):
    """Its block is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.weight = nn.Linear(4, 6), nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + torch.tanh(x @ self.weight)


class Offset(nn.Module):
    """What it adds to a module's output belongs to the block, and stays where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.scale = nn.Linear(4, 4), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.block(x) + self.scale)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


@pytest.mark.parametrize(
    ("build", "block", "told"),
    [
        (Peeks, "block", "cannot be removed from Peeks, whose code needs what would go"),
        (Between, "weight", "is computed by code between modules"),
        (Offset, "block", "differs from the masked one"),
    ],
)
def test_what_cannot_go_in_place_is_refused_untouched_and_goes_from_the_program(
    build: type[nn.Module], block: str, told: str
) -> None:
    torch.manual_seed(0)
    model, x = build(), torch.randn(5, 4)
    before, classes = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    assert [found.name for found in residual_blocks(model, x)] == [block]
    with pytest.raises(SurgeryError, match=told):
        without(model, [block], Inputs((x,)))
    assert [type(m) for m in model.modules()] == classes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    loss_of(model, x).backward()
    gone = set(residual_blocks(model, x)[0].tensors)
    program = program_without(model, [block], Inputs((x,)))
    assert not {name.removeprefix("model.") for name in program.state_dict} & gone


def test_an_unknown_block_is_refused_with_names_that_exist() -> None:
    model, _, probe = small()
    with pytest.raises(UnknownPathError, match=r"Blocks of this network: 1\.mix, 1\.mlp, 2"):
        without(model, ["7"], probe)
