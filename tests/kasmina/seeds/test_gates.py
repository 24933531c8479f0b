"""Gates: every question can close one, and what was not measured does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from esper.arrays import FloatArray
from esper.kasmina.seeds import gates
from esper.kasmina.seeds.gates import Planted, Proved, Shadowed, Trained, surely_above
from esper.kasmina.seeds.settings import GrowthSettings

SETTINGS = GrowthSettings()
GAINS: FloatArray = np.linspace(0.1, 0.3, 20)
PLANTED = Planted(1, True, True, True, True, True, True, 0.2, 0.0, True)
TRAINED = Trained(200, 0, 0.1, 0.2, 0.0, GAINS, 0)
SHADOWED = Shadowed(True, 0.1, 1.2, GAINS, True)
PROVED = Proved(3, GAINS, GAINS, 1.3, 0, True)


def test_all_gates_open_where_all_is_well() -> None:
    assert gates.sanity(PLANTED, SETTINGS).passed
    assert gates.gradient_health(TRAINED, SETTINGS, 5).passed
    assert gates.stability(1.0, [2.0, 1.9, 2.1], [1.9, 1.8, 1.7, 1.8], 0, SETTINGS).passed
    assert gates.interface(SHADOWED, SETTINGS).passed
    assert gates.system_impact(PROVED, SETTINGS, 5).passed
    assert gates.reset(is_plain=True, is_unknown=True, is_untrained=True, is_free=True).passed


@pytest.mark.parametrize(
    "wrong",
    [
        {"calls": 0},
        {"calls": 2},
        {"is_identity": False},
        {"is_identity": None},
        {"is_finite": False},
        {"keeps_shape": False},
        {"leaves_input": False},
        {"is_isolated": False},
        {"can_learn": False},
        {"parameters": 1.5},
        {"dead": 0.75},
    ],
    ids=str,
)
def test_each_question_of_sanity_closes_it(wrong: dict[str, float | None]) -> None:
    result = gates.sanity(replace(PLANTED, **wrong), SETTINGS)  # type: ignore[arg-type]
    assert len(result.missed) == 1
    assert str(result).startswith("G0_SANITY closed")


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 3},
        {"faults": 1},
        {"norm": None},
        {"host_norm": None},
        {"norm": 1e6},
        {"zeros": 0.9},
        {"zeros": None},
        {"gains": None},
        {"gains": -GAINS},
        {"violations": 1},
    ],
    ids=str,
)
def test_each_question_of_gradient_health_closes_it(wrong: dict[str, float | None]) -> None:
    assert len(gates.gradient_health(replace(TRAINED, **wrong), SETTINGS, 5).missed) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("alpha", "since", "faults"),
    [
        (0.9, [1.0, 1.1, 1.0, 1.1], 0),
        (1.0, [1.0, 9.0, 1.0, 9.0], 0),
        (1.0, [2.0, 2.1, 2.0, 2.1], 0),
        (1.0, [1.0], 0),
        (1.0, [1.0, float("nan"), 1.0], 0),
        (1.0, [1.0, 1.1, 1.0, 1.1], 1),
    ],
)
def test_each_unrest_closes_stability(alpha: float, since: list[float], faults: int) -> None:
    assert not gates.stability(alpha, [1.0, 1.1, 0.9, 1.0], since, faults, SETTINGS).passed


@pytest.mark.parametrize(
    "wrong",
    [
        {"keeps_shape": False},
        {"shift": 2.0},
        {"shift": None},
        {"ratio": 4.0},
        {"ratio": None},
        {"gains": -GAINS},
        {"gains": None},
        {"is_isolated": False},
    ],
    ids=str,
)
def test_each_question_of_interface_closes_it(wrong: dict[str, float | None]) -> None:
    assert len(gates.interface(replace(SHADOWED, **wrong), SETTINGS).missed) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 1},
        {"gains": None},
        {"gains": -GAINS},
        {"live": -GAINS},
        {"live": GAINS[:1]},
        {"latency": 9.0},
        {"latency": None},
        {"faults": 1},
        {"is_isolated": False},
    ],
    ids=str,
)
def test_each_question_of_system_impact_closes_it(wrong: dict[str, float | None]) -> None:
    assert len(gates.system_impact(replace(PROVED, **wrong), SETTINGS, 5).missed) == 1  # type: ignore[arg-type]


def test_what_is_not_gone_closes_reset() -> None:
    for name in ("is_plain", "is_unknown", "is_untrained", "is_free"):
        gone = {"is_plain": True, "is_unknown": True, "is_untrained": True, "is_free": True, name: False}
        assert len(gates.reset(**gone).missed) == 1


def test_useless_seeds_pass_as_seldom_as_was_asked_for_over_all_looks_together() -> None:
    rng, looks = np.random.default_rng(0), 5
    kept = sum(
        any(
            surely_above("gain", rng.normal(0, 1, 40), 0.0, SETTINGS.significance / looks).is_met
            for _ in range(looks)
        )
        for _ in range(1000)
    )
    assert 20 <= kept <= 75  # of 1000, at a chance of 5 %


def test_a_seed_that_changes_nothing_does_not_pass() -> None:
    assert not surely_above("gain", np.zeros(40), 0.0, 0.01).is_met


def test_an_answer_shows_what_was_missed_or_the_numbers_that_it_was_given() -> None:
    closed = gates.gradient_health(replace(TRAINED, zeros=None, violations=2), SETTINGS, 5)
    assert str(closed) == (
        "G1_GRADIENT_HEALTH closed: zeros in its output: unmeasured; violations of isolation 2 (at most 0)"
    )
    reset = gates.reset(is_plain=True, is_unknown=True, is_untrained=True, is_free=False)
    assert str(reset) == "G5_RESET closed: its memory is free: no"
