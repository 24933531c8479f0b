"""What optimizers keep, ranks and their means; NaN for what was not measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from esper.errors import ConfigError, EvidenceError
from esper.importance.scores import (
    combine,
    moments_from_optimizer,
    rank_normalize,
)
from tests.importance.networks import train, two


@pytest.mark.parametrize(
    "make",
    [
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.RMSprop,
        torch.optim.Adagrad,
    ],
)
def test_second_moments_of_a_constant_gradient_are_its_square(make: type[torch.optim.Optimizer]) -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = make([{"params": [weight]}], lr=1e-6)  # type: ignore[call-arg]  # each takes lr, their base does not
    for _ in range(5):
        weight.grad = torch.tensor([2.0, -3.0])
        optimizer.step()
    moments = moments_from_optimizer(optimizer, {"w": weight})
    assert moments is not None
    corrected = moments.values["w"] / moments.corrections["w"]
    assert corrected.tolist() == pytest.approx([4.0, 9.0], rel=1e-4)


def test_an_optimizer_without_second_moments_gives_none() -> None:
    network, _ = two()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    train(network, optimizer, torch.ones(4, 3))
    assert moments_from_optimizer(optimizer, dict(network.named_parameters())) is None


def test_an_optimizer_that_never_stepped_gives_none() -> None:
    network, _ = two()
    optimizer = torch.optim.AdamW(network.parameters())
    assert moments_from_optimizer(optimizer, dict(network.named_parameters())) is None


def test_ranks_ignore_what_is_unmeasured_and_ties_share_their_rank() -> None:
    scores = np.array([5.0, np.nan, 1.0, 5.0, np.inf, 9.0])
    ranks = rank_normalize(scores)
    assert ranks[[0, 2, 3, 5]].tolist() == [0.5, 0.0, 0.5, 1.0]
    assert np.isnan(ranks[[1, 4]]).all()


def test_a_score_alone_ranks_in_the_middle() -> None:
    assert rank_normalize(np.array([3.0])).tolist() == [0.5]


@given(arrays(np.float64, st.integers(0, 20), elements=st.floats(-1e6, 1e6) | st.just(np.nan)))
def test_ranks_keep_the_order_and_lie_between_0_and_1(
    scores: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> None:
    ranks = rank_normalize(scores)
    measured = np.isfinite(scores)
    assert (np.isnan(ranks) == ~measured).all()
    assert ((ranks[measured] >= 0) & (ranks[measured] <= 1)).all()
    a, b = scores[measured], ranks[measured]
    assert (np.sign(a[:, None] - a) == np.sign(b[:, None] - b)).all()


def test_weights_are_shared_among_what_is_measured() -> None:
    taylor = np.array([0.0, 1.0, np.nan, np.nan])
    size = np.array([1.0, 0.0, 2.0, np.nan])
    combined = combine(
        {"taylor": taylor, "magnitude": size}, {"taylor": 0.5, "magnitude": 0.25, "other": 9.0}
    )
    assert combined[:3].tolist() == pytest.approx([0.25 * 0.5 / 0.75, 0.5 / 0.75, 1.0])
    assert np.isnan(combined[3])


def test_a_component_of_weight_zero_measures_nothing() -> None:
    assert np.isnan(combine({"magnitude": np.array([1.0, 2.0])}, {"magnitude": 0.0})).all()


def test_a_component_without_a_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="luck"):
        combine({"luck": np.array([1.0])}, {"taylor": 1.0})


def test_combining_nothing_is_refused() -> None:
    with pytest.raises(EvidenceError, match="No score"):
        combine({}, {"taylor": 1.0})
