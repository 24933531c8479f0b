"""Scores against what they claim to be, and NaN for what was not measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from esper.errors import ConfigError, EvidenceError
from esper.importance.scores import (
    combine,
    fisher,
    magnitude,
    moments_from_optimizer,
    moments_from_state,
    rank_normalize,
)
from tests.importance.networks import residual, two


def train(network: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        network(inputs).square().mean().backward()
        optimizer.step()


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


def test_fisher_is_the_sum_over_the_producers_of_squared_weight_and_mean_squared_gradient() -> None:
    network, anatomy = two(width=5)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    train(network, optimizer, torch.randn(8, 3))
    parameters = dict(network.named_parameters())
    moments = moments_from_optimizer(optimizer, parameters)
    assert moments is not None
    product = {
        n: (p.detach() ** 2 * moments.values[n] / moments.corrections[n]) for n, p in parameters.items()
    }
    expected = product["up.weight"].sum(1) + product["up.bias"]
    assert fisher(anatomy, parameters, moments).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_units_with_a_frozen_producer_are_unmeasured_and_not_zero() -> None:
    network, anatomy = residual()
    network.conv2.weight.requires_grad_(False)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    train(network, optimizer, torch.randn(2, 1, 6, 6))
    parameters = dict(network.named_parameters())
    moments = moments_from_optimizer(optimizer, parameters)
    assert moments is not None
    # conv2 is one of the producers of the first group; the other only feeds it
    assert np.isnan(fisher(anatomy, parameters, moments)).tolist() == [True] * 4 + [False] * 3
    network.conv2.weight.requires_grad_(True)
    whole = torch.optim.AdamW(network.parameters())
    train(network, whole, torch.randn(2, 1, 6, 6))
    moments = moments_from_optimizer(whole, parameters)
    assert moments is not None
    assert (fisher(anatomy, parameters, moments) > 0).all()


def test_frozen_norm_affines_do_not_make_a_unit_unmeasured() -> None:
    network, anatomy = residual()
    network.norm.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad])
    train(network, optimizer, torch.randn(2, 1, 6, 6))
    parameters = dict(network.named_parameters())
    moments = moments_from_optimizer(optimizer, parameters)
    assert moments is not None
    assert np.isfinite(fisher(anatomy, parameters, moments)).all()


def test_a_checkpoint_scores_like_the_live_optimizer(tmp_path: Path) -> None:
    network, anatomy = two(width=4, each=2)
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.8, 0.95))
    train(network, optimizer, torch.randn(8, 3))
    parameters = dict(network.named_parameters())
    live = moments_from_optimizer(optimizer, parameters)
    assert live is not None

    save_file({n: p.detach() for n, p in parameters.items()}, tmp_path / "model.safetensors")
    flat = {f"{n}/{k}": v for n, p in parameters.items() for k, v in optimizer.state[p].items()}
    save_file(flat, tmp_path / "optimizer.safetensors")

    with (
        safe_open(tmp_path / "model.safetensors", "pt") as model,
        safe_open(tmp_path / "optimizer.safetensors", "pt") as state,
    ):
        saved = {n: {k: state.get_tensor(f"{n}/{k}") for k in ("exp_avg_sq", "step")} for n in parameters}
        moments = moments_from_state(saved, {n: {"betas": [0.8, 0.95]} for n in parameters})
        assert moments is not None
        scored = fisher(anatomy, {n: model.get_tensor(n) for n in model.keys()}, moments)  # noqa: SIM118  # no dict
    assert scored.tolist() == fisher(anatomy, parameters, live).tolist()


def test_fisher_that_is_not_finite_is_unmeasured() -> None:
    network, anatomy = two(width=3)
    optimizer = torch.optim.Adam(network.parameters())
    train(network, optimizer, torch.randn(8, 3))
    parameters = dict(network.named_parameters())
    optimizer.state[network.up.weight]["exp_avg_sq"][1, 0] = torch.inf
    moments = moments_from_optimizer(optimizer, parameters)
    assert moments is not None
    assert np.isnan(fisher(anatomy, parameters, moments)).tolist() == [False, True, False]


def test_magnitude_is_relative_to_the_average_row_of_the_same_tensor() -> None:
    network, anatomy = residual()
    with torch.no_grad():
        network.conv1.weight.fill_(100.0)
        network.conv1.weight[2] = 0.0
    scores = magnitude(anatomy, dict(network.named_parameters()))[4:]
    assert scores.tolist() == pytest.approx([1.5**0.5, 1.5**0.5, 0.0])


def test_magnitude_does_not_change_when_a_whole_tensor_is_scaled() -> None:
    network, anatomy = residual()
    before = magnitude(anatomy, dict(network.named_parameters()))
    with torch.no_grad():
        network.conv2.weight.mul_(50.0)
    assert magnitude(anatomy, dict(network.named_parameters())) == pytest.approx(before, rel=1e-5)


def test_magnitude_without_the_producers_is_unmeasured() -> None:
    network, anatomy = two()
    assert np.isnan(magnitude(anatomy, {"down.weight": network.down.weight})).all()


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


def test_scores_of_complex_weights_are_those_of_their_parts() -> None:
    network, anatomy = two(width=5)
    network.up, network.down = (nn.Linear(*sizes, dtype=torch.cfloat) for sizes in ((3, 5), (5, 2)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    optimizer.zero_grad()
    network(torch.randn(8, 3, dtype=torch.cfloat)).abs().square().mean().backward()
    optimizer.step()
    named = dict(network.named_parameters())
    moments = moments_from_optimizer(optimizer, named)
    assert moments is not None
    scores = fisher(anatomy, named, moments)
    square = torch.view_as_real(network.up.weight.detach()).square()
    expected = (square * torch.view_as_real(moments.values["up.weight"])).sum((1, 2))
    bias = torch.view_as_real(network.up.bias.detach()).square()
    expected += (bias * torch.view_as_real(moments.values["up.bias"])).sum(1)
    expected /= moments.corrections["up.weight"]
    assert scores.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    relative = square.sum((1, 2)) / square.sum() * 5
    assert magnitude(anatomy, named).tolist() == pytest.approx(relative.sqrt().tolist(), rel=1e-4)
