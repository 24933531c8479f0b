"""Cutting as a program: networks of every kind, and those whose own code refuses any other size."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.archive import read_module, write_program
from esper.anatomy.cut.live import cut
from esper.anatomy.cut.program import cut_program
from esper.anatomy.cut.result import Cut
from esper.anatomy.proof import Inputs
from esper.anatomy.structure import Anatomy
from esper.anatomy.twin import deployed, plain
from esper.anatomy.units import inspect
from esper.errors import CheckpointCorrupt, MaskError, NotEquivalentError, SurgeryError
from tests.anatomy.cutting import anatomy_of, half, probe_of
from tests.anatomy.networks import ZOO

KINDS = [
    "resnet8",
    "depthwise-multiplier",
    "shufflenet",
    "group-norm-without-weights",
    "slice-gate",
    "vit",
    "windows",
    "cross-attention",
    "encoder-norm-first",
    "llama",
    "gpt2",
    "gated-cells",
    "gru",
    "lstm",
    "cells",
]


class Stubborn(nn.Module):
    """Attention and a gated layer whose code repeats every size as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.fc, self.proj = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        parts = self.qkv(self.norm(x)).split([32, 32, 32], -1)
        q, k, v = (t.view(batch, length, 8, 4).transpose(1, 2).reshape(batch * 8, length, 4) for t in parts)
        a = (q @ k.transpose(1, 2) * 0.5).softmax(-1) @ v
        x = x + self.out(a.view(batch, 8, length, 4).transpose(1, 2).reshape(batch, length, 32))
        h = self.fc(x)
        h = torch.cat([F.gelu(h[..., :40]), F.silu(h[..., 40:])], -1).view(batch, length, 4, 16).flatten(2)
        scores: Tensor = self.head(x + self.proj(h)).mean(1)
        return scores


def stubborn() -> tuple[nn.Module, Tensor, Anatomy]:
    torch.manual_seed(0)
    network, x = Stubborn(), torch.randn(6, 10, 32)
    return network, x, inspect(network, x)


@dataclass(frozen=True)
class Made:
    """A program that was cut, what it was cut from, and what that was before."""

    network: nn.Module
    x: Tensor
    anatomy: Anatomy
    cut: Cut
    before: dict[str, Tensor]
    random: tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def made() -> Made:
    network, x, anatomy = stubborn()
    network.train()
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    done = cut_program(network, anatomy, half(anatomy), Inputs((x,)))
    return Made(network, x, anatomy, done, before, (random, torch.get_rng_state()))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.no_cover
def test_half_of_a_network_is_cut_as_a_program_and_proven_equal(name: str) -> None:
    network, anatomy = ZOO[name].network(), anatomy_of(name)
    keep = half(anatomy)
    done = cut_program(network, anatomy, keep, probe_of(ZOO[name].input()))
    assert done.equivalence.float64_error is not None
    assert done.equivalence.float64_error <= 1e-12
    assert done.equivalence.float32_error <= 1e-5
    sizes = {id(t): t.numel() for t in done.program.module().parameters()}
    assert sum(sizes.values()) <= anatomy.parameters(keep)


def test_a_network_that_refuses_other_sizes_is_cut_as_a_program_all_the_same(made: Made) -> None:
    with pytest.raises(SurgeryError):
        cut(copy.deepcopy(made.network), made.anatomy, half(made.anatomy), Inputs((made.x,)))
    module = made.cut.program.module()
    assert sum(p.numel() for p in module.parameters()) == made.anatomy.parameters(half(made.anatomy))
    assert {"split_with_sizes", "slice_1", "view"} <= set(made.cut.rewritten)


def test_the_cut_program_takes_any_batch_size(made: Made) -> None:
    module = made.cut.program.module()
    assert [tuple(module(torch.randn(n, 10, 32)).shape) for n in (1, 2, 7)] == [(1, 5), (2, 5), (7, 5)]


def test_the_network_itself_is_left_untouched(made: Made) -> None:
    assert made.network.training
    assert torch.equal(*made.random)
    after = made.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in made.before.items())


def test_what_a_slice_picks_unevenly_is_refused() -> None:
    class EverySecond(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            scores: Tensor = self.c(h) + F.linear(h[:, ::2], self.b.weight, self.b.bias)
            return scores

    network, x = EverySecond(), torch.randn(3, 4)
    anatomy = inspect(network, x)
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[1] = False  # the first of those that the slice leaves out lies between two that it picks
    with pytest.raises(SurgeryError, match="unevenly left"):
        cut_program(network, anatomy, keep, Inputs((x,)))


def test_a_mask_of_another_network_is_refused() -> None:
    network, x, anatomy = stubborn()
    with pytest.raises(MaskError):
        cut_program(network, anatomy, np.ones(3, np.bool_), Inputs((x,)))
    other = anatomy_of("plain")
    with pytest.raises(SurgeryError):
        cut_program(network, other, half(other), Inputs((x,)))


def test_a_process_with_torch_alone_runs_the_cut_program(made: Made, tmp_path: Path) -> None:
    (tmp_path / "network.pt2").write_bytes(write_program(made.cut.program))
    save_file({"x": made.x, "y": made.cut.program.module()(made.x)}, tmp_path / "data.safetensors")
    code = (
        "import sys, torch; from safetensors.torch import load_file\n"
        "d = load_file('data.safetensors'); y = torch.export.load('network.pt2').module()(d['x'])\n"
        "known = [n for n in ('esper', 'tests') if n in sys.modules]\n"
        "print(known, bool(torch.equal(y, d['y'])))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "[] True"


def test_an_archive_holds_nothing_that_needs_pickle() -> None:
    network = nn.Linear(3, 2)
    data = write_program(deployed(network, (torch.randn(2, 3),), {}))
    assert torch.equal(read_module(data)(torch.ones(4, 3)), network(torch.ones(4, 3)))
    with pytest.raises(CheckpointCorrupt):
        read_module(b"nothing of the kind")


def test_outputs_become_plain() -> None:
    class Odd:
        pass

    output = plain({"a": (torch.ones(1), [2.0]), "cache": Odd(), "none": None})
    assert list(output) == ["a"]
    assert output["a"][1] == [2.0]


def test_a_program_that_is_random_is_told_of_that_and_not_of_its_units() -> None:
    class AlwaysDropped(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = F.dropout(super().forward(x), 0.5, training=True)  # type: ignore[no-untyped-call]
            return out

    torch.manual_seed(0)
    model, x = AlwaysDropped(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(64, 8)
    model.insert(2, AlwaysDropped(nn.Linear(16, 12), nn.ReLU()))
    model[3] = nn.Linear(12, 4)
    anatomy = inspect(model, x)
    with pytest.raises(NotEquivalentError, match="The network is random even in eval mode"):
        cut_program(model, anatomy, half(anatomy), Inputs((x,)))
