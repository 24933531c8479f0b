"""Losses in which the samples of a batch meet are known from the graph; others are not taken for such."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.graph import trace
from esper.anatomy.twin import Twin


class Pair(nn.Module):
    """Two views of every sample, each as a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.layer(a), dim=1), F.normalize(self.layer(b), dim=1)


class Neighbors(nn.Module):
    """One graph: features, and who is whose neighbor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return edges @ self.layer(x)  # type: ignore[no-any-return]


class Flat(nn.Module):
    """Asks for the number of samples by `len`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.view(len(x), -1))  # type: ignore[no-any-return]


class Many(nn.Module):
    """Works with six samples only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.view(6, 6))  # type: ignore[no-any-return]


class Kept(nn.Module):
    """Keeps the number of samples, and takes texts of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(9, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.embed(x[number]).mean(0) for number in range(x.shape[0])]
        return self.layer(torch.stack(parts))  # type: ignore[no-any-return]


Outputs = tuple[Tensor, Tensor]


def which_is_mine(output: Outputs, target: Tensor) -> Tensor:
    return F.cross_entropy(output[0] @ output[1].T, target)


def both_ways(output: Outputs, _: Tensor) -> Tensor:
    alike = output[0] @ output[1].T
    own = torch.arange(len(alike))
    return F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own)


def by_number(output: Outputs, _: Tensor) -> Tensor:
    alike = output[0] @ output[1].T
    return F.cross_entropy(alike, torch.tensor(list(range(alike.shape[0]))))  # the exporter keeps the number


def far_apart(output: Outputs, _: Tensor) -> Tensor:
    return -torch.cdist(output[0], output[1]).mean()


def in_two_halves(output: Outputs, _: Tensor) -> Tensor:
    """As where both views of a sample stand in one batch, one half behind the other."""
    one, other = output[0].chunk(2)
    return F.cross_entropy(one @ other.T, torch.arange(len(one)))


def at_risk(output: Outputs, _: Tensor) -> Tensor:
    risk = output[0].sum(1)
    return (risk.logcumsumexp(0) - risk).mean()


def overlap(output: Outputs, _: Tensor) -> Tensor:
    one, other = output[0].sigmoid(), output[1].sigmoid()
    return 1 - 2 * (one * other).sum() / (one + other).sum()


def one_by_one(output: Outputs, _: Tensor) -> Tensor:
    return F.mse_loss(output[0], output[1])


_RANDOM = torch.Generator().manual_seed(0)
VIEWS = (torch.randn(64, 5, generator=_RANDOM), torch.randn(64, 5, generator=_RANDOM))
OWN = torch.arange(64)


@pytest.mark.parametrize(
    ("loss", "meets", "takes_any"),
    [
        (which_is_mine, True, True),
        (both_ways, True, True),
        (by_number, True, False),  # so it is for the batch of the sample alone
        (far_apart, True, True),
        (overlap, False, True),  # a mean of those of parts, by how much each covers
        (one_by_one, False, True),
    ],
)
def test_a_similarity_within_a_batch_couples_its_samples(
    loss: Callable[[Outputs, Tensor], Tensor], meets: bool, takes_any: bool
) -> None:
    twin = Twin.from_bytes(Twin.of(trace(Pair(), (*VIEWS, OWN), loss)).to_bytes())
    assert twin.is_coupled is meets
    assert twin.is_batch_dynamic is takes_any
    assert twin.is_divisible is not meets
    assert twin.batch == (2 if takes_any and loss is not far_apart else 64)  # torch computes many otherwise


@pytest.mark.parametrize("loss", [in_two_halves, at_risk])
@pytest.mark.parametrize("spread", [1.0, 1e-3])  # an untrained network gives nearly the same for all samples
def test_a_loss_that_grows_with_the_number_of_samples_does(
    loss: Callable[[Outputs, Tensor], Tensor], spread: float
) -> None:
    model = Pair()
    model.layer.weight.data.mul_(spread)
    traced = trace(model, (*VIEWS, OWN), loss)
    assert (traced.is_coupled, traced.is_batch_dynamic) == (True, True)


def test_a_matrix_of_neighbors_does() -> None:
    traced = trace(Neighbors(), (torch.randn(6, 5), torch.eye(6), torch.randint(3, (6,))), F.cross_entropy)
    assert (traced.is_coupled, traced.is_batch_dynamic, traced.batch) == (True, False, 6)


@pytest.mark.parametrize(
    ("model", "sample"),
    [
        (Flat(), (torch.randn(6, 5, 2), torch.randint(4, (6,)))),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), (torch.randn(6, 1, 3, 3), torch.randint(4, (6,)))),
        (Many(), (torch.randn(6, 6), torch.randn(6, 4))),  # a square, and a target
        (nn.Linear(2, 2), (torch.randn(2, 2), torch.randint(2, (2,)))),  # as many of everything
    ],
)
def test_code_that_keeps_samples_apart_does_not(model: nn.Module, sample: tuple[Tensor, Tensor]) -> None:
    assert not trace(model, sample, F.cross_entropy).is_coupled


def test_texts_of_any_length_do_not_where_the_number_of_samples_is_kept() -> None:
    sample = torch.randint(9, (6, 7)), torch.randint(4, (6,))
    traced = trace(Kept(), sample, F.cross_entropy, free=frozenset({(0, 1)}))
    assert (traced.is_coupled, traced.is_batch_dynamic, traced.batch) == (False, False, 2)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: F.cross_entropy(x, y, torch.tensor([1.0, 2.0, 3.0, 4.0])),
        lambda x, y: F.cross_entropy(x, y, reduction="sum"),
        lambda x, y: F.cross_entropy(x, y, reduction="sum") + 100,  # whatever the samples
        lambda x, y: F.cross_entropy(x + torch.randn_like(x), y),  # more by chance
        lambda x, y: F.cross_entropy(x.view(64, 4), y),  # no other number of samples
    ],
)
def test_means_and_sums_over_samples_do_not(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    sample = torch.randn(64, 5, generator=_RANDOM), torch.tensor([0, 1, 2, 3, -100, 1, 2, 0]).repeat(8)
    assert not trace(nn.Linear(5, 4), sample, loss).is_coupled
