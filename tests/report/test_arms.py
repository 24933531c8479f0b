"""Compared trainings: who has won is told by the samples, and a tie is called one."""

from __future__ import annotations

import dataclasses
import re

import pytest

from esper.report import ArmRow, RunReport, arm_cells, verdicts
from esper.report.arms import arms_chart, luck
from esper.report.html import render_html
from tests.report.example import full_report


def compared(wins: int, losses: int) -> RunReport:
    run = ArmRow("the grown network", (1e9, 3e9), (0.5, 0.9), 3e5, 1300)
    twin = ArmRow("the <narrow> one", (2e9, 4e9), (0.6, 0.9), 1e5, 590, wins, losses)
    return dataclasses.replace(full_report(), arms=(run, twin))


def test_luck_is_the_exact_sign_test() -> None:
    assert luck(0, 0) == luck(7, 7) == 1.0
    assert luck(0, 5) == luck(5, 0) == pytest.approx(2 / 32)


@pytest.mark.parametrize(
    ("wins", "losses", "word"),
    [(30, 5, "Better than"), (5, 30, "WORSE than"), (12, 9, "A tie with"), (0, 0, "A tie with")],
)
def test_a_verdict_says_who_has_won_or_that_nobody_has(wins: int, losses: int, word: str) -> None:
    said, caveat = verdicts(compared(wins, losses))
    assert said.startswith(f"{word} the <narrow> one")
    assert "another seed" in caveat


def test_the_page_shows_every_arm_by_what_it_has_cost() -> None:
    report = compared(30, 5)
    html = render_html(report)
    assert arms_chart(report) in html
    assert "the &lt;narrow&gt; one" in html
    assert "<narrow>" not in html
    assert [row[2] for row in arm_cells(report)] == ["3.00 G", "4.00 G"]


def test_the_longest_name_has_its_room_beside_the_chart() -> None:
    report = compared(30, 5)
    long = dataclasses.replace(report.arms[1], name="the narrow network, as many FLOPs")
    drawn, crowded = (
        arms_chart(dataclasses.replace(report, arms=(report.arms[0], arm))) for arm in (report.arms[1], long)
    )
    ends = [float(re.findall('x2="([0-9.]+)"', chart)[0]) for chart in (drawn, crowded)]
    assert 960 - ends[0] == 230
    assert 960 - ends[1] >= 9 * len(long.name)


def test_a_run_that_was_compared_with_nothing_shows_nothing_of_it() -> None:
    assert verdicts(full_report()) == []
    assert "Compared" not in render_html(full_report())
