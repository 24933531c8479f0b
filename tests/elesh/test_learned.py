"""What a network has learned from its inputs: on a plateau, later, and where that cannot be told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.batches import HeldOut
from esper.elesh.learned import Learned, learned
from tests.elesh.cases import examples, network, saved

SORTED = HeldOut(
    tuple((x[y == k][:16], y[y == k][:16]) for x, y in [examples(400, 7)] for k in range(4)),
    tuple(examples(40, 200 + n) for n in range(2)),
)
"""Calibration batches of one class each."""


class Constant(nn.Module):
    """Answers every sample alike, whatever its weights: they are multiplied by 0."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = network()
        self.last = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = self.last + 0.0 * self.inside(x)
        return moved


def test_a_trained_network_owes_much_of_its_loss_to_the_right_targets(tmp_path: Path) -> None:
    found = learned(saved(tmp_path, steps=60).case)
    assert found is not None
    assert found.rise > found.loss
    assert not found.is_less_than(0.5)


@pytest.mark.parametrize("held_out", [None, SORTED], ids=["mixed", "sorted"])
def test_one_that_answers_all_alike_owes_nothing_to_them(tmp_path: Path, held_out: HeldOut | None) -> None:
    found = learned(saved(tmp_path, build=Constant, held_out=held_out).case)
    assert found is not None
    assert found.rise == pytest.approx(0.0, abs=1e-6)
    assert found.is_less_than(1e-4)


def test_the_rise_is_that_of_exchanged_targets(tmp_path: Path) -> None:
    made = saved(tmp_path)
    first, second = made.held_out.calibration[:2]
    made = saved(tmp_path / "two", held_out=HeldOut((first, second), made.held_out.validation))
    found = learned(made.case)
    joined = [torch.cat([a, b]) for a, b in zip(first, second, strict=True)]
    with torch.no_grad():
        output = made.model(joined[0])
    own = float(F.cross_entropy(output, joined[1]))
    other = float(F.cross_entropy(output, joined[1].roll(len(output) // 2, 0)))
    assert found is not None
    assert found.loss == pytest.approx(own)
    assert found.rise == pytest.approx(other - own, abs=1e-6)


def critic(output: Tensor, target: Tensor) -> Tensor:
    """A loss of two parts, neither of which asks which target belongs to which input."""
    return target.double().mean() - output.mean()


def forgetful(output: Tensor, target: Tensor) -> Tensor:
    return output.square().mean()


@pytest.mark.parametrize("loss", [critic, forgetful])
def test_a_loss_that_asks_for_no_pairs_tells_nothing(
    tmp_path: Path, loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    assert learned(saved(tmp_path, loss=loss).case) is None


def test_samples_that_meet_in_the_loss_tell_nothing(tmp_path: Path) -> None:
    def similar(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output @ output.T, torch.arange(len(target)))

    assert learned(saved(tmp_path, loss=similar).case) is None


def test_the_share_is_counted_from_the_size_of_the_loss() -> None:
    assert Learned(2.0, 0.09).is_less_than(0.05)
    assert not Learned(2.0, 0.11).is_less_than(0.05)
    assert Learned(-2.0, 0.09).is_less_than(0.05)
    assert not Learned(0.0, 1e-9).is_less_than(0.05)
