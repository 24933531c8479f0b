"""Where a seed stands is told apart from where it has gone."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from esper.report import SeedRow
from esper.web.tracks import tracks
from tests.report.example import full_report


@pytest.mark.parametrize(
    ("way", "state", "stage"),
    [
        (("GERMINATED", "TRAINING"), "here", "training"),
        (
            ("GERMINATED", "FOSSILIZED", "TERMINATED"),
            "here",
            "fossilized",
        ),
        (("GERMINATED", "CULLED", "DORMANT"), "gone", "dormant"),
        (("GERMINATED", "DORMANT", "TERMINATED"), "gone", "terminated"),
    ],
)
def test_a_seed_that_stays_is_not_drawn_as_gone_when_the_run_ends(
    way: tuple[str, ...], state: str, stage: str
) -> None:
    steps = enumerate(itertools.pairwise(("DORMANT", *way)))
    rows = [SeedRow(epoch, "block", "conv", before, after, "") for epoch, (before, after) in steps]
    page = tracks(dataclasses.replace(full_report(), seeds=tuple(rows)))
    assert f'<li class="{state}" aria-current="step"><b>{stage}</b>' in page
    assert page.count("aria-current") == 1
