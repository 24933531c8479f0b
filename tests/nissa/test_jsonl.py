"""A line of JSON for every event, whole whatever happens to the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esper.nissa import JsonLines, acts, events, progress

EPOCH = progress.EpochEnded(
    3, 30, {"f1": 0.5, "loss": float("inf")}, 1e6, 1200, 4, 1.5, 0.1, 9.0, None, 60.0, 0.5, 28
)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_every_event_is_a_line_with_its_own_fields(tmp_path: Path) -> None:
    writer = JsonLines(tmp_path / "telemetry.jsonl", says=lambda text: text.replace("epoch", "period"))
    writer.write(5.0, EPOCH)
    writer.write(6.5, events.Refused(3, "No, not in this epoch."))
    writer.close()
    epoch, refused = lines(writer.path)
    assert epoch["kind"] == "epoch_ended"
    assert epoch["text"] == "Step 30, 1.5 s: f1 0.5, loss inf."
    assert epoch["facts"] == {
        "step": 30,
        "metrics": {"f1": 0.5, "loss": "Infinity"},
        "flops": 1e6,
        "parameters": 1200,
        "masked_units": 4,
        "seconds": 1.5,
        "esper_seconds": 0.1,
        "running_seconds": 9.0,
        "tracking_fraction": None,
        "stall_ms_per_gb": 60.0,
        "stall_seconds": 0.5,
        "measured_step": 28,
        "worker_peak_bytes": None,
    }
    assert refused == {
        "at_seconds": 6.5,
        "kind": "refused",
        "severity": "news",
        "by": "urabrask",
        "epoch": 3,
        "text": "Nothing was masked, the plan was refused: No, not in this period.",
        "facts": {"reason": "No, not in this epoch."},
    }


def test_what_the_audit_has_in_full_is_left_to_it(tmp_path: Path) -> None:
    writer = JsonLines(tmp_path / "telemetry.jsonl")
    record = {"units": 1, "finalists": 2}
    writer.write(1.0, acts.Decided(2, "accepted", "Go.", "id", record, {"plan": [1] * 1000}))
    writer.close()
    assert lines(writer.path)[0]["facts"] == {
        "status": "accepted",
        "reason": "Go.",
        "settings_id": "id",
        "record": record,
    }


def test_a_line_that_a_crash_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.jsonl"
    path.write_bytes(b'{"at_seconds": 1.0, "ki')
    writer = JsonLines(path)
    writer.write(2.0, EPOCH)
    writer.write(3.0, EPOCH)
    writer.close()
    torn, *whole = path.read_bytes().splitlines()
    assert torn == b'{"at_seconds": 1.0, "ki'
    assert [json.loads(line)["at_seconds"] for line in whole] == [2.0, 3.0]


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "telemetry.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"telemetry\.jsonl"):
        JsonLines(tmp_path / "telemetry.jsonl").write(1.0, EPOCH)
    assert [path.name for path in tmp_path.iterdir()] == ["telemetry.jsonl"]
