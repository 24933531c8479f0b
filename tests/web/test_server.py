"""What the server answers over real sockets, about runs in every state and folders of every kind."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.errors import ConfigError
from esper.web import Address
from esper.web.folder import Folder
from esper.web.pages import overview, run_page
from tests.web.served import FakeRun, counted, epoch, get, served, training


def test_a_host_that_is_none_of_this_machine_is_told_apart_from_a_port_that_is_taken() -> None:
    with pytest.raises(ConfigError, match=r"Name another --host"):
        Address("192.0.2.1", 0).bind()
    with (
        Address(port=0).bind() as taken,
        pytest.raises(ConfigError, match=r"Name another port, --port 8266"),
    ):
        Address(port=taken.getsockname()[1]).bind()


def test_runs_are_listed_shown_and_compared_and_nothing_of_them_is_markup(tmp_path: Path) -> None:
    training(tmp_path / "a" / "first")
    FakeRun(tmp_path / "second").tell(epoch(1), epoch(2))
    with served(tmp_path) as address:
        status, text = get(address)
        assert status == 200
        assert "2 runs in" in text
        assert "1 of them training now" in text
        assert "a/first" in text
        status, text = get(f"{address}/run?run=a/first")
        assert status == 200
        for words in (
            "Training epoch 3 of 9",
            "analyzing the checkpoint of epoch 2",
            "the mask of epoch 2 proves itself",
            "It costs &lt;nothing&gt;.",
            "5 budget",
            "mask applied",
            "&lt;script&gt;alert(1)",
        ):
            assert words in text
        assert "<script>alert" not in text
        assert "no checkpoint is there to resume from" in get(f"{address}/run?run=second")[1]
        status, text = get(f"{address}/compare?run=a/first&run=second")
        assert status == 200
        assert text.count("<svg") == 2
        assert get(f"{address}/compare?run=second")[0] == 404
        assert get(f"{address}/static/serve.js")[0] == 200
        assert get(f"{address}/static/../server.py")[0] == 404


def test_what_a_run_tells_while_somebody_watches_is_sent(tmp_path: Path) -> None:
    run = training(tmp_path / "first")
    with (
        served(tmp_path) as address,
        urllib.request.urlopen(f"{address}/events?page=/run&run=first", timeout=60) as stream,
    ):
        whole = json.loads(stream.readline().removeprefix(b"data: "))
        assert {"head", "now", "quality", "cycles"} <= whole.keys()
        run.tell(epoch(3, 0.7))
        assert stream.readline() == b"\n"
        changed = json.loads(stream.readline().removeprefix(b"data: "))
        assert "Training epoch 4 of 9" in changed["now"]
        assert "cycles" not in changed


def test_a_page_that_is_open_does_not_hold_up_the_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    training(tmp_path / "first")
    with contextlib.ExitStack() as opened:
        with served(tmp_path) as address:
            stream = opened.enter_context(urllib.request.urlopen(f"{address}/events", timeout=60))
            assert stream.readline().startswith(b"data: ")
        assert stream.read() == b"\n"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["telemetry.jsonl", "run.json", "report.json"])
def test_a_pipe_or_a_device_in_the_place_of_a_file_is_named_and_not_read(tmp_path: Path, name: str) -> None:
    FakeRun(tmp_path / "first").tell(epoch(1))
    (tmp_path / "first" / name).unlink(missing_ok=True)
    (tmp_path / "first" / name).symlink_to("/dev/zero")
    with served(tmp_path) as address:
        assert f"{name} cannot be read: It is no plain file." in get(f"{address}/run?run=first")[1]


@pytest.mark.parametrize("name", ["nothing", "../../etc", "a/first/checkpoints"])
def test_what_is_no_run_is_refused_by_name(tmp_path: Path, name: str) -> None:
    training(tmp_path / "a" / "first")
    with served(tmp_path) as address:
        for page in ("run", "part/checkpoints", "part/network.svg", "decision"):
            status, text = get(f"{address}/{page}?run={name}&epoch=1")
            assert status == 404
            assert "There is no run called" in text


def test_health_and_metrics_tell_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    with served(tmp_path) as address:
        assert json.loads(get(f"{address}/health")[1])["status"] == "unknown"
    training(tmp_path / "first")
    FakeRun(tmp_path / "old").tell(epoch(1))
    with served(tmp_path) as address:
        health = json.loads(get(f"{address}/health")[1])
        assert health["running"] == {"first": "healthy"}
        assert health["runs"]["stopped"] == 1
        (run,) = json.loads(get(f"{address}/health/emrakul")[1])["runs"]
        kept = {one["name"]: one["is_kept"] for one in run["objectives"]}
        assert kept == {
            "analysis_success_rate": True,
            "analysis_duration_p95": True,
            "checkpoint_overhead": True,
            "training_time_impact": True,
            "peak_memory_usage": None,
            "importance_ranking_accuracy": None,
        }
        worker = json.loads(get(f"{address}/health/elesh/0/structured_analysis")[1])
        assert worker == {"status": "unknown", "runs": []}
        text = get(f"{address}/metrics")[1]
        assert 'esper_runs{state="running"} 1.0' in text
        assert 'esper_metric{metric="accuracy",run="first"} 0.6' in text
        assert 'esper_flops_removed_fraction{run="first"} 0.5' in text
        assert 'run="old"' not in text


def test_steps_of_all_epochs_are_one_summary_for_prometheus_and_a_line_on_the_page(tmp_path: Path) -> None:
    run = training(tmp_path / "first")
    run.tell(counted(1, *[0.25] * 98), counted(2, 1.0, 2.0, math.nan))
    with (tmp_path / "first" / "telemetry.jsonl").open("a") as file:
        line = {"at_seconds": 1.0, "kind": "telemetry_summary", "severity": "detail", "text": "", "epoch": 3}
        file.write(json.dumps({**line, "facts": {"message": "////"}}) + "\n")
    with served(tmp_path) as address:
        text = get(f"{address}/metrics")[1]
        assert "# TYPE esper_step_seconds summary" in text
        assert 'esper_step_seconds_count{run="first"} 100.0' in text
        assert 'esper_step_seconds_sum{run="first"} 27.5' in text
        assert 'esper_not_finite_values_total{quantity="step_seconds",run="first"} 1.0' in text
        within = re.findall(r'esper_step_seconds{quantile="([0-9.]+)",run="first"} (.+)', text)
        assert [rank for rank, _ in within] == ["0.5", "0.95", "0.99"]
        assert [float(value) for _, value in within] == pytest.approx([0.25, 0.25, 1.0], rel=1 / 128)
        page = get(f"{address}/run?run=first")[1]
        assert "100 timed: half within 252 ms" in page
        assert "1 line(s)" in page


def test_other_names_and_other_pages_may_not_ask(tmp_path: Path) -> None:
    training(tmp_path / "first")
    with served(tmp_path) as address:
        assert get(address, Host="evil.example")[0] == 400
        assert get(f"{address}/verify?run=first")[0] == 405
        status, text = get(f"{address}/verify?run=first", method="POST", **{"Sec-Fetch-Site": "cross-site"})
        assert status == 404
        assert "may not ask" in text


def test_a_folder_that_is_empty_or_from_elsewhere_is_shown_with_a_clear_word(tmp_path: Path) -> None:
    with served(tmp_path) as address:
        assert "There is no run here yet" in get(address)[1]
        odd = tmp_path / "odd"
        odd.mkdir()
        (odd / "telemetry.jsonl").write_bytes(b"no json\n[1, 2]\n{}\n" + bytes(range(256)) + b"\n")
        (odd / "report.json").write_text("no report")
        (odd / "run.json").write_text('{"flops": "many", "epochs_planned": "x"}')
    with served(tmp_path) as address:
        status, text = get(f"{address}/run?run=odd")
        assert status == 200
        assert "are no telemetry and were left out" in text
        assert "is not JSON" in text
        assert get(address)[0] == 200


def test_of_many_runs_the_newest_are_listed_and_the_rest_on_demand(tmp_path: Path) -> None:
    for number in range(103):
        FakeRun(tmp_path / f"run-{number:03}")
    training(tmp_path / "zzz")
    with served(tmp_path) as address:
        text = get(address)[1]
        assert text.count("<tr>") == 101
        assert "zzz" in text
        assert "4 older runs not listed" in text
        text = get(f"{address}/?all=yes")[1]
        assert text.count("<tr>") == 105
        assert "not listed" not in text


def test_a_page_is_only_sent_what_it_does_not_show_yet(tmp_path: Path) -> None:
    run = training(tmp_path / "first")
    with served(tmp_path) as address:
        page = get(f"{address}/run?run=first")[1]
        found = re.findall(r'id="part-(\w+)" class="part" data-digest="(\w+)"', page)
        seen = ",".join(f"{name}:{digest}" for name, digest in found)
        asked = f"{address}/events?page=/run&run=first&seen={seen}"
        with urllib.request.urlopen(asked, timeout=60) as stream:
            run.tell(epoch(3, 0.7))
            first = json.loads(stream.readline().removeprefix(b"data: "))
    assert "Training epoch 4 of 9" in first["now"]
    assert "notes" not in first


@contextmanager
def nobody() -> Iterator[None]:
    """Where this process may read everything it is somebody else for a while."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_folders_without_permission_are_told_of_and_the_others_shown() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        for name in ("open", "closed"):
            FakeRun(folder / name).tell(epoch(1))
        (folder / "open" / "telemetry.jsonl").chmod(0o000)
        (folder / "closed").chmod(0o000)
        runs = Folder(folder)
        with nobody():
            listed = overview(runs).parts()["runs"]
            shown = run_page(runs, "open").parts()["head"]
        (folder / "closed").chmod(0o700)
    assert "1 folder cannot be read by whoever runs this server: closed (Permission denied)" in listed
    assert ">open</a>" in listed
    assert "telemetry.jsonl cannot be read: Permission denied" in shown


def test_a_run_of_another_version_is_shown_as_far_as_it_is_understood(tmp_path: Path) -> None:
    run = training(tmp_path / "first")
    later = {"at_seconds": 1.0, "kind": "dreamt", "severity": "news", "by": "x", "epoch": 2, "text": "New."}
    later["facts"] = {}
    with (tmp_path / "first" / "telemetry.jsonl").open("a") as file:
        file.write(json.dumps(later) + "\n" + json.dumps({**later, "kind": "epoch_ended"}) + "\n")
    run.tell(epoch(3, 0.9))
    (tmp_path / "first" / "report.json").write_text('{"title": "of the future", "shape": 4}')
    with served(tmp_path) as address:
        status, text = get(f"{address}/run?run=first")
    assert status == 200
    for words in ("Training epoch 4 of 9", "New.", "1 line(s)", "report.json"):
        assert words in text


def test_a_port_in_use_and_a_folder_that_is_not_there_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="Address already in use"):
            Address(port=port).bind()
        with pytest.raises(SystemExit):
            main(["serve", str(tmp_path), "--port", str(port)])
        assert "--port 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["serve", str(tmp_path / "nowhere"), "--port", "0"])
    assert "There is no folder at" in capsys.readouterr().err.replace("\n", " ")
