"""Promises are kept, broken, too early to judge, or unknown; never healthy because nobody has looked."""

from __future__ import annotations

import pytest

from esper.report import Measures, Promise, Standing, promises


def of(name: str, known: Measures) -> Promise:
    return next(one for one in promises(known) if one.name == name)


def test_what_nobody_has_measured_is_unknown() -> None:
    assert {one.standing for one in promises(Measures())} == {Standing.UNKNOWN}
    assert all(one.is_kept is None and one.text for one in promises(Measures()))


@pytest.mark.parametrize(
    ("name", "known", "standing"),
    [
        ("analysis_success_rate", Measures({"accepted": 1, "dropped": 9}), Standing.KEPT),
        ("analysis_success_rate", Measures({"failed": 1}), Standing.TOO_EARLY),
        ("analysis_success_rate", Measures({"failed": 1, "late": 1, "accepted": 5}), Standing.BROKEN),
        ("analysis_success_rate", Measures({"failed": 1, "accepted": 19}), Standing.KEPT),
        ("analysis_success_rate", Measures({"failed": 2, "accepted": 18}), Standing.BROKEN),
        ("analysis_duration_p95", Measures(durations=[1.0] * 19 + [900.0]), Standing.KEPT),
        ("analysis_duration_p95", Measures(durations=[301.0]), Standing.BROKEN),
        ("checkpoint_overhead", Measures(stall_seconds=301.0), Standing.BROKEN),
        ("checkpoint_overhead", Measures(stall_seconds=0.1), Standing.KEPT),
        ("training_time_impact", Measures(esper_seconds=3.0, running_seconds=9.0), Standing.TOO_EARLY),
        ("training_time_impact", Measures(esper_seconds=7.0, running_seconds=600.0), Standing.BROKEN),
        ("training_time_impact", Measures(esper_seconds=0.05, running_seconds=9.0), Standing.KEPT),
        ("peak_memory_usage", Measures(peak_bytes=4.1e9), Standing.BROKEN),
        ("peak_memory_usage", Measures(peak_bytes=0.0), Standing.UNKNOWN),
    ],
)
def test_each_is_judged_by_its_limit_and_on_enough(name: str, known: Measures, standing: Standing) -> None:
    assert of(name, known).standing is standing


def test_a_broken_one_says_the_number_the_limit_and_what_to_do() -> None:
    text = of("training_time_impact", Measures(esper_seconds=12.0, running_seconds=600.0)).text
    assert "12.0 s of 10 min 0 s" in text
    assert "2.00 %" in text
    assert "less than 1 %" in text
    assert "pruning.schedule.max_steps" in text
    early = of("training_time_impact", Measures(esper_seconds=3.0, running_seconds=9.0)).text
    assert "Before 10 minutes" in early
    assert "max_steps" not in early
