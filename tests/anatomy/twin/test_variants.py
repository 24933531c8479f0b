"""Variants of a network give what a whole run of the graph gives, whatever was run before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.structure import Anatomy
from esper.anatomy.twin import Twin, Variants, first_uses
from esper.anatomy.units import masked_axes, zero_masked
from tests.anatomy.twin.test_twin import made

MUCH = 1 << 20


class InPlace(nn.Module):
    """Writes into what it has computed, one time through a view, and adds it up around a block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.up, self.inner = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.down, self.head = nn.Conv2d(8, 6, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.norm(self.stem(x)))
        flat = x.flatten(2)
        y = self.down(F.relu_(self.inner(self.up(x))))
        flat.mul_(2.0)  # also what `x` holds
        logits: Tensor = self.head((x + y).mean((2, 3)))
        return logits


def case(model: nn.Module) -> tuple[Twin, Anatomy, dict[str, Tensor], tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    sample = torch.randn(8, 3, 6, 6), torch.randint(0, 5, (8,))
    return *made(model, sample, F.cross_entropy), sample


def without(anatomy: Anatomy, state: dict[str, Tensor], group: int, count: int) -> dict[str, Tensor]:
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[anatomy.unit_slice(group)][:count] = False
    axes = masked_axes(anatomy, keep)
    masked = {**state, **{name: state[name].clone() for name, _ in axes}}
    zero_masked(masked, axes)
    return masked


class Plain(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        logits: Tensor = self.head((x + self.down(F.relu(self.inner(self.up(x))))).mean((2, 3)))
        return logits


@pytest.mark.parametrize("model", [Plain, InPlace])
@pytest.mark.parametrize("most_bytes", [0, MUCH])
def test_every_variant_is_as_if_it_were_run_alone(model: type[nn.Module], most_bytes: int) -> None:
    twin, anatomy, state, sample = case(model())
    variants = Variants(twin, state, sample, most_bytes)
    usual, groups = twin.recalibrated(state, [sample]), range(len(anatomy.groups))
    for group, count in [*((g, n) for g in groups for n in (1, 2)), *((g, 2) for g in reversed(groups))]:
        masked = without(anatomy, state, group, count)
        assert variants.loss(masked) == float(twin.loss(masked, sample)[0])
        seen = variants.statistics(masked)
        moved, fresh = twin.with_statistics(masked, seen), twin.recalibrated(masked, [sample])
        for name in fresh:
            # What comes before the difference keeps the statistics that it had.
            unmoved = torch.equal(moved[name], masked[name]) and torch.equal(fresh[name], usual[name])
            assert unmoved or torch.equal(moved[name], fresh[name]), name
    assert variants.loss(state) == float(twin.loss(state, sample)[0])
    assert variants.statistics(state) == {}
    everywhere = twin.with_statistics(state, variants.usual)
    assert all(torch.equal(everywhere[name], value) for name, value in usual.items())


def test_what_is_shared_is_run_once() -> None:
    twin, anatomy, state, sample = case(Plain())
    last = without(anatomy, state, 1, 2)
    assert first_uses(twin)["stem.weight"] < first_uses(twin)["up.weight"] < first_uses(twin)["head.weight"]
    variants = Variants(twin, state, sample, MUCH)
    before = variants.loss(last)
    sample[0].zero_()  # the batch is not looked at again
    assert variants.loss(last) == before


def test_norms_that_stand_still_go_by_their_own_statistics_and_tell_those_of_the_batch() -> None:
    twin, anatomy, state, sample = case(Plain())
    masked = without(anatomy, state, 0, 2)
    still = Variants(twin, state, sample, MUCH, ["norm.running_mean"])
    first, second = still.statistics(masked).values()
    for variance in (4.0, 1.0):
        state["norm.running_var"].fill_(variance)
        later = list(Variants(twin, state, sample, MUCH, ["norm.running_mean"]).statistics(masked).values())
        assert torch.equal(later[0].mean, first.mean)
        assert torch.equal(later[1].mean, second.mean) == (variance == 1.0)


def test_no_state_is_written_to() -> None:
    twin, anatomy, state, sample = case(InPlace())
    masked = without(anatomy, state, 0, 3)
    copies = [{name: value.clone() for name, value in one.items()} for one in (state, masked)]
    variants = Variants(twin, state, sample, MUCH)
    variants.loss(masked)
    variants.statistics(masked)
    for one, copy in zip((state, masked), copies, strict=True):
        assert all(torch.equal(one[name], copy[name]) for name in one)
