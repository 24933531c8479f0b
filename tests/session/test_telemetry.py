"""A run tells its telemetry everything, and no telemetry can stop a run."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path

import pytest
from torch.nn import functional

import esper
from esper.errors import ConfigError
from esper.leyline.wire import messages
from esper.narset import summaries_of
from esper.nissa import Apart, Event, Forwarding, ListSink, progress
from esper.oona import open_bus
from tests.session.runs import Training, examples, optimizer_of, small_network


def kinds(run: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in (run / "telemetry.jsonl").read_text().splitlines()]


def test_a_run_tells_of_every_epoch_act_and_analysis_and_goes_on_in_the_same_file(tmp_path: Path) -> None:
    training = Training(tmp_path / "run")
    training.until_masked()
    training.session.detach()
    told = kinds(tmp_path / "run")
    assert told[:3] == ["began", "epoch_ended", "idle"]  # the ramp begins later
    assert told.count("epoch_ended") == training.session.epoch
    assert {"analysis_began", "decided", "analysis_ended", "masked"} <= set(told)
    again = Training(tmp_path / "run", telemetry={"tensorboard": True})
    again.epoch()
    again.session.finish(latency=False)
    more = kinds(tmp_path / "run")[len(told) :]
    assert more[0] == "resumed"
    assert more[-1] == "finished"
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


class Broken:
    """A sink that fails, as a server does that nobody reaches."""

    def emit(self, event: Event) -> None:
        raise ConnectionError("nobody answers")


def test_sinks_of_ones_own_may_fail_and_no_file_is_written_unless_asked(tmp_path: Path) -> None:
    heard = ListSink()
    model = small_network()
    inputs, targets = examples(32, 0)
    session = esper.attach(
        model,
        optimizer := optimizer_of(model, "sgd"),
        loss=functional.cross_entropy,
        sample=(inputs[:4], targets[:4]),
        run_dir=tmp_path / "run",
        config={"telemetry": {"jsonl": False}},
        sinks=[Broken(), heard],
    )
    functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()
    session.end_epoch(accuracy=0.5)
    session.detach()
    assert not (tmp_path / "run" / "telemetry.jsonl").exists()
    assert [event.epoch for event in heard.events if isinstance(event, progress.EpochEnded)] == [1]
    notes = [note for note in session.log.notes if note.startswith("Telemetry to Broken fails")]
    assert len(notes) == 1


def test_every_step_is_timed_and_every_epoch_tells_their_exact_summary(tmp_path: Path) -> None:
    heard = ListSink()
    training = Training(tmp_path / "run")
    training.session.log.telling.sinks.append(heard)
    for _ in range(2):
        training.epoch()
    training.train_epoch()
    training.session.finish(latency=False)
    told = [event for event in heard.events if isinstance(event, progress.TelemetrySummary)]
    assert [event.epoch for event in told] == [1, 2, 2]  # the last: steps after the last epoch
    for event in told:
        steps = event.spreads["step_seconds"]
        assert steps.count + event.dropped == 5  # from each of 6 steps to the next
        assert steps.p50 is not None
        assert steps.p99 is not None
        assert 0 < steps.p50 <= steps.p99
        assert "5 steps were timed" in event.text
    assert told[0].spreads["esper_seconds"].total > 0
    assert told[0].spreads["loss"].total == training.session.log.epochs[0].metrics["loss"]
    lines = map(json.loads, (tmp_path / "run" / "telemetry.jsonl").read_text().splitlines())
    written = [line["facts"] for line in lines if line["kind"] == "telemetry_summary"]
    assert written[0]["spreads"]["step_seconds"]["count"] == 5
    region, summaries, _ = summaries_of(base64.b64decode(written[0]["message"]))
    assert region == "rank-0"
    assert summaries["step_seconds"].total == told[0].spreads["step_seconds"].total


def test_a_run_that_is_told_not_to_sums_up_nothing(tmp_path: Path) -> None:
    training = Training(tmp_path / "run", telemetry={"three_tier_aggregation": False})
    training.epoch()
    training.session.finish(latency=False)
    assert "telemetry_summary" not in kinds(tmp_path / "run")


def test_a_run_publishes_what_it_tells_and_what_is_no_bus_is_refused(tmp_path: Path) -> None:
    address = str(tmp_path / "bus.sqlite")
    training = Training(tmp_path / "run", telemetry={"bus": address})
    training.epoch()
    training.session.finish(latency=False)
    bus = open_bus(address)
    received = bus.subscribe("TelemetryEvent", "test").receive(1000)
    bus.close()
    told = sorted(received, key=lambda one: one.envelope.idempotency_key)
    published = [messages.TelemetryEvent.FromString(one.envelope.payload).kind for one in told]
    assert published == kinds(tmp_path / "run")
    (tmp_path / "settings.toml").write_text('telemetry.bus = "runs/bus"')
    with pytest.raises(ConfigError, match=r"telemetry.bus.*is no bus"):
        esper.Config.from_toml(tmp_path / "settings.toml")


def test_nothing_of_a_run_can_be_read_by_another_account(tmp_path: Path) -> None:
    run = Training(tmp_path / "runs" / "first", telemetry={"tensorboard": True})
    run.epoch()
    run.session.finish(latency=False)
    inside = [tmp_path / "runs" / "first", *(tmp_path / "runs" / "first").rglob("*")]
    assert {"report.html", "run.json", "tensorboard"} <= {path.name for path in inside}
    assert [path for path in inside if path.stat().st_mode & 0o077] == []


def test_a_collector_that_never_answers_is_told_of_in_the_report_of_a_short_run(tmp_path: Path) -> None:
    class Deaf:
        """Takes one event, and is busy with it for longer than anybody waits."""

        def __init__(self) -> None:
            self.gate = threading.Event()

        def emit(self, event: Event) -> None:
            self.gate.wait(60)

    deaf = Deaf()
    run = Training(tmp_path / "run")
    log = run.session.log
    run.session.parts.telemetry._sinks.append(Apart("Deaf", Forwarding(deaf), log.tell, 10, 0.05))
    run.epoch()
    report = run.session.finish(latency=False).report
    deaf.gate.set()
    assert [note for note in report.notes if "Telemetry to Deaf fails: it has not taken" in note]
    assert "sink_failed" in kinds(tmp_path / "run")
