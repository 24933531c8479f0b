from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from esper.elesh.evidence import Evidence, Tier
from esper.errors import EvidenceError
from esper.leyline import decode, encode

SHARES = st.one_of(st.just(np.nan), st.floats(0, 1))
LOSSES = st.one_of(st.just(np.nan), st.floats(-1e3, 1e3))


@st.composite
def evidences(draw: st.DrawFn, num_units: int | None = None) -> Evidence:
    n = draw(st.integers(0, 12)) if num_units is None else num_units
    return Evidence(
        anatomy_digest="ab" * 32,
        screen=draw(arrays(np.float64, n, elements=SHARES)),
        loss_increase=draw(arrays(np.float64, n, elements=LOSSES)),
        confidence=draw(arrays(np.float64, n, elements=SHARES)),
        samples=draw(arrays(np.int64, n, elements=st.integers(0, 10**9))),
        taylor=draw(arrays(np.float64, n, elements=LOSSES)),
        leaders=draw(arrays(np.int64, n, elements=st.integers(-1, max(n - 1, 0)))),
        tier=draw(st.sampled_from(Tier)),
        is_partial=draw(st.booleans()),
        notes=tuple(draw(st.lists(st.text(), max_size=2))),
    )


def assert_same(one: Evidence, other: Evidence) -> None:
    assert encode(one) == encode(other)
    for name in ("screen", "loss_increase", "confidence", "samples", "taylor", "leaders"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@given(evidences())
def test_json_holds_everything_and_unmeasured_is_null(evidence: Evidence) -> None:
    text = json.dumps(encode(evidence), allow_nan=False)
    assert_same(decode(Evidence, json.loads(text)), evidence)


def test_nothing_is_measured_at_the_start() -> None:
    assert not Evidence.unmeasured("d" * 64, 4).is_measured.any()


def test_every_unit_says_how_far_its_analysis_came() -> None:
    some = replace(
        Evidence.unmeasured("d" * 64, 4),
        screen=np.array([np.nan, 0.1, 0.2, 0.3]),
        taylor=np.array([np.nan, np.nan, 0.5, 0.5]),
        loss_increase=np.array([np.nan, np.nan, 0.1, 0.0]),
        samples=np.array([0, 0, 0, 64]),
    )
    assert some.tiers.tolist() == [Tier.NONE, Tier.SCREEN, Tier.TWIN, Tier.ABLATION]


def test_a_loss_without_a_confidence_does_not_count_as_measured() -> None:
    evidence = replace(
        Evidence.unmeasured("d" * 64, 2),
        loss_increase=np.array([0.1, 0.1]),
        confidence=np.array([np.nan, 1.0]),
    )
    assert evidence.is_measured.tolist() == [False, True]


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("screen", [0.0, 1.5], "share from 0 to 1"),
        ("confidence", [-0.1, 0.5], "share from 0 to 1"),
        ("loss_increase", [np.inf, 0.0], "Record NaN"),
        ("loss_increase", [0.0], "one number per unit"),
    ],
)
def test_numbers_that_cannot_be_are_refused(field: str, values: list[float], message: str) -> None:
    change: dict[str, Any] = {field: np.array(values)}
    with pytest.raises(EvidenceError, match=message):
        replace(Evidence.unmeasured("d" * 64, 2), **change)
