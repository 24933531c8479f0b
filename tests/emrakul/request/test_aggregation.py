"""Several sources, one score per unit: weighted, careful where they disagree, refusing what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from esper.anatomy import Anatomy
from esper.arrays import FloatArray
from esper.emrakul.request.aggregation import Statistics, aggregate
from esper.errors import EvidenceError
from tests.emrakul.networks import chain


def source(anatomy: Anatomy, values: FloatArray, samples: int) -> Statistics:
    spans = {group.name: anatomy.unit_slice(number) for number, group in enumerate(anatomy.groups)}
    return Statistics({name: values[span] for name, span in spans.items()}, samples)


def test_one_source_speaks_for_itself() -> None:
    anatomy = chain((20, 24))
    values = np.arange(anatomy.num_units, dtype=np.float64)
    found = aggregate(anatomy, [source(anatomy, values, 7)])
    assert found.scores.tolist() == values.tolist()
    assert (found.errors == 0).all()
    assert (found.samples == 7).all()


def test_means_are_weighted_by_samples_and_the_order_of_sources_does_not_matter() -> None:
    anatomy = chain((20, 24))
    random = np.random.default_rng(0)
    parts = [source(anatomy, random.random(anatomy.num_units), samples) for samples in (1, 30, 8)]
    found, again = aggregate(anatomy, parts), aggregate(anatomy, parts[::-1])
    np.testing.assert_allclose(found.scores, again.scores, rtol=1e-12)
    name = anatomy.groups[0].name
    expected = sum(part.scores[name] * part.samples for part in parts) / 39
    np.testing.assert_allclose(found.means[anatomy.unit_slice(0)], expected, rtol=1e-12)


def test_a_unit_on_which_sources_disagree_counts_as_more_important_than_their_mean() -> None:
    anatomy = chain((20, 24))
    low, high = np.full(anatomy.num_units, 1.0), np.full(anatomy.num_units, 1.0)
    low[0], high[0] = 0.5, 1.5
    found = aggregate(anatomy, [source(anatomy, low, 5), source(anatomy, high, 5)])
    assert found.means[0] == found.means[1] == 1.0
    assert found.scores[0] > 1.5
    assert found.scores[1] == 1.0


def test_what_nobody_measured_or_too_few_updates_stand_behind_stays_unmeasured() -> None:
    anatomy = chain((20, 24))
    values = np.ones(anatomy.num_units)
    values[3] = np.nan
    whole, other = source(anatomy, values, 60), source(anatomy, np.ones(anatomy.num_units), 50)
    found = aggregate(anatomy, [whole, other], min_samples=100)
    assert np.isnan(found.scores[3])
    assert found.samples[3] == 0
    assert np.isfinite(np.delete(found.scores, 3)).all()
    assert np.isnan(aggregate(anatomy, [source(anatomy, np.ones(anatomy.num_units), 0)]).scores).all()
    assert np.isnan(aggregate(anatomy, []).scores).all()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"no.such.group": np.ones(3)}, "does not have"),
        ({"first": np.ones(3)}, "expected"),
        ({"first": np.full(1000, -1.0)}, "importance -1"),
        ({"first": np.full(1000, np.inf)}, "importance inf"),
    ],
)
def test_statistics_of_another_network_or_of_no_numbers_are_refused(
    scores: dict[str, FloatArray], message: str
) -> None:
    anatomy = chain((20, 24))
    first = anatomy.groups[0]
    given = {first.name if name == "first" else name: values for name, values in scores.items()}
    given = {name: values[: first.width] if values.size > 3 else values for name, values in given.items()}
    with pytest.raises(EvidenceError, match=message):
        aggregate(anatomy, [Statistics(given, 10)])
