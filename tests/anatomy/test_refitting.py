"""Layers after a cut are fitted to what they gave before it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy import Anatomy, anatomy_of, masked_axes, reconstruction, trace, zero_masked
from esper.anatomy.refitting import refitted
from esper.anatomy.structure import BoolArray
from esper.anatomy.twin import Twin

Build = Callable[[], tuple[nn.Module, Tensor]]


def dense() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(24, 5)), torch.randn(512, 8)


def padded() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(12, 8, 1), nn.Flatten(), nn.Linear(128, 5)), torch.randn(
        256, 3, 8, 8
    )


def normed() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers = [nn.Conv1d(3, 12, 3), nn.ReLU(), nn.Conv1d(12, 12, 3, bias=False), nn.BatchNorm1d(12), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(96, 5)), torch.randn(256, 3, 12)


class Masked:
    """A network, some of its units masked and made up for."""

    def __init__(self, model: nn.Module, x: Tensor, share: float) -> None:
        self.model, self.x = model.eval(), x
        half = len(x) // 2
        target = torch.zeros(half, dtype=torch.long)
        traced = trace(model, (x[:half], target), F.cross_entropy)
        self.twin, self.anatomy = Twin.of(traced), anatomy_of(traced, model)
        self.before = {n: t.detach() for n, t in (*model.named_parameters(), *model.named_buffers())}
        anatomy: Anatomy = self.anatomy
        self.keep: BoolArray = np.ones(anatomy.num_units, np.bool_)
        for number, group in enumerate(anatomy.groups):
            self.keep[anatomy.unit_slice(number)][: int(share * group.width)] = False
        self.batches = [(part, target[: len(part)]) for part in x[:half].split(64)]
        whole = np.ones(anatomy.num_units, np.bool_)
        changes = reconstruction(self.twin, anatomy, self.before, whole, self.keep, self.batches)
        self.after = {n: t.clone() + changes.get(n, 0.0) for n, t in self.before.items()}
        zero_masked(self.after, masked_axes(anatomy, self.keep))

    def refitted(self, prior: float = 0.01) -> dict[str, Tensor]:
        return refitted(self.twin, self.anatomy, self.before, self.after, self.keep, self.batches, prior)

    def error(self, state: dict[str, Tensor]) -> float:
        """Change of the output on samples that nothing was fitted to."""
        x = self.x[len(self.x) // 2 :]
        with torch.no_grad():
            return float(
                (torch.func.functional_call(self.model, state, (x,)) - self.model(x)).square().mean()
            )


@pytest.mark.parametrize("build", [dense, padded, normed])
def test_the_output_comes_closer_than_by_reconstruction_alone(build: Build) -> None:
    case = Masked(*build(), share=0.4)
    assert case.error(case.refitted()) < 0.8 * case.error(case.after)


@pytest.mark.parametrize("build", [dense, padded, normed])
def test_what_is_masked_stays_zero(build: Build) -> None:
    case = Masked(*build(), share=0.4)
    found = case.refitted()
    for (name, axis), gone in masked_axes(case.anatomy, case.keep).items():
        assert not found[name].index_select(axis, torch.from_numpy(gone)).any(), name


def test_a_network_that_lost_nothing_is_left_alone() -> None:
    case = Masked(*dense(), share=0.0)
    found = case.refitted()
    assert all(found[name] is case.after[name] for name in case.after)


def test_a_strong_prior_keeps_the_weights() -> None:
    case = Masked(*dense(), share=0.4)
    found = case.refitted(prior=1e9)
    assert torch.allclose(found["4.weight"], case.after["4.weight"], atol=1e-5)
