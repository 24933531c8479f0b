"""What a run led to: as one line, and what is not said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from esper.session.finish import Result
from tests.report.example import full_report
from tests.session.growers import KEPT, GrowingTraining


@pytest.mark.parametrize(
    ("quality", "higher_is_better", "said"),
    [
        (0.62, True, "accuracy 0.62 (0.939 before the first mask)."),
        (0.95, True, "accuracy 0.95."),
        (0.95, False, "accuracy 0.95 (0.939 before the first mask)."),
    ],
)
def test_a_quality_that_was_better_before_anything_went_says_so(
    quality: float, higher_is_better: bool, said: str
) -> None:
    report = replace(full_report(), quality_after=quality, higher_is_better=higher_is_better)
    result = Result(nn.Identity(), report, Path("report.html"), Path("run"), "flops", 0.5, 0.503)
    assert f"50.3% of the flops removed (target 50.0%), {said}" in str(result)


def test_what_was_measured_with_a_seed_that_finish_takes_out_is_not_said_of_the_network(
    tmp_path: Path,
) -> None:
    training = GrowingTraining(tmp_path)
    training.go(3)
    assert training.stages()[KEPT] == "BLENDING"
    result = training.session.finish(latency=False)
    assert result.report.quality_after is None
    assert f"Taken out since: the seed at {KEPT}, unproved" in result.report.quality_source
    assert training.session.metric not in str(result)
