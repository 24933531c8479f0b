"""A network that reads in one direction goes on doing so, whatever grows on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina.seeds.growth import Growth
from esper.kasmina.seeds.order import one_way
from esper.nissa import ListSink

SAMPLES, LENGTH, WORDS = 6, 7, 11


class Text(nn.Module):
    """Reads tokens [samples, positions] and answers at each position."""

    def __init__(self, reads: str) -> None:
        super().__init__()
        self.reads = reads
        self.words, self.head = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)
        self.lstm = nn.LSTM(8, 8 if reads != "both" else 4, batch_first=True, bidirectional=reads == "both")
        self.mix = nn.Conv1d(8, 8, 3)
        self.place = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.words(x)
        if self.reads in ("before", "both"):
            h = self.lstm(h)[0]
        elif self.reads == "few before":  # a causal convolution, channels first
            h = self.mix(F.pad(h.transpose(1, 2), (2, 0))).transpose(1, 2)
        answer: Tensor = self.head(self.place(h))
        return answer


class Late(nn.Module):
    """Positions first: [positions, samples, features]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 8)
        self.place, self.head = nn.Identity(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.place(self.lstm(x)[0]))
        return answer


def tokens() -> Tensor:
    return torch.randint(0, WORDS, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("make", "inputs", "axes"),
    [
        (lambda: Text("before"), tokens, [1]),
        (lambda: Text("few before"), tokens, [1]),
        (lambda: Text("both"), tokens, []),
        (lambda: Text("none"), tokens, []),
        (Late, lambda: torch.randn(LENGTH, SAMPLES, 5), [0]),
        (lambda: nn.Conv2d(1, 2, 3, padding=1), lambda: torch.randn(SAMPLES, 1, 6, 6), []),
        (lambda: nn.Linear(4, 4), lambda: torch.randn(SAMPLES, 4), []),
        (lambda: Text("before"), lambda: tokens()[:1], [1]),  # no other sample to take values of
    ],
)
def test_a_direction_is_found_where_there_is_one(
    make: Callable[[], nn.Module], inputs: Callable[[], Tensor], axes: list[int]
) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), inputs()
    before = x.clone()
    with torch.no_grad():
        assert [found.axis for found in one_way(model, x)] == axes
    assert torch.equal(x, before)


class Picky(nn.Module):
    """Takes moments in their order only, and looks back."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.equal(x, x.sort(1).values):
            raise ValueError("not in order")
        return x.cumsum(1)


class Columns(nn.Module):
    """Takes a table whose columns have different vocabularies."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.ModuleList(nn.Embedding(size, 3) for size in (2, 50, 4))

    def forward(self, x: Tensor) -> Tensor:
        assert bool((x.amax(0) < torch.tensor([2, 50, 4])).all())
        return torch.stack([words(column) for words, column in zip(self.words, x.T, strict=True)], 1)


@torch.no_grad()
def test_a_network_is_only_shown_what_it_takes() -> None:
    x = torch.stack([torch.tensor([0, 1] * 3), torch.arange(44, 50), torch.tensor([3, 2, 1] * 2)], 1)
    seen: list[Tensor] = []
    model = Columns()
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert not one_way(model, x)
    assert all(bool((table.amax(0) < torch.tensor([2, 50, 4])).all()) for table in seen)
    assert len(seen) > 1
    moments = torch.tensor([[1.0, 2.0, 3.0, 4.0], [9.0, 10.0, 11.0, 12.0]])
    assert not one_way(Picky(), moments)


class Mean(nn.Module):
    """Adds a learned share of the mean over all positions; zero at birth."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.share = nn.Parameter(like.new_zeros(like.shape[-1]))

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean(1, keepdim=True) * self.share).expand_as(x)


def growth(model: nn.Module, x: Tensor, y: Tensor, *, reads_later: bool = False) -> Growth:
    return Growth(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        loss=lambda output, target: F.cross_entropy(output.flatten(0, 1), target.flatten()),
        probe=[(x, y)],
        blueprints={"mean": Mean},
        settings={"max_parameters": 99.0, "reads_later": reads_later},
        sink=ListSink(),
    )


@pytest.mark.parametrize("reads", ["before", "few before", "both"])
def test_a_seed_that_reads_later_positions_is_refused_where_none_does(reads: str) -> None:
    torch.manual_seed(0)
    model, x = Text(reads), tokens()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    growing = growth(model, x, x)
    tries: list[tuple[str, dict[str, Any], bool]] = [
        ("attention", {}, True),
        ("mean", {}, True),
        ("attention", {"causal": True}, False),
    ]
    for blueprint, options, is_late in tries:
        result = growing.germinate("place", blueprint, **options)
        assert result.passed == (reads == "both" or not is_late), blueprint
        assert ("no position reads later ones than before (attention: causal" in str(result)) != result.passed
        if result.passed:
            seed = growing.slots["place"].seed.seed
            assert not seed(torch.randn(2, LENGTH, 8)).any()  # what was tried is undone
            break
    growing.detach()
    growing.clear()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


def test_the_setting_lets_a_seed_read_what_it_likes() -> None:
    growing = growth(Text("before"), tokens(), tokens(), reads_later=True)
    assert growing.germinate("place", "attention").passed
    growing.detach()
