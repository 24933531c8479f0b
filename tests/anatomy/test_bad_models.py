"""Networks that ask for trouble: cut right, left whole for a stated reason, or refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.optim import SGD

from esper.anatomy.cut import Cut, cut
from esper.anatomy.proof import Inputs, difference, select
from esper.anatomy.structure import Anatomy
from esper.anatomy.units import inspect, masked_axes, zero_masked
from esper.arrays import BoolArray
from esper.errors import NotEquivalentError, SurgeryError, UntraceableError
from esper.kasmina import LiveNetwork
from tests.anatomy.cutting import half
from tests.anatomy.networks.troublesome import (
    Branches,
    Complex,
    CountsToATensor,
    Selects,
    Shares,
    SmallFloats,
    Sparse,
    WithIntegers,
    WritesInput,
    WritesPartOfInput,
    WritesPartOfView,
    WritesWholeView,
    everywhere,
    perceptron,
    quantized,
    unstructured,
    with_memories,
    with_own_tensor,
    x,
)


class Seen:
    """Everything that a refusal must not change."""

    def __init__(self, model: nn.Module, sample: Tensor) -> None:
        self.model, self.sample = model, sample
        self.tensors = dict(model.named_parameters(remove_duplicate=False))
        self.values = [tensor.clone() for tensor in (*model.state_dict().values(), sample)]

    def is_the_same(self) -> bool:
        now = dict(self.model.named_parameters(remove_duplicate=False))
        return all(now[name] is tensor for name, tensor in self.tensors.items()) and all(
            map(torch.equal, self.values, (*self.model.state_dict().values(), self.sample))
        )


def cut_in_half(model: nn.Module, sample: Tensor) -> tuple[Anatomy, BoolArray, Cut]:
    anatomy = inspect(model, sample)
    keep = half(anatomy)
    return anatomy, keep, cut(model, anatomy, keep, Inputs((sample,)))


RIGHT: dict[str, tuple[Callable[[], nn.Module], torch.dtype]] = {
    "writes into its input": (WritesInput, torch.float32),
    "writes into part of its input": (WritesPartOfInput, torch.float32),
    "writes into a view of everything": (WritesWholeView, torch.float32),
    "shared module": (Shares, torch.float32),
    "spectral_norm": (everywhere(parametrizations.spectral_norm), torch.float32),
    "weight_norm": (everywhere(parametrizations.weight_norm), torch.float32),
    "weight_norm over inputs": (everywhere(partial(parametrizations.weight_norm, dim=1)), torch.float32),
    "weight_norm over everything": (
        everywhere(partial(parametrizations.weight_norm, dim=-1)),
        torch.float32,
    ),
    "the old weight_norm": (everywhere(nn.utils.weight_norm), torch.float32),
    "bfloat16": (lambda: perceptron(dtype=torch.bfloat16), torch.bfloat16),
    "half": (lambda: perceptron(dtype=torch.half), torch.half),
    "double": (lambda: perceptron(dtype=torch.double), torch.double),
    "complex": (Complex, torch.float32),
    "integers": (WithIntegers, torch.float32),
    "what eval mode keeps": (with_memories, torch.float32),
    "float8": (SmallFloats, torch.float32),
    "torch's own pruning": (unstructured, torch.float32),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("name", RIGHT)
def test_a_network_that_is_unusual_is_cut_right(name: str) -> None:
    build, dtype = RIGHT[name]
    model, sample = build(), x().to(dtype)
    masked, before = build(), sample.clone()
    own = dict(model.named_parameters(remove_duplicate=False))
    anatomy, keep, made = cut_in_half(model, sample)
    assert anatomy.num_units > 0
    assert torch.equal(sample, before)
    assert made.parameters_after < made.parameters_before
    assert made.equivalence.float64_error is not None
    assert made.equivalence.gradient_error is not None
    assert all(p is own[n] for n, p in model.named_parameters(remove_duplicate=False))
    assert all(p.dtype == q.dtype for p, q in zip(model.parameters(), masked.parameters(), strict=True))
    zero_masked(dict(masked.named_parameters()), masked_axes(anatomy, keep))
    tolerance = {torch.bfloat16: 3e-2, torch.half: 4e-3}.get(dtype, 1e-5)
    assert difference(model(sample.clone()), masked(sample.clone())) <= tolerance
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model(sample.clone()).float().square().mean().backward()
    optimizer.step()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("build", [unstructured, everywhere(nn.utils.weight_norm)])
def test_a_network_that_keeps_weights_which_it_computed_can_be_attached(
    build: Callable[[], nn.Module],
) -> None:
    model, sample = build(), (x(), torch.zeros(6, dtype=torch.long))
    assert not LiveNetwork(model, SGD(model.parameters(), 0.1), sample, F.cross_entropy).refused


def test_torchs_own_pruning_can_be_made_permanent_after_a_cut() -> None:
    model, sample = unstructured(), x()
    cut_in_half(model, sample)
    expected = model(sample)
    for layer in (model.get_submodule("0"), model.get_submodule("2")):
        prune.remove(layer, "weight")
    assert torch.equal(model(sample), expected)
    assert model.get_parameter("0.weight").shape == (6, 8)


@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, parametrizations.spectral_norm])
def test_a_step_with_spectral_norm_is_the_step_of_the_masked_network(
    norm: Callable[[nn.Module], nn.Module],
) -> None:
    """Its power iteration runs in the forward pass; singular vectors of a masked weight are zero there."""
    model, sample = everywhere(norm)().double(), x().double()
    masked = copy.deepcopy(model)
    anatomy, keep, made = cut_in_half(model, sample)
    zero_masked(dict(masked.named_parameters()), masked_axes(anatomy, keep))
    for network in (model, masked):
        optimizer = SGD(network.parameters(), 0.1)
        network(sample).square().mean().backward()
        optimizer.step()
    expected = dict(masked.named_parameters())
    for name, parameter in model.named_parameters():
        assert difference(parameter, select(expected[name], made.kept.get(name, {}))) <= 1e-9, name


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_every_width_of_weight_normed_layers_is_as_free_as_a_plain_one(dim: int) -> None:
    normed = everywhere(partial(parametrizations.weight_norm, dim=dim))()
    assert inspect(normed, x()).num_units == inspect(perceptron(), x()).num_units


def test_a_network_that_computes_as_many_rows_as_the_data_says_has_units() -> None:
    assert inspect(Selects(), x()).num_units == 12


WHOLE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "orthogonal": (everywhere(parametrizations.orthogonal), "tril"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_network_without_units_says_which_operator_keeps_it_whole(name: str) -> None:
    build, operator = WHOLE[name]
    model, sample = build(), x()
    seen = Seen(model, sample)
    anatomy = inspect(model, sample)
    assert anatomy.num_units == 0
    assert any(operator in axis.reason for axis in anatomy.frozen)
    assert seen.is_the_same()


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "branches": (Branches, r"Branches\.forward \(line \d+ of .*troublesome\.py\).*torch\.where"),
    "counts": (
        CountsToATensor,
        r"CountsToATensor\.forward \(line \d+ of .*troublesome\.py\).*torch\.where",
    ),
    "sparse": (Sparse, r"weight is a sparse tensor \(sparse_coo\).*to_dense"),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(12), nn.Linear(12, 4)),
        r"0\.weight is not initialized.*model\(x\)",
    ),
    "own tensor": (with_own_tensor, "0.weight is a OwnTensor, whose layout Esper does not know"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_be_followed_is_refused_with_the_line_and_the_way_out(name: str) -> None:
    build, told = REFUSED[name]
    with pytest.raises(UntraceableError, match=told):
        inspect(build(), x())


@pytest.mark.filterwarnings("ignore")  # so does torch.jit
def test_scripted_modules_are_refused_as_such() -> None:
    model = nn.Sequential(torch.jit.script(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(UntraceableError, match=r"^0 is a TorchScript module.*made from"):
        inspect(model, torch.randn(2, 4))


@pytest.mark.filterwarnings("ignore")  # torch.ao says at every use that it is deprecated
def test_packed_quantized_weights_are_refused() -> None:
    with pytest.raises(UntraceableError, match=r"2 is a Linear with packed, quantized weights.*afterwards"):
        inspect(quantized(), x())


def test_code_that_writes_into_a_fixed_part_is_refused_and_nothing_changes() -> None:
    model, sample = WritesPartOfView(), x()
    anatomy, seen = inspect(model, sample), Seen(model, sample)
    with pytest.raises(NotEquivalentError):
        cut(model, anatomy, half(anatomy), Inputs((sample,)))
    assert seen.is_the_same()


def test_a_module_with_tensors_on_two_devices_is_refused_by_the_tensor() -> None:
    model, sample = Shares(), x()
    anatomy = inspect(model, sample)
    model.down.to("meta")
    with pytest.raises(SurgeryError, match=r"meta device.*down\.weight"):
        cut(model, anatomy, half(anatomy), Inputs((sample,)))
    assert model.up.weight.shape == (12, 8)
    with pytest.raises(UntraceableError, match=r"Shares\.forward .*line \d+.*device"):
        inspect(model, sample)


def test_a_network_without_values_is_inspected_but_not_cut() -> None:
    model, sample = perceptron(device="meta"), x().to("meta")
    anatomy = inspect(model, sample)
    assert anatomy.num_units == 22
    with pytest.raises(SurgeryError, match=r"6 tensor\(s\).*meta device.*0\.weight.*to_empty"):
        cut(model, anatomy, half(anatomy), Inputs((sample,)))
    assert model.get_parameter("0.weight").shape == (12, 8)


def test_a_training_run_of_a_network_that_writes_into_its_input_is_refused_with_the_line() -> None:
    sample = x(), torch.zeros(6, dtype=torch.long)
    for kind, line in ((WritesInput, r"troublesome\.py, line \d+"), (WritesPartOfInput, "line")):
        model = kind()
        seen = Seen(model, sample[0])
        with pytest.raises(UntraceableError, match=f"writes into its input .*{line}.*clone"):
            LiveNetwork(model, SGD(model.parameters(), 0.1), sample, F.cross_entropy)
        assert seen.is_the_same()


def test_a_refused_cut_leaves_a_shared_module_with_its_own_tensors() -> None:
    model, sample = Shares(), x()
    anatomy, seen = inspect(model, sample), Seen(model, sample)

    def refuse() -> None:
        raise SurgeryError("not today")

    with pytest.raises(SurgeryError, match="not today"):
        cut(model, anatomy, half(anatomy), Inputs((sample,)), then=refuse)
    assert seen.is_the_same()
    assert model.again is model.up
