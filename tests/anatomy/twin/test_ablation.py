"""The loss without each unit alone, of which nothing is computed twice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from esper.anatomy.graph import trace
from esper.anatomy.twin.ablation import Ablation
from esper.anatomy.twin.twin import Twin
from esper.anatomy.units import anatomy_of, masked_axes, zero_masked
from esper.errors import EvidenceError


class Padded(nn.Module):
    """Convolutions with strides, dilation and padding by name; the last reader reads four places of each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.second = nn.Conv2d(6, 5, 3, padding="same", dilation=2)
        self.third = nn.Conv2d(5, 4, 3, 2, 1)
        self.last = nn.Linear(4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x))))
        out: Tensor = self.last(F.relu(self.third(x)).flatten(1))
        return out


class Written(nn.Module):
    """Writes into what it has computed."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        hidden.relu_()
        out: Tensor = self.down(hidden)
        return out.add_(1.0)


class Remembers(nn.Module):
    """Recurrent layers that read each other and themselves inside one operator, and a cell by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gates = nn.Linear(3, 4), nn.LSTM(4, 5, num_layers=2, batch_first=True)
        self.packed = nn.GRU(5, 5, batch_first=True)
        self.both, self.cell = nn.GRU(5, 3, bidirectional=True, batch_first=True), nn.LSTMCell(6, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gates(F.relu(self.up(x)))
        lengths = torch.full((len(y),), 4)
        y, _ = pad_packed_sequence(
            self.packed(pack_padded_sequence(y, lengths, batch_first=True))[0], batch_first=True
        )
        state: tuple[Tensor, Tensor] | None = None
        for step in self.both(y)[0].unbind(1):
            state = self.cell(step, state)
        assert state is not None
        out: Tensor = self.last(state[0])
        return out


def images(seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(5, 3, 8, 8, generator=random), torch.randint(3, (5,), generator=random)


def rows(seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(5, 6, generator=random), torch.randint(3, (5,), generator=random)


def steps(seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(4, 6, 3, generator=random), torch.randint(3, (4,), generator=random)


@pytest.mark.parametrize(("build", "batch"), [(Padded, images), (Written, rows), (Remembers, steps)])
def test_every_batch_gives_the_loss_without_the_unit(
    build: Callable[[], nn.Module], batch: Callable[[int], tuple[Tensor, Tensor]]
) -> None:
    torch.manual_seed(0)
    model = build().eval()
    traced = trace(model, batch(0), F.cross_entropy)
    twin, anatomy = Twin.of(traced), anatomy_of(traced, model)
    state = {name: p.detach() for name, p in model.named_parameters()}
    copies = {name: tensor.clone() for name, tensor in state.items()}
    ablation = Ablation(twin, anatomy, np.arange(anatomy.num_units)[::-1])
    for seed in (1, 2):
        base, losses = ablation.losses(state, batch(seed))
        assert float(base) == pytest.approx(float(twin.loss(state, batch(seed))[0]), abs=1e-6)
        for unit, loss in enumerate(losses.flip(0).tolist()):
            keep = np.arange(anatomy.num_units) != unit
            masked = {name: tensor.clone() for name, tensor in state.items()}
            zero_masked(masked, masked_axes(anatomy, keep))
            assert loss == pytest.approx(float(twin.loss(masked, batch(seed))[0]), abs=1e-6)
    assert all(torch.equal(state[name], copy) for name, copy in copies.items())


def test_units_can_be_asked_in_any_number_and_twice() -> None:
    torch.manual_seed(0)
    model = Padded().eval()
    traced = trace(model, images(0), F.cross_entropy)
    twin, anatomy = Twin.of(traced), anatomy_of(traced, model)
    state = {name: p.detach() for name, p in model.named_parameters()}
    every = Ablation(twin, anatomy, np.arange(anatomy.num_units)).losses(state, images(1))[1]
    some = np.array([3, 9, 3])
    torch.testing.assert_close(Ablation(twin, anatomy, some).losses(state, images(1))[1], every[some])
    assert Ablation(twin, anatomy, np.zeros(0, np.int64)).losses(state, images(1))[1].shape == (0,)


def test_a_batch_of_another_size_is_refused() -> None:
    model = Padded().eval()
    traced = trace(model, images(0), F.cross_entropy)
    twin, anatomy = Twin.of(traced), anatomy_of(traced, model)
    state = {name: p.detach() for name, p in model.named_parameters()}
    with pytest.raises(EvidenceError, match="right for that size only"):
        Ablation(twin, anatomy, np.array([0])).losses(state, (torch.randn(5, 3, 9, 9), images(0)[1]))
