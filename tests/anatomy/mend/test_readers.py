"""Which layers read units, what they are fed, and whether a constant costs them anything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.graph import trace
from esper.anatomy.mend.readers import Reader, readers_of, watch
from esper.anatomy.twin import Twin
from esper.anatomy.units import anatomy_of


class Images(nn.Module):
    """One convolution, as asked for, in the middle of a network."""

    def __init__(self, second: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.after = nn.Conv2d(3, 6, 1), second, after
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        out: Tensor = self.head(self.after(self.second(x)).mean((2, 3)))
        return out


def reader(second: nn.Module, after: nn.Module) -> tuple[Reader, Twin, Images]:
    model = Images(second, after).eval()
    sample = (torch.randn(4, 3, 8, 8), torch.randint(0, 5, (4,)))
    traced = trace(model, sample, F.cross_entropy)
    twin = Twin.of(traced)
    (found,) = readers_of(twin, anatomy_of(traced, model), {"second.weight"})
    return found, twin, model


@pytest.mark.parametrize(
    ("second", "after", "bias", "is_free"),
    [
        (nn.Conv2d(6, 4, 1), nn.ReLU(), "second.bias", True),
        (nn.Conv2d(6, 4, 1, bias=False), nn.ReLU(), None, False),
        (nn.Conv2d(6, 4, 3, bias=False), nn.BatchNorm2d(4), None, True),
        (nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), None, False),
        (nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), "second.bias", False),
        (nn.Conv2d(6, 4, 3, padding="same"), nn.ReLU(), "second.bias", False),
        (nn.Conv2d(6, 4, 3, padding="valid"), nn.ReLU(), "second.bias", True),
    ],
)
def test_a_constant_is_free_where_bias_or_norm_takes_it_and_no_border_is_padded(
    second: nn.Module, after: nn.Module, bias: str | None, is_free: bool
) -> None:
    found, _, _ = reader(second, after)
    assert (found.bias, found.is_constant_free) == (bias, is_free)


def test_moments_are_those_of_what_the_layer_is_fed() -> None:
    found, twin, model = reader(nn.Conv2d(6, 4, 1), nn.ReLU())
    x = torch.randn(4, 3, 8, 8)
    batches = [(x[:2], torch.zeros(2, dtype=torch.long)), (x[2:], torch.zeros(2, dtype=torch.long))]
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    watch(twin, state, [found], batches)
    rows = F.relu(model.first(x)).detach().movedim(1, -1).reshape(-1, 6).double()
    mean = found.seen.mean
    assert torch.allclose(mean, rows.mean(0), atol=1e-6)
    assert torch.allclose(found.seen.spread(mean), torch.cov(rows.T, correction=0), atol=1e-6)


def test_a_weight_that_serves_twice_has_no_bias_to_spare() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(F.relu(self.second(F.relu(self.first(x)))))
            return out

    model = Twice()
    traced = trace(model, (torch.randn(4, 4), torch.randn(4, 6)), F.mse_loss)
    (found,) = readers_of(Twin.of(traced), anatomy_of(traced, model), {"second.weight"})
    assert len(found.positions) == 2
    assert found.bias is None


def test_a_layer_that_reads_one_vector_of_the_networks_own_is_left_out() -> None:
    class OfCode(nn.Module):
        """Makes the weights of one layer by another one, from a code that it learns."""

        def __init__(self) -> None:
            super().__init__()
            self.code = nn.Parameter(torch.randn(3))
            self.maker, self.widen = nn.Linear(3, 5), nn.Linear(5, 8)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            made = self.widen(F.relu(self.maker(self.code)))
            out: Tensor = self.head(F.linear(x, made.view(4, 2)))
            return out

    traced = trace(model := OfCode(), (torch.randn(4, 2), torch.zeros(4, dtype=torch.long)), F.cross_entropy)
    found = readers_of(Twin.of(traced), anatomy_of(traced, model), {"widen.weight", "head.weight"})
    assert [one.weight for one in found] == ["head.weight"]


def test_a_layer_that_was_given_nothing_has_seen_nothing() -> None:
    found, _, model = reader(nn.Conv2d(6, 4, 1), nn.ReLU())
    found.look(torch.empty(0, 6, 8, 8))
    found.settle(model.second.weight)  # type: ignore[arg-type]
    assert not found.is_usable
