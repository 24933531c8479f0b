"""Batches in all the shapes that data loaders give them, and networks that take them in several ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from esper.anatomy.graph import trace
from esper.anatomy.twin import Twin
from esper.batches import plain, split_sample, target_of


class Takes(nn.Module):
    """A network with the forward pass of a function."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = forward


ONE = Takes(lambda x: x)
TWO = Takes(lambda a, b: a + b)
A = Takes(lambda a, y=None: a)
NAMED = Takes(lambda a, y: a)
ANY = Takes(lambda *args, **kwargs: args)


@pytest.mark.parametrize(
    ("model", "sample", "args", "kwargs", "target"),
    [
        (ONE, (1, 2), (1,), {}, 2),
        (TWO, (1, 2, 3), (1, 2), {}, 3),
        (TWO, ({"a": 1, "b": 3}, 2), (), {"a": 1, "b": 3}, 2),
        (ONE, ({"a": 1, "b": 3}, 2), ({"a": 1, "b": 3},), {}, 2),
        (ONE, (({"a": 1, "b": 3},), 2), ({"a": 1, "b": 3},), {}, 2),
        (ONE, {"x": 1, "labels": 2}, (), {"x": 1}, 2),
        (ONE, {"x": 1, "label": 2}, (), {"x": 1}, 2),
        (ONE, {"a": 1, "y": 2}, ({"a": 1, "y": 2},), {}, 2),
        (ONE, {"a": 1, "b": 2}, ({"a": 1, "b": 2},), {}, None),
        (ANY, {"a": 1, "target": 2}, (), {"a": 1}, 2),
        (ANY, {"a": 1, "y": 2}, (), {"a": 1, "y": 2}, None),
        (NAMED, {"a": 1, "y": 2}, (), {"a": 1, "y": 2}, None),
        (NAMED, {"a": 1, "y": 2, "labels": 3}, (), {"a": 1, "y": 2}, 3),
        (A, {"a": 1, "targets": 2}, (), {"a": 1}, 2),
        (TWO, ((1, 2), 3), (1, 2), {}, 3),
        (ONE, ((1, 2), 3), ((1, 2),), {}, 3),
        (ONE, ((1,), 3), ((1,),), {}, 3),
        (ONE, ([1], 3), ([1],), {}, 3),
        (A, ((1,), 3), (1,), {}, 3),
        (TWO, [[1, 2], 3], (1, 2), {}, 3),
        (TWO, (((1, 2), 4), 3), ((1, 2), 4), {}, 3),
        (TWO, {"no": 1, "such": 2}, (), {"no": 1, "such": 2}, None),
    ],
)
def test_a_batch_splits_into_what_the_network_takes_and_the_target(
    model: nn.Module, sample: Any, args: Any, kwargs: Any, target: Any
) -> None:
    assert split_sample(sample, with_target=True, model=model) == (args, kwargs, target)
    if target is not None:
        assert target_of(sample) == target


def test_a_batch_without_target_is_all_input() -> None:
    assert split_sample((1, 2), with_target=False, model=TWO) == ((1, 2), {}, None)
    assert split_sample(1, with_target=False, model=ONE) == ((1,), {}, None)
    assert split_sample({"labels": 1}, with_target=False, model=ANY) == ((), {"labels": 1}, None)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(3, 8), nn.Linear(2, 8), nn.Linear(8, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        out: Tensor = self.out((self.left(left) + self.right(right)).relu())
        return out


class Pair(Two):
    """Takes both inputs in one tuple."""

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(*pair)


class Whole(Two):
    """Takes the batch as it is, and reads what it needs."""

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(batch["left"], batch["right"])


X, Y = {"left": torch.randn(4, 3), "right": torch.randn(4, 2)}, torch.tensor([0, 1, 2, 3])
PAIR, ALL = (tuple(X.values()), Y), {**X, "label": Y}


@pytest.mark.parametrize(
    ("model", "batch"),
    [(Pair(), PAIR), (Two(), PAIR), (Two(), ALL), (Two(), (X, Y)), (Whole(), ALL), (Whole(), (X, Y))],
)
def test_inputs_reach_a_network_and_its_twin_the_way_it_takes_them(model: nn.Module, batch: Any) -> None:
    args, kwargs, target = split_sample(batch, with_target=True, model=model)
    twin = Twin.of(trace(model, batch, nn.functional.cross_entropy))
    with torch.no_grad():
        loss, _ = twin.loss(dict(model.named_parameters()), batch)
        torch.testing.assert_close(loss, nn.functional.cross_entropy(model(*args, **kwargs), target))
    again, others, _ = twin.split(batch)
    assert (len(again), others.keys()) == (len(args), kwargs.keys())


class Row(NamedTuple):
    """A batch that names what it holds, the target in the middle."""

    a: int
    y: int
    b: int


@dataclass
class Picture:
    """A batch of a class of its own."""

    image: int
    label: int


@pytest.mark.parametrize(
    ("model", "batch", "found"),
    [
        (TWO, Row(1, 2, 3), {"a": 1, "y": 2, "b": 3}),
        (Takes(lambda first, second: first), Row(1, 2, 3), (1, 2, 3)),
        (ONE, Picture(1, 2), (1, 2)),
        (Takes(lambda image: image), Picture(1, 2), {"image": 1, "label": 2}),
        (ONE, (1, 2), (1, 2)),
    ],
)
def test_fields_go_by_their_names_where_the_network_has_them(model: Takes, batch: Any, found: Any) -> None:
    assert plain(batch, model) == found
    assert type(plain(batch, model)) is type(found)
