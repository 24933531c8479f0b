from __future__ import annotations

import pytest
from pydantic import ValidationError

from esper.emrakul.settings import Settings, Target


def test_pruning_is_off_until_it_is_asked_for() -> None:
    assert not Settings().is_enabled
    assert Settings(target=Target(flops=0.5)).is_enabled
    assert Settings(staged=True).is_enabled


@pytest.mark.parametrize("target", [{}, {"flops": 0.5, "parameters": 0.5}])
def test_a_target_names_exactly_one_cost(target: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="exactly one of flops, parameters and latency"):
        Settings.model_validate({"target": target})


@pytest.mark.parametrize("fraction", [0.0, 1.0, 50.0])
def test_a_target_is_a_share_and_not_per_cent(fraction: float) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"target": {"flops": fraction}})


def test_a_plain_number_is_a_share_of_the_flops() -> None:
    assert Settings.model_validate({"target": 0.5}).target == Target(flops=0.5)
    with pytest.raises(ValidationError, match=r'is no target: .* \{"flops": 0.5\}'):
        Settings.model_validate({"target": "50%"})


def test_a_target_and_stages_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        Settings.model_validate({"target": {"flops": 0.5}, "staged": True})


def test_the_shares_of_the_deadline_sum_to_one() -> None:
    with pytest.raises(ValidationError, match=r"sum to 1\.1, expected 1"):
        Settings.model_validate({"budget": {"analysis_fraction": 0.8}})


def test_a_misspelled_key_is_an_error() -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"targets": {"flops": 0.5}})


def test_what_a_target_counts_is_what_fractions_count() -> None:
    assert Settings.model_validate({"target": {"parameters": 0.3}}).cost == "parameters"
    assert Settings(staged=True, staged_cost="parameters").cost == "parameters"


def test_floors_that_are_set_win_over_those_that_follow_from_the_target() -> None:
    settings = Settings.model_validate(
        {"target": {"flops": 0.5}, "floors": {"min_keep_fraction": 0.6, "narrow_keep_fraction": 0.7}}
    )
    assert (settings.min_keep_fraction, settings.narrow_keep_fraction) == (0.6, 0.7)
    assert Settings(target=Target(flops=0.5)).min_keep_fraction == 0.5
