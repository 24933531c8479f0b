"""What the tables say."""

from __future__ import annotations

import io
import itertools
import sys
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from esper.cli.output import epoch_progress, waiting
from esper.cli.render import anatomy_table, growing_table, report_table
from esper.report import ArmRow, SeedRow
from esper.runs import AnatomyRows, FrozenRow, GroupRow, MemberRow
from tests.report.example import bare_report, full_report


def shown(renderable: RenderableType) -> str:
    stream = io.StringIO()
    Console(file=stream, width=120, markup=False, highlight=False).print(renderable)
    return " ".join(stream.getvalue().split())


def test_the_report_shows_before_after_and_what_the_claim_rests_on() -> None:
    text = shown(report_table(full_report()))
    assert "FLOPs, one sample 18.4 M 7.91 M −57 %" in text
    assert "latency, batch 64, cpu 31.4 ms 17.2 ms 1.83x faster" in text
    assert "accuracy 97.60 % 97.40 % −0.20 points" in text
    assert "difference to the uncut twin: −0.20 points; at worst −1.30 points" in text
    assert "largest difference 2.4e-07" in text
    assert "1 97 1 2 not measured failing" in text


def test_what_no_decision_has_seen_stands_in_a_row_of_its_own() -> None:
    report = full_report()
    last = report.epochs[-1]
    tested = replace(last, metrics={**last.metrics, "test accuracy": 0.9612})
    text = shown(report_table(replace(report, epochs=(*report.epochs[:-1], tested))))
    assert "test accuracy, last epoch 96.12 %" in text
    assert "test accuracy" not in shown(report_table(report))


def test_a_report_without_measurements_says_so_in_every_line() -> None:
    text = shown(report_table(bare_report()))
    assert "latency not measured not measured" in text
    assert "loss not measured not measured" in text
    assert "uncut twin: not measured cut against masked network: not measured share of Esper" in text


def test_groups_stand_under_their_module_with_what_makes_and_reads_them() -> None:
    members = (MemberRow("a.b.weight", 0, "producer"), MemberRow("a.b.bias", 0, "producer"))
    row = GroupRow("a.b", "channel", 8, 0.5, 0.25, (*members, MemberRow("head", 1, "consumer")))
    text = shown(anatomy_table(AnatomyRows(8, 2e6, 3_000, (row,), (FrozenRow("[red]out", 3, "an output"),))))
    assert "8 removable units in 1 group, 2.00 M FLOPs for one sample, 3.00 k parameters" in text
    assert "a b channel 8 50.0 % 25.0 % a.b head" in text
    assert "[red]out 3 an output" in text


def test_a_network_without_units_says_that_nothing_can_be_removed() -> None:
    text = shown(anatomy_table(AnatomyRows(0, 1.0, 1, (), ())))
    assert "Nothing can be removed from this network. Nothing is frozen." in text


@pytest.mark.parametrize(("hidden", "lines"), [(False, 2), (True, 0)])
def test_epochs_are_told_line_by_line_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], hidden: bool, lines: int
) -> None:
    with epoch_progress(2, hidden) as told:
        told("uncut twin", 1, 0.5)
        told("with Esper", 1, 0.25)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("test accuracy") == lines


@pytest.mark.parametrize(
    ("is_terminal", "hidden", "told"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_who_waits_at_a_terminal_is_told_what_for_and_what_code_prints_stays_where_it_was(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_terminal: bool,
    hidden: bool,
    told: bool,
) -> None:
    monkeypatch.setenv("FORCE_COLOR" if is_terminal else "NO_COLOR", "1")
    with waiting("cutting", hidden):
        sys.stdout.write("said by a network\n")
    captured = capsys.readouterr()
    assert captured.out == "said by a network\n"
    assert ("cutting" in captured.err) == told


def test_the_table_of_growing_blames_no_gate_for_a_seed_that_only_lost_to_another() -> None:
    rows = [
        SeedRow(5, place, "auto", before, after, "")
        for place, *way in (
            ("2", "DORMANT", "GERMINATED", "FOSSILIZED"),
            ("5", "DORMANT", "GERMINATED", "CULLED"),
        )
        for before, after in itertools.pairwise(way)
    ]
    arms = (ArmRow("grown", (1.0,), (0.9,), 1.0, 1), ArmRow("other", (1.0,), (0.8,), 1.0, 1, 20, 2))
    text = shown(growing_table(replace(full_report(), seeds=tuple(rows), arms=arms), "Then 5% went."))
    assert "Then 5% went." in text
    assert "2 seeds tried, 1 kept; 1 culled: a gate refused it, or another place" in text


def test_the_table_of_growing_says_why_nothing_was_tried_or_that_all_was_refused() -> None:
    why = "No seed was tried by the policy Plateau: in 3 epoch(s) too few epochs were left."
    silent = replace(full_report(), seeds=(), arms=(), notes=("Something else.", why))
    assert why in shown(growing_table(silent, "Then 5% went."))
    refused = replace(silent, seeds=(SeedRow(5, "2", "auto", "DORMANT", "DORMANT", "Too large."),))
    text = shown(growing_table(refused, "Then 5% went."))
    assert "1 seed tried, 0 kept; 1 refused" in text
    assert "culled" not in text
