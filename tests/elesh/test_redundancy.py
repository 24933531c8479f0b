"""Channels that carry one signal: correlation by hand, groups and leaders, and the loss of a fold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from esper.arrays import FloatArray
from esper.elesh.redundancy import ChannelMoments, can_take_over, folded_losses, leaders_of
from esper.elesh.unit_measures import measure_units
from tests.elesh.test_unit_measures import Convolutions, images
from tests.elesh.twins import Subject, from_zoo, subject


def correlations(moments: Sequence[ChannelMoments]) -> list[FloatArray]:
    return [part.correlation() for part in moments]


def doubled() -> Subject:
    """Channel 4 of the first layer is three times channel 1, channel 5 the same with a little noise."""
    made = subject(Convolutions(), images(6))
    model = made.model
    assert isinstance(model, Convolutions)
    weight, bias = model.first.weight, model.first.bias
    assert bias is not None
    with torch.no_grad():
        weight[4], bias[4] = weight[1] * 3, bias[1] * 3
        weight[5], bias[5] = weight[1] + 0.02 * torch.randn(3, 3, 3), bias[1]
    return made


def test_correlation_is_pearsons_over_samples_and_positions() -> None:
    made = subject(Convolutions(), images(6))
    (moments,) = measure_units(
        made.twin,
        made.anatomy,
        made.state,
        [made.batch],
        [made.group("first")],
        threshold=0.0,
        with_moments=True,
    ).moments[made.group("first")]
    model = made.model
    assert isinstance(model, Convolutions)
    with torch.no_grad():
        seen = F.relu(model.first(made.batch[0])).movedim(1, 0).flatten(1).numpy()
    np.testing.assert_allclose(moments.correlation(), np.corrcoef(seen), atol=1e-5)


def test_independent_channels_behind_a_relu_are_not_redundant() -> None:
    """Their means are alike, which a cosine would take for likeness."""

    class Independent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(32, 32), nn.Linear(32, 5)
            with torch.no_grad():
                self.first.weight.copy_(torch.eye(32))
                self.first.bias.zero_()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.out(F.relu(self.first(x)))
            return logits

    x = torch.randn(512, 32, generator=torch.Generator().manual_seed(0))
    made = subject(Independent(), (x, torch.arange(512) % 5))
    found = measure_units(
        made.twin, made.anatomy, made.state, [made.batch], [0], threshold=0.0, with_moments=True
    )
    leaders, _ = leaders_of(correlations(found.moments[0]), found.taylor, 0.95)
    assert (leaders < 0).all()
    vectors = F.relu(x).numpy()
    cosine = (vectors.T @ vectors) / np.outer(*2 * [np.linalg.norm(vectors, axis=0)])
    assert cosine.min() > 0.2


def test_multiples_are_found_and_the_most_important_of_them_leads() -> None:
    made = doubled()
    group = made.group("first")
    found = measure_units(
        made.twin, made.anatomy, made.state, [made.batch], [group], threshold=0.0, with_moments=True
    )
    importance = np.array([0.5, 0.1, 0.5, 0.5, 0.9, 0.2])
    leaders, strength = leaders_of(correlations(found.moments[group]), importance, 0.95)
    assert leaders.tolist() == [-1, 4, -1, -1, -1, 4]
    assert strength[1] == pytest.approx(1.0, abs=1e-4)
    assert 0.95 <= strength[5] < 1.0
    slopes = found.moments[group][0].slope(leaders)
    assert slopes[1] == pytest.approx(1 / 3, rel=1e-3)


def test_a_constant_channel_is_like_no_other() -> None:
    made = subject(Convolutions(), images(4))
    model = made.model
    assert isinstance(model, Convolutions)
    assert model.first.bias is not None
    with torch.no_grad():
        model.first.weight[:2], model.first.bias[:2] = 0.0, 1.0
    group = made.group("first")
    found = measure_units(
        made.twin, made.anatomy, made.state, [made.batch], [group], threshold=0.0, with_moments=True
    )
    assert np.isnan(found.moments[group][0].correlation()[0]).all()
    leaders, _ = leaders_of(correlations(found.moments[group]), np.ones(6), 0.95)
    assert leaders[0] == leaders[1] == -1


def test_the_loss_of_a_fold_is_that_of_weights_which_read_the_leader_instead() -> None:
    made = doubled()
    group = made.group("first")
    moments = measure_units(
        made.twin, made.anatomy, made.state, [made.batch], [group], threshold=0.0, with_moments=True
    ).moments[group]
    leaders = np.array([-1, 4, -1, -1, -1, 4])
    found = folded_losses(made.twin, made.state, made.batch, moments, leaders, np.array([1, 5], np.int64))
    for channel, loss in zip((1, 5), found, strict=True):
        state = {name: value.clone() for name, value in made.state.items()}
        slope = float(moments[0].slope(leaders)[channel])
        state["second.weight"][:, 4] += slope * state["second.weight"][:, channel]
        state["second.weight"][:, channel] = 0.0
        out = torch.func.functional_call(made.model, state, (made.batch[0],))
        assert float(loss) == pytest.approx(float(F.cross_entropy(out, made.batch[1])), abs=1e-6)
    base, _ = made.twin.loss(made.state, made.batch)
    assert float(found[0]) == pytest.approx(float(base), abs=1e-6)  # an exact multiple costs nothing


def test_only_dense_linear_maps_can_read_one_channel_for_another() -> None:
    made = from_zoo("plain")
    for group, moments in measure_units(
        made.twin,
        made.anatomy,
        made.state,
        [made.batch],
        range(len(made.anatomy.groups)),
        threshold=0.0,
        with_moments=True,
    ).moments.items():
        assert all(can_take_over(made.twin, part.reading) for part in moments), group
    by_hand = from_zoo("relative-bias")
    assert by_hand.anatomy.groups


@given(st.integers(2, 12), st.integers(0, 1000), st.floats(0.5, 0.99))
def test_every_follower_is_like_its_leader_and_no_leader_follows(
    width: int, seed: int, threshold: float
) -> None:
    random = np.random.default_rng(seed)
    signals = random.normal(size=(3, 200))
    mixed = random.normal(size=(width, 3)) @ signals + 0.1 * random.normal(size=(width, 200))
    correlation: FloatArray = np.asarray(np.corrcoef(mixed))
    importance = random.random(width)
    leaders, strength = leaders_of([correlation], importance, threshold)
    followers = np.flatnonzero(leaders >= 0)
    assert (np.abs(correlation[followers, leaders[followers]]) >= threshold).all()
    assert (leaders[leaders[followers]] < 0).all()
    assert (importance[leaders[followers]] >= importance[followers]).all()
    np.testing.assert_allclose(strength[followers], correlation[followers, leaders[followers]])
    alone = np.flatnonzero(leaders < 0)
    rest = np.abs(correlation[np.ix_(alone, alone)])
    np.fill_diagonal(rest, 0.0)
    assert (rest < threshold).all()
