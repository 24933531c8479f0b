"""The report of a run as a value."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from esper.errors import ContractError
from esper.leyline import decode, encode
from esper.report.report import EpochRow, Latency, Overhead, RunReport
from tests.report.example import bare_report, full_report


@pytest.mark.parametrize("report", [full_report(), bare_report()], ids=["full", "bare"])
def test_a_report_survives_json(report: RunReport) -> None:
    assert decode(RunReport, json.loads(json.dumps(encode(report)))) == report


def test_a_metric_that_is_not_finite_survives_json() -> None:
    row = EpochRow(1, 10, {"loss": math.nan, "best": math.inf}, 10.0, 4, 0, 1.0)
    report = dataclasses.replace(bare_report(), epochs=(row,))
    again = decode(RunReport, json.loads(json.dumps(encode(report), allow_nan=False)))
    assert math.isnan(again.epochs[0].metrics["loss"])
    assert again.epochs[0].metrics["best"] == math.inf


def test_what_was_not_measured_is_null_in_json_and_not_zero() -> None:
    data = encode(bare_report())
    assert [data[key] for key in ("latency", "quality_before", "quality_after", "proof", "overhead")] == [
        None
    ] * 5


def test_an_unknown_key_is_refused_with_its_name() -> None:
    with pytest.raises(ContractError, match=r"latency\.batch"):
        decode(RunReport, encode(full_report()) | {"latency": {"batch": 64}})


def test_a_missing_key_is_refused_with_its_name() -> None:
    data = encode(full_report())
    del data["flops_after"]
    with pytest.raises(ContractError, match=r"flops_after: expected a value"):
        decode(RunReport, data)


def test_a_file_that_is_not_json_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(ContractError, match=r"report\.json is not JSON"):
        RunReport.read(path)


def test_the_lead_over_the_twin_is_negative_where_the_run_is_worse() -> None:
    lead = full_report().lead_over_twin
    assert lead[8] == pytest.approx(-0.013)
    assert lead[4] == pytest.approx(0.003)
    assert full_report().worst_lead == lead[8]
    assert full_report().final_lead == lead[12]
    assert (bare_report().worst_lead, bare_report().final_lead) == (None, None)


def test_a_lower_loss_than_the_twin_counts_as_a_lead() -> None:
    def row(loss: float) -> EpochRow:
        return EpochRow(1, 10, {"loss": loss}, 10.0, 4, 0, 1.0)

    report = dataclasses.replace(bare_report(), epochs=(row(0.4),), twin_epochs=(row(0.5),))
    assert report.lead_over_twin == {1: pytest.approx(0.1)}


def test_an_epoch_without_the_metric_is_left_out_and_not_taken_for_zero() -> None:
    rows = (EpochRow(1, 10, {}, 10.0, 4, 0, 1.0), EpochRow(2, 20, {"loss": 0.5}, 10.0, 4, 0, 1.0))
    assert dataclasses.replace(bare_report(), epochs=rows).values == {2: 0.5}


def test_the_quality_of_the_whole_network_is_that_of_the_epoch_that_was_masked() -> None:
    report = full_report()
    assert report.quality_unpruned == 0.939
    unmeasured = dataclasses.replace(report.epochs[2], metrics={})
    epochs = (*report.epochs[:2], unmeasured, *report.epochs[3:])
    assert dataclasses.replace(report, epochs=epochs).quality_unpruned == 0.903
    assert bare_report().quality_unpruned is None


def test_the_speedup_is_the_old_time_over_the_new_one() -> None:
    assert Latency(64, 30.0, 15.0, 1.0, 1.0, "cpu", 10).speedup == 2.0


@pytest.mark.parametrize(("spread", "is_noise"), [(14.9, False), (15.1, True)])
def test_a_difference_smaller_than_the_spread_is_noise(spread: float, is_noise: bool) -> None:
    assert Latency(64, 30.0, 15.0, 1.0, spread, "cpu", 10).is_noise == is_noise


@pytest.mark.parametrize(
    ("training", "esper", "share"),
    [(40.0, 2.0, 0.05), (None, 2.0, None), (40.0, None, None), (0.0, 0.0, None)],
)
def test_the_share_of_esper_is_known_only_when_both_times_are(
    training: float | None, esper: float | None, share: float | None
) -> None:
    assert Overhead(None, None, training, esper).esper_fraction == share
