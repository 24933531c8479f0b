"""Units that normalizations run over: frozen unless asked for, and proven by statistics of what is left."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from esper.anatomy.cut.live import cut
from esper.anatomy.cut.program import cut_program
from esper.anatomy.proof import Inputs
from esper.anatomy.structure import Anatomy, Kind
from esper.anatomy.units import inspect
from esper.arrays import BoolArray
from esper.errors import NotEquivalentError
from esper.leyline import decode, encode
from tests.anatomy.mixtures import CHOSEN, COUNTED, EXPERTS, ROUTED, Mixture, mixture

WIDTH, GONE = 16, (0, 3, 4, 9, 15)
STAYS = [n for n in range(WIDTH) if n not in GONE]


class ByHand(nn.Module):
    """A layer norm that is written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-5) * self.weight + self.bias


class Short(nn.Module):
    """An RMS norm that computes in float32, whatever it is given, as decoders do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        short = x.to(torch.float32)
        scale = torch.rsqrt(short.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * (short * scale).to(x.dtype)


class Stream(nn.Module):
    """A residual stream of width 16 under norms; inputs [B, 6], outputs [B, 5]."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 5)
        self.norms = nn.ModuleList(norm(WIDTH) for _ in range(2))
        self.up, self.down = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.down(F.gelu(self.up(self.norms[0](x))))
        left: Tensor = self.leave(self.norms[1](x))
        return left


NORMS: dict[str, type[nn.Module]] = {
    "layer norm": nn.LayerNorm,
    "rms norm": nn.RMSNorm,
    "written out": ByHand,
    "in float32": Short,
}


def stream(norm: str) -> Stream:
    torch.manual_seed(1)
    model = Stream(NORMS[norm])
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.3, 0.5)
    return model.eval()


def without(anatomy: Anatomy, group: str, gone: tuple[int, ...]) -> BoolArray:
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[anatomy.unit_slice(anatomy.group_named(group)).start + np.array(gone)] = False
    return keep


def by_hand(model: Stream) -> Stream:
    """The same network as a person would make it narrower: every tensor indexed."""
    small = copy.deepcopy(model)
    for name, parameter in small.named_parameters():
        for axis, size in enumerate(parameter.shape):
            if (size == WIDTH and not name.startswith("down.weight")) or (
                name == "down.weight" and axis == 0
            ):
                parameter.data = parameter.data.index_select(axis, torch.tensor(STAYS))
    for norm in small.norms:
        if isinstance(norm, (nn.LayerNorm, nn.RMSNorm)):
            norm.normalized_shape = (len(STAYS),)
    return small


def inputs(count: int = 4) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("norm", NORMS)
def test_the_width_of_a_stream_stays_unless_approximation_is_allowed(norm: str) -> None:
    model = stream(norm)
    exact, approximate = inspect(model, inputs()), inspect(model, inputs(), allow_approximate=True)
    assert [group.name for group in exact.groups] == ["up"]
    assert not exact.couplings
    assert {group.name: bool(group.coupling) for group in approximate.groups} == {"enter": True, "up": False}
    assert "statistic-coupled" in approximate.groups[0].coupling
    assert decode(Anatomy, encode(approximate)).digest == approximate.digest


@pytest.mark.parametrize("norm", NORMS)
def test_a_narrower_stream_is_the_network_that_a_person_would_write(norm: str) -> None:
    model, x = stream(norm), inputs()
    anatomy = inspect(model, x, allow_approximate=True)
    keep, expected = without(anatomy, "enter", GONE), by_hand(model)(x)
    before, optimizer = model(x), AdamW(model.parameters())
    model(x).sum().backward()
    optimizer.step()
    model.load_state_dict(stream(norm).state_dict())
    program = cut_program(model, anatomy, keep, Inputs((x,)))
    made = cut(model, anatomy, keep, Inputs((x,)), (optimizer,))
    assert model.enter.weight.shape == (len(STAYS), 6)
    assert optimizer.state[model.enter.weight]["exp_avg"].shape == (len(STAYS), 6)
    assert torch.allclose(model(x), expected, atol=1e-6)
    assert torch.allclose(program.program.module()(x), expected, atol=1e-6)
    assert made.equivalence.float64_error is not None
    assert made.equivalence.float64_error <= 1e-12
    assert made.equivalence.gradient_error is not None
    assert made.equivalence.approximation is not None
    assert made.equivalence.approximation > 0.01
    assert not torch.allclose(before, expected, atol=1e-2)  # something really went


