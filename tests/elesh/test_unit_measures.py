"""Taylor and activity of units on the twin, held against derivatives and counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.elesh.readings import readings_of
from esper.elesh.unit_measures import UnitMeasures, measure_units
from tests.elesh.twins import Subject, from_zoo, subject

THRESHOLD = 1e-3


def images(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) % 5


class Convolutions(nn.Module):
    """Channels that are read by a convolution, and channels that are read flattened."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, stride=4)
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(F.relu(self.second(F.relu(self.first(x)))).flatten(1))
        return logits


def measured(made: Subject) -> UnitMeasures:
    groups = range(len(made.anatomy.groups))
    return measure_units(
        made.twin,
        made.anatomy,
        made.state,
        [made.batch],
        list(groups),
        threshold=THRESHOLD,
        with_moments=True,
    )


def test_taylor_is_the_derivative_of_every_samples_loss_by_the_units_gate() -> None:
    made = subject(Convolutions(), images(5))
    found = measured(made)
    assert found.is_per_sample.all()
    model = made.model
    assert isinstance(model, Convolutions)
    x, y = made.batch

    def loss(gates: Tensor, sample: Tensor, target: Tensor) -> Tensor:
        one = F.relu(model.first(sample[None])) * gates[:6, None, None]
        two = F.relu(model.second(one)) * gates[6:, None, None]
        return F.cross_entropy(model.out(two.flatten(1)), target[None])

    expected = torch.zeros(10)
    for sample, target in zip(x, y, strict=True):
        gates = torch.ones(10, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(gates, sample, target), gates)
        expected += gradient.abs() / len(x)
    order = [*range(*made.anatomy.unit_slice(made.group("first")).indices(10))]
    order += [*range(*made.anatomy.unit_slice(made.group("second")).indices(10))]
    np.testing.assert_allclose(found.taylor[order], expected.numpy(), rtol=1e-4)


def test_activity_is_the_share_of_elements_that_are_not_about_zero() -> None:
    made = subject(Convolutions(), images(5))
    found = measured(made)
    model = made.model
    assert isinstance(model, Convolutions)
    with torch.no_grad():
        one = F.relu(model.first(made.batch[0]))
        two = F.relu(model.second(one))
    for name, seen in (("first", one), ("second", two)):
        expected = (seen.abs() > THRESHOLD).float().mean((0, 2, 3))
        np.testing.assert_allclose(
            found.activation_frequency[made.anatomy.unit_slice(made.group(name))], expected, rtol=1e-6
        )


def test_a_unit_that_is_read_twice_counts_both_readings() -> None:
    made = from_zoo("resnet8")
    found = measured(made)
    twice = made.anatomy.unit_slice(made.group("stem.0"))
    assert len(readings_of(made.twin, made.anatomy, [made.group("stem.0")])) > 1
    assert (found.taylor[twice] > 0).all()
    assert len(found.moments[made.group("stem.0")]) == len(
        readings_of(made.twin, made.anatomy, [made.group("stem.0")])
    )


class OneSize(nn.Module):
    """Works with batches of four samples only, so its samples have no axis that is known to be theirs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(torch.relu(self.up(x)).view(4, -1))
        return out


def test_where_samples_cannot_be_told_apart_the_change_of_the_whole_batch_counts() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    made = subject(OneSize(), (x, torch.tensor([0, 1, 2, 3])))
    found = measured(made)
    assert not found.is_per_sample.any()
    model = made.model
    assert isinstance(model, OneSize)
    hidden = torch.relu(model.up(x)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model.down(hidden), made.batch[1]), hidden)
    np.testing.assert_allclose(
        found.taylor, (hidden * gradient).sum(0).abs().detach().numpy(), rtol=1e-4, atol=1e-7
    )


def test_only_the_groups_that_were_asked_for_are_measured() -> None:
    made = subject(Convolutions(), images(4))
    asked = made.group("second")
    found = measure_units(
        made.twin, made.anatomy, made.state, [made.batch], [asked], threshold=THRESHOLD, with_moments=True
    )
    inside = np.zeros(made.anatomy.num_units, np.bool_)
    inside[made.anatomy.unit_slice(asked)] = True
    assert np.isfinite(found.taylor[inside]).all()
    assert np.isnan(found.taylor[~inside]).all()
    assert np.isnan(found.activation_frequency[~inside]).all()
    assert set(found.moments) == {asked}


@pytest.mark.parametrize("name", ["gpt", "vit", "windows", "plain"])
@pytest.mark.no_cover
def test_columns_of_what_is_read_can_be_put_back(name: str) -> None:
    made = from_zoo(name)
    readings = readings_of(made.twin, made.anatomy, range(len(made.anatomy.groups)))
    assert readings

    def turned(value: Tensor, index: int) -> Tensor:
        reading = readings[index]
        columns = reading.columns(value)
        assert columns.shape[1] == reading.units.size
        again = reading.from_columns(columns, value)
        assert torch.equal(again, value)
        return again

    gates = {reading.place: (lambda v, n=n: turned(v, n)) for n, reading in enumerate(readings)}
    made.twin.run(made.state, made.batch, gates)


def test_rises_of_parts_are_those_of_the_parts_alone() -> None:
    made = subject(Convolutions(), images(12))
    x, y = made.batch
    parts = [(x[a:b], y[a:b]) for a, b in ((0, 5), (5, 8), (8, 12))]
    found = measure_units(made.twin, made.anatomy, made.state, [made.batch], parts=[5, 3])
    assert found.rises.shape == (10, 2)
    for number, part in enumerate(parts[:2]):
        alone = measure_units(made.twin, made.anatomy, made.state, [part], parts=[len(part[1])])
        np.testing.assert_allclose(found.rises[:, number], alone.rises[:, 0], rtol=1e-4, atol=1e-7)
        # Without shrinkage: the mean square of the slopes less their mean.
        square = np.square(alone.slope) + alone.variance * (alone.samples - 1) / alone.samples
        np.testing.assert_allclose(alone.rises[:, 0], square - alone.slope, rtol=1e-4, atol=1e-7)
    assert measured(made).rises.shape == (10, 0)
