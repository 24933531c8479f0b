"""The quality of networks on held-out data, live and as a twin."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.graph import trace
from esper.anatomy.twin import Twin
from esper.errors import EvidenceError
from esper.urabrask.quality import correct, evaluate, joined, on_validation, run_live, run_twin, usable

Make = Callable[[int], tuple[Tensor, Tensor]]


def batch(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 6, generator=generator), torch.randint(3, (count,), generator=generator)


def test_a_network_and_its_twin_have_the_same_quality_and_every_sample_counts_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    batches = [batch(4), batch(10)]
    live = evaluate(run_live(model, F.cross_entropy), batches)
    twin = Twin.of(trace(model, batches[0], F.cross_entropy))
    again = evaluate(run_twin(twin, dict(model.named_parameters())), batches)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    for quality in (live, again):
        assert quality.losses is not None
        assert quality.losses.shape == (2,)
        assert quality.loss == pytest.approx(float(F.cross_entropy(model(x), y).detach()))
        assert quality.accuracy == pytest.approx(float((model(x).argmax(1) == y).double().mean()))


def numbers(count: int) -> tuple[Tensor, Tensor]:
    return batch(count)[0], torch.randn(count, 3)


@pytest.mark.parametrize(("make", "loss"), [(batch, F.cross_entropy), (numbers, F.mse_loss)])
def test_classes_are_judged_together_and_losses_in_small_parts(
    make: Make, loss: Callable[..., Tensor]
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    batches = [make(count) for count in (16, 33, 1)]  # a rest of one sample joins its neighbor
    state = {name: p.detach() for name, p in model.named_parameters()}
    quality = on_validation(Twin.of(trace(model, make(4), loss)), state, batches)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert quality.samples is not None
    assert quality.samples.tolist() == ([50] if loss is F.cross_entropy else [16, 16, 17, 1])
    assert quality.loss == pytest.approx(float(loss(model(x), y).detach()), rel=1e-5)
    if loss is F.cross_entropy:
        assert quality.accuracy == pytest.approx(float((model(x).argmax(1) == y).double().mean()))


def test_without_validation_batches_nothing_was_measured() -> None:
    model = nn.Linear(6, 3)
    state = {name: p.detach() for name, p in model.named_parameters()}
    quality = on_validation(Twin.of(trace(model, batch(4), F.cross_entropy)), state, [])
    assert quality.losses is None


def test_a_loss_that_is_no_number_is_never_averaged_away() -> None:
    losses = iter([1.0, math.nan])
    quality = evaluate(lambda _: (torch.tensor(next(losses)), torch.zeros(4, 1)), [batch(4), batch(4)])
    assert math.isnan(quality.loss)
    assert quality.losses is not None
    assert np.isnan(quality.losses).tolist() == [False, True]
    assert math.isnan(evaluate(run_live(nn.Linear(6, 3), F.cross_entropy), []).loss)


def test_correctness_is_known_for_every_form_of_classification() -> None:
    logits = torch.tensor([[3.0, 1, 0], [0, 2, 1]])
    assert correct(logits, torch.tensor([0, 2])) == [1.0, 0.0]
    tokens = torch.stack([logits, logits])  # [N, T, C]
    assert correct(tokens, torch.tensor([[0, 1], [0, 2]])) == [1.0, 0.5]
    images = tokens.permute(0, 2, 1).unsqueeze(-1).expand(2, 3, 2, 5)  # [N, C, H, W]
    target = torch.tensor([[0, 1], [0, 2]]).unsqueeze(-1).expand(2, 2, 5)
    assert correct(images, target) == [1.0, 0.5]


def test_ignored_targets_do_not_count() -> None:
    tokens = torch.eye(3).expand(2, 3, 3)
    target = torch.tensor([[0, -100, 1], [-100, -100, -100]])
    assert correct(tokens, target) == [0.5]
    as_map = torch.tensor([[[0, 255, 1]], [[255, 255, 255]]])
    assert correct(torch.eye(3).expand(2, 1, 3, 3), as_map) == [0.5]


@pytest.mark.parametrize("ignored", [0, -100])
def test_a_class_that_the_loss_ignores_is_padding_and_counts_neither_way(ignored: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    x, y = torch.randn(20, 4, 6), torch.randint(3, (20, 4))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=ignored)

    twin = Twin.of(trace(model, (x[:4], y[:4]), loss))
    state = {name: p.detach() for name, p in model.named_parameters()}
    counted = y != ignored
    rows = counted.any(1)
    hits = (model(x).argmax(2) == y) & counted
    found = on_validation(twin, state, [(x, y)]).accuracy
    assert found == pytest.approx(float((hits.sum(1) / counted.sum(1))[rows].double().mean()), rel=1e-6)


@pytest.mark.parametrize(
    ("output", "target"),
    [
        (torch.randn(4, 3), torch.randn(4, 3)),
        (torch.randn(4, 1), torch.tensor([True, False, True, True])),
        (torch.randn(4, 3), None),
        (torch.randn(4, 3), torch.arange(12).view(4, 3)),
        (torch.randn(4, 3, 5), torch.arange(4)),
    ],
)
def test_correctness_of_anything_else_is_unknown(output: Tensor, target: Tensor | None) -> None:
    assert correct(output, target) is None


def alike(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output @ output.T, target)


def test_where_samples_meet_whole_batches_are_judged_by_their_loss() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 40)
    batches = [(torch.randn(count, 6), torch.arange(count)) for count in (33, 20)]
    twin = Twin.of(trace(model, batches[0], alike))
    quality = on_validation(twin, {name: p.detach() for name, p in model.named_parameters()}, batches)
    assert quality.correctness is None
    assert quality.samples is not None
    assert quality.samples.tolist() == [33, 20]
    assert joined(twin, batches) == tuple(batches)


def test_a_batch_of_another_size_is_not_made_up_of_samples_that_belong_to_others() -> None:
    def by_number(output: Tensor, _: Tensor) -> Tensor:
        return F.cross_entropy(output @ output.T, torch.tensor(list(range(output.shape[0]))))

    batches = [(torch.randn(count, 6), torch.zeros(count)) for count in (8, 8, 5)]
    twin = Twin.of(trace(nn.Linear(6, 4), batches[0], by_number))
    assert usable(twin, batches) == batches[:2]
    with pytest.raises(EvidenceError, match="8 samples only"):
        usable(twin, batches[2:])


@pytest.mark.parametrize(("right", "is_guessed"), [(0, True), (24, True), (26, False), (100, False)])
def test_answers_far_worse_than_one_for_all_are_no_classification(right: int, is_guessed: bool) -> None:
    target = torch.arange(100) % 2
    said = torch.where(torch.arange(100) < right, target, 1 - target)

    def run(_: object) -> tuple[Tensor, Tensor]:
        return torch.zeros(()), F.one_hot(said, 2).float()

    quality = evaluate(run, [(torch.zeros(100, 1), target)])
    assert quality.chance == 0.5
    assert quality.is_guessed is is_guessed


def test_targets_without_any_class_are_no_classification() -> None:
    def run(_: object) -> tuple[Tensor, Tensor]:
        return torch.zeros(()), torch.zeros(4, 3)

    assert evaluate(run, [(torch.zeros(4, 1), torch.full((4,), -100))]).correctness is None


def test_one_number_for_every_sample_is_no_choice_of_a_class() -> None:
    assert correct(torch.zeros(3, 1), torch.tensor([0, 4, 0])) is None


def test_batches_may_have_different_numbers_of_classes() -> None:
    def run(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.zeros(()), batch[0]  # which of its places is pointed at

    pointers = [(torch.eye(3), torch.arange(3)), (torch.eye(5), torch.tensor([0, 1, 2, 3, 0]))]
    quality = evaluate(run, pointers)
    assert quality.accuracy == pytest.approx(7 / 8)
    assert quality.chance == pytest.approx(3 / 8)


class OfNeighbors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return edges @ self.layer(x)  # type: ignore[no-any-return]


def test_one_graph_is_judged_by_its_nodes_and_several_by_their_losses() -> None:
    torch.manual_seed(0)
    model, graph = OfNeighbors(), ((torch.randn(9, 5), torch.eye(9)), torch.randint(3, (9,)))
    twin = Twin.of(trace(model, graph, F.cross_entropy))
    state = {name: p.detach() for name, p in model.named_parameters()}
    alone, several = (on_validation(twin, state, [graph] * count) for count in (1, 2))
    assert alone.correctness is not None
    assert alone.correctness.shape == (9,)
    assert several.correctness is None
    assert several.samples is not None
    assert several.samples.tolist() == [9, 9]