def test_units_that_nothing_is_normalized_over_stay_exact_beside() -> None:
    model, x = stream("layer norm"), inputs()
    anatomy = inspect(model, x, allow_approximate=True)
    made = cut(model, anatomy, without(anatomy, "up", (1, 2, 20)), Inputs((x,)))
    assert made.equivalence.approximation is None
    assert made.equivalence.float64_error is not None
    assert made.equivalence.float64_error <= 1e-12


def test_an_approximate_cut_is_taken_back_exactly() -> None:
    model, x = stream("rms norm"), inputs()
    anatomy, before = inspect(model, x, allow_approximate=True), stream("rms norm").state_dict()
    made = cut(model, anatomy, without(anatomy, "enter", GONE), Inputs((x,)))
    made.undo(model)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in before.items()
    }


class Counted(nn.Module):
    """Divides by the width that it was built with, so a narrower one computes something else."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))
        self.scale = 1.0 / width

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.abs().mean(-1, keepdim=True) / self.scale + x.shape[-1]) * self.weight


def test_code_that_counts_its_width_otherwise_is_refused_untouched() -> None:
    torch.manual_seed(0)
    model, x = Stream(Counted), inputs()
    before = copy.deepcopy(model.state_dict())
    anatomy = inspect(model, x, allow_approximate=True)
    with pytest.raises(NotEquivalentError, match="nothing changed"):
        cut(model, anatomy, without(anatomy, "enter", GONE), Inputs((x,)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def experts_of(model: Mixture, x: Tensor) -> tuple[Anatomy, str]:
    anatomy = inspect(model, x, allow_approximate=True)
    return anatomy, next(group.name for group in anatomy.groups if group.kind is Kind.EXPERT)


def tokens() -> Tensor:
    return torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", ROUTED)
def test_whole_experts_go_and_tokens_find_the_others(kind: str) -> None:
    model, x = mixture(ROUTED[kind]), tokens()
    anatomy, name = experts_of(model, x)
    assert anatomy.groups[anatomy.group_named(name)].least == (1 if kind == "EveryExpert" else CHOSEN)
    keep = without(anatomy, name, (1, 4))
    small, stays = mixture(ROUTED[kind]), torch.tensor([0, 2, 3, 5])
    small.num_experts = len(stays)
    for tensor in (small.router.weight, small.up, small.down):
        tensor.data = tensor.data[stays]
    program = cut_program(model, anatomy, keep, Inputs((x,)))
    made = cut(model, anatomy, keep, Inputs((x,)))
    assert torch.allclose(model(x), small(x), atol=1e-6)
    assert torch.allclose(program.program.module()(x), small(x), atol=1e-6)
    assert made.equivalence.float64_error is not None
    assert made.equivalence.float64_error <= 1e-12
    assert model.up.shape[0] == EXPERTS - 2


def test_experts_stay_unless_approximation_is_allowed() -> None:
    model = mixture(ROUTED["EveryExpert"])
    assert not any(group.kind is Kind.EXPERT for group in inspect(model, tokens()).groups)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("Neighbors", "computes with numbers of experts"),
        ("Numbered", "reaches an output"),
        ("Reordered", "reaches an output"),
    ],
)
def test_experts_whose_numbers_mean_something_stay(kind: str, reason: str) -> None:
    anatomy = inspect(mixture(COUNTED[kind]), tokens(), allow_approximate=True)
    assert not any(group.kind is Kind.EXPERT for group in anatomy.groups)
    assert any(reason in axis.reason for axis in anatomy.frozen if axis.width == EXPERTS)
