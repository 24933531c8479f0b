"""Fisher scores and magnitudes against what they claim to be, in blocks of any size; NaN is unmeasured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from esper.importance import squares
from esper.importance.scores import moments_from_optimizer, moments_from_state
from esper.importance.squares import fisher, fisher_and_magnitude, magnitude
from tests.importance.networks import residual, train, two


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


@pytest.mark.parametrize("rows", [1, 3, 1000])
@pytest.mark.parametrize(
    "form", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels last"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_blocks_of_any_size_in_one_pass_or_two_give_the_same(
    rows: int, form: torch.memory_format, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, anatomy = residual()
    network = network.to(dtype=dtype, memory_format=form)  # type: ignore[call-overload]  # torch's own call
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    train(network, optimizer, torch.randn(2, 1, 6, 6, dtype=dtype))
    parameters = dict(network.named_parameters())
    moments = moments_from_optimizer(optimizer, parameters)
    assert moments is not None
    whole = fisher(anatomy, parameters, moments), magnitude(anatomy, parameters)
    monkeypatch.setattr(squares, "_BLOCK_ELEMENTS", rows * 9)
    together = fisher_and_magnitude(anatomy, parameters, moments)
    for one, other in zip(whole, together, strict=True):
        assert one.tolist() == pytest.approx(other.tolist(), rel=1e-5)
    expected = torch.zeros(3, dtype=torch.double)
    for name in ("conv1.weight", "conv1.bias"):
        product = parameters[name].detach().double() ** 2 * moments.values[name].double()
        expected += product.reshape(3, -1).sum(1) / moments.corrections[name]
    assert whole[0][4:].tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_every_tensor_is_let_go_once_when_it_was_read() -> None:
    network, anatomy = two(width=5)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    train(network, optimizer, torch.randn(8, 3))
    parameters = dict(network.named_parameters())
    moments = moments_from_optimizer(optimizer, parameters)
    assert moments is not None
    gone: list[torch.Tensor] = []
    fisher_and_magnitude(anatomy, parameters, moments, gone.append)
    read = ["up.weight", "up.bias"]
    expected = [id(parameters[name]) for name in read] + [id(moments.values[name]) for name in read]
    assert sorted(map(id, gone)) == sorted(expected)


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
