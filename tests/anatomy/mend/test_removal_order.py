"""Units go in the order in which what reads them can make up for them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.graph import trace
from esper.anatomy.mend.readers import readers_of, watch
from esper.anatomy.mend.reconstruction import Reconstruction
from esper.anatomy.mend.removal_order import elimination
from esper.anatomy.structure import Anatomy
from esper.anatomy.twin import Twin
from esper.anatomy.units import anatomy_of
from esper.arrays import BoolArray, IntArray


class Bed:
    """A small network that was watched on 256 samples."""

    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        self.model, self.inputs = model.eval(), inputs
        self.batch = (inputs, torch.zeros(len(inputs), dtype=torch.long))
        traced = trace(model, self.batch, F.cross_entropy)
        self.twin, self.anatomy = Twin.of(traced), anatomy_of(traced, model)
        self.state = {n: p.detach() for n, p in (*model.named_parameters(), *model.named_buffers())}

    def order(self, group: int, count: int, keep: BoolArray | None = None) -> IntArray | None:
        anatomy: Anatomy = self.anatomy
        left = np.ones(anatomy.num_units, np.bool_) if keep is None else keep
        readers = readers_of(self.twin, anatomy, {info.name for info in anatomy.tensors})
        watch(self.twin, self.state, readers, [self.batch])
        return elimination(anatomy, group, self.state, readers, left, count)

    def error_without(self, units: IntArray) -> float:
        """Squared change of what the reader gives, when the others have taken over."""
        whole = np.ones(self.anatomy.num_units, np.bool_)
        keep = whole.copy()
        keep[units] = False
        changes = Reconstruction(self.twin, self.anatomy, self.state, whole, [self.batch]).changes(keep)
        state = {name: value + changes.get(name, 0.0) for name, value in self.state.items()}
        state["2.weight"][:, units] = 0.0
        with torch.no_grad():
            output: Tensor = torch.func.functional_call(self.model, state, (self.inputs,))
            return float((output - self.model(self.inputs)).square().mean())


def dense(seed: int) -> Bed:
    torch.manual_seed(seed)
    return Bed(nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 4)), torch.randn(256, 5))


def test_a_unit_that_another_one_doubles_goes_before_a_small_one() -> None:
    torch.manual_seed(0)
    bed = dense(0)
    with torch.no_grad():
        parameters = dict(bed.model.named_parameters())
        parameters["0.weight"][2], parameters["0.bias"][2] = (
            5.0 * parameters["0.weight"][7],
            5.0 * parameters["0.bias"][7],
        )
        parameters["2.weight"][:, 4] *= 0.5
    order = bed.order(0, 1)
    assert order is not None
    assert set(order) <= {2, 7}


def test_no_other_choice_of_two_loses_much_less() -> None:
    for seed in range(6):
        bed = dense(seed)
        order = bed.order(0, 2)
        assert order is not None
        every = [bed.error_without(np.array(pair)) for pair in combinations(range(9), 2)]
        assert bed.error_without(order) <= np.quantile(every, 0.1)


def test_what_is_gone_already_is_neither_ordered_nor_counted() -> None:
    bed = dense(1)
    keep = np.ones(9, np.bool_)
    keep[[0, 3]] = False
    order = bed.order(0, 6, keep)
    assert order is not None
    assert sorted(order) == sorted(set(order))
    assert not {0, 3} & set(order)
    assert len(order) == 6


def test_whole_heads_are_ordered() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, 4, 3)).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            out: Tensor = self.out(mixed).mean(1)
            return out

    torch.manual_seed(0)
    model = Attention()
    with torch.no_grad():
        model.out.weight[:, 3:6] *= 0.01
    bed = Bed(model, torch.randn(64, 7, 12))
    order = bed.order(0, 2)
    assert order is not None
    assert order[0] == 1


def test_a_reader_that_is_not_understood_gives_no_order() -> None:
    class ByHand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 9), nn.Parameter(torch.randn(9, 4))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.first(x)) @ self.second

    torch.manual_seed(0)
    assert Bed(ByHand(), torch.randn(32, 5)).order(0, 2) is None
