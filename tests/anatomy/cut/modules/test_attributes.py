"""Attributes of modules that Esper does not know: followed where the proof says so, otherwise left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.anatomy import Kind
from esper.anatomy.cut.feasibility import refused_groups
from esper.anatomy.cut.live import cut
from esper.anatomy.proof import Inputs
from esper.anatomy.units import inspect
from esper.errors import NotEquivalentError
from tests.anatomy.cutting import anatomy_of, half, probe_of
from tests.anatomy.networks import ZOO


def test_sizes_that_code_repeats_follow_and_are_reported() -> None:
    model, anatomy = ZOO["slice-gate"].network(), anatomy_of("slice-gate")
    made = cut(model, anatomy, half(anatomy), probe_of(ZOO["slice-gate"].input()))
    assert made.rewritten == (".size = 6",)
    assert vars(model)["size"] == 6


class Split(nn.Module):
    """Keeps the sizes of a split in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [16, 16, 3]
        self.into, self.out = nn.Linear(8, 35), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right, gates = self.into(x).split(self.sizes, -1)
        out: Tensor = self.out(left * right.sigmoid() * gates.mean(-1, keepdim=True))
        return out


def test_sizes_in_a_list_follow() -> None:
    torch.manual_seed(0)
    model, x = Split(), torch.randn(3, 8)
    anatomy = inspect(model, x)
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[[1, 4, 5]] = False
    made = cut(model, anatomy, keep, Inputs((x,)))
    assert model.sizes == [13, 13, 3]
    assert made.rewritten == (".sizes = [13, 13, 3]",)
    assert made.equivalence.float64_error is not None


class Head(nn.Module):
    """Repeats its number of heads and its width, and a number that only looks like one of them."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.width, self.layers = heads, width, 4
        self.qkv, self.out = nn.Linear(32, 3 * width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, t, self.width)) * self.layers
        return out


def test_only_as_many_attributes_as_needed_are_rewritten() -> None:
    torch.manual_seed(0)
    model, x = Head(), torch.randn(2, 5, 32)
    anatomy = inspect(model, x)
    made = cut(model, anatomy, half(anatomy), Inputs((x,)))
    assert set(made.rewritten) == {".num_heads = 2", ".width = 16"}
    assert model.layers == 4


class Two(nn.Module):
    """Two modules of one class and of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = Head(32, 4), Head(48, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.one(x) + self.other(x)
        return out


def test_modules_of_one_class_follow_in_the_same_way_each_by_its_own_size() -> None:
    torch.manual_seed(0)
    model, x = Two(), torch.randn(2, 5, 32)
    anatomy = inspect(model, x)
    cut(model, anatomy, half(anatomy), Inputs((x,)))
    assert (model.one.num_heads, model.one.width) == (2, 16)
    assert (model.other.num_heads, model.other.width) == (4, 24)


class Reader(nn.Module):
    """Attention whose queries come from elsewhere, or from what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.query, self.keys, self.out = nn.Linear(12, 16), nn.Linear(12, 32), nn.Linear(16, 12)

    def forward(self, x: Tensor, query: Tensor) -> Tensor:
        keys, values = self.keys(x).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, keys, values))
        out: Tensor = self.out((q @ k.mT).softmax(-1).matmul(v).transpose(1, 2).flatten(2))
        return out


class Readers(nn.Module):
    """Two of one class; the queries of the first are a parameter of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.latents, self.last = nn.Parameter(torch.randn(1, 3, 16)), nn.Linear(12, 2)
        self.first, self.second = Reader(), Reader()

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x, self.latents.expand(len(x), -1, -1))
        out: Tensor = self.last(self.second(z, self.second.query(z)))
        return out


def test_modules_of_one_class_follow_different_tensors() -> None:
    torch.manual_seed(0)
    model, x = Readers(), torch.randn(2, 5, 12)
    anatomy = inspect(model, x)
    keep = np.ones(anatomy.num_units, np.bool_)
    for number, group in enumerate(anatomy.groups):
        if group.kind is Kind.HEAD:
            keep[anatomy.unit_slice(number)][:2] = False
    made = cut(model, anatomy, keep, Inputs((x,)))
    assert set(made.rewritten) == {"first.heads = 2", "second.heads = 2"}


class Part(nn.Module):
    """Gives fewer and longer rows, and no error, if its layer has become narrower."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.size = nn.Linear(6, 12), 12

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.up(x)).view(x.shape[0], -1, self.size)


class Whole(nn.Module):
    """Notices what its part does."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.down = Part(), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.part(x))
        return out


def test_a_part_that_runs_and_gives_a_wrong_size_is_found_though_another_one_raises() -> None:
    torch.manual_seed(0)
    model, x = Whole(), torch.randn(2, 4, 6)
    anatomy = inspect(model, x)
    assert cut(model, anatomy, half(anatomy), Inputs((x,))).rewritten == ("part.size = 6",)


def test_attributes_are_as_before_when_no_choice_of_them_helps() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.size = nn.Linear(4, 12), nn.Linear(12, 2), 12

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.first(x).view(-1, 3, 4).flatten(1))
            return out

    model, x = Constant(), torch.randn(2, 4)
    anatomy = inspect(model, x)
    keep = np.ones(anatomy.num_units, dtype=np.bool_)
    keep[0] = False
    with pytest.raises(NotEquivalentError, match="does not run at the new sizes"):
        cut(model, anatomy, keep, Inputs((x,)))
    assert model.size == 12
    assert model.first.out_features == 12


class WrongSizeError(Exception):
    """An error that nobody could expect."""


class Guarded(nn.Module):
    """Raises an error of its own kind at a size that it does not expect."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if y.shape[-1] != 12:
            raise WrongSizeError("twelve, please")
        out: Tensor = self.last(y)
        return out


def test_any_error_of_the_networks_own_code_is_an_answer() -> None:
    model, x = Guarded(), torch.randn(2, 4)
    anatomy = inspect(model, x)
    with pytest.raises(NotEquivalentError, match="twelve, please") as caught:
        cut(model, anatomy, half(anatomy), Inputs((x,)))
    assert isinstance(caught.value.__cause__, WrongSizeError)
    assert model.first.weight.shape == (12, 4)


def test_sizes_that_an_unflatten_spells_out_follow_each_at_its_own_place() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 32 * 4), nn.ReLU(), nn.Unflatten(1, (32, 2, 2)),
        nn.ConvTranspose2d(32, 16, 2, 2), nn.ReLU(), nn.ConvTranspose2d(16, 1, 2, 2),
    )  # fmt: skip
    x = torch.randn(3, 6)
    anatomy = inspect(model, x)
    made = cut(model, anatomy, half(anatomy), Inputs((x,)))
    assert made.rewritten == ("4.unflattened_size = (-1, 2, 2)",)
    assert model.get_parameter("5.weight").shape == (16, 8, 2, 2)
    assert refused_groups(model, inspect(model, x), Inputs((x,))) == {}
