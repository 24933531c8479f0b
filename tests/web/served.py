"""A folder of runs that is served over a real socket, and runs as telemetry tells them."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from esper.narset import Region, message_of
from esper.nissa import JsonLines, acts, events, progress
from esper.web.folder import Folder
from esper.web.server import Address, application

RECORD = {
    "epoch": 2,
    "status": "accepted",
    "reason": "It costs <nothing>.",
    "plan_id": "p",
    "units": 3,
    "finalists": 8,
    "removed_before": 0.0,
    "removed_after": 0.25,
    "predicted_loss": 0.01,
    "drop": 0.0,
    "held": {"budget": 5},
}


def epoch(number: int, value: float = 0.5) -> progress.EpochEnded:
    """The end of one epoch of eight steps."""
    return progress.EpochEnded(
        number, 8 * number, {"accuracy": value}, 1e6 / number, 1000, 0, 1.5, 0.1, 10.0, 0.001, 60.0, 0.5, None
    )


def counted(number: int, *seconds: float) -> progress.TelemetrySummary:
    """What the steps of an epoch took."""
    region = Region("rank-0")
    region.record_many("step_seconds", list(seconds))
    message = message_of("rank-0", region.drain()[0], 0).SerializeToString()
    return progress.TelemetrySummary(number, "rank-0", {}, 0, 0, base64.b64encode(message).decode())


class FakeRun:
    """A run directory that tells what a session would; `pid` of whoever is said to write it."""

    def __init__(self, path: Path, *, pid: int | None = None, planned: int = 9) -> None:
        path.mkdir(parents=True, exist_ok=True)
        facts = {
            "model": "models.Net",
            "metric": "accuracy",
            "higher_is_better": True,
            "flops": 1e6,
            "parameters": 1000,
            "epochs_planned": planned,
            "steps_planned": None,
            "every_n_steps": None,
        }
        (path / "run.json").write_text(json.dumps(facts))
        if pid is not None:
            (path / "checkpoints").mkdir(exist_ok=True)
            note = {"pid": pid, "host": socket.gethostname(), "process": "0"}
            (path / "checkpoints" / ".writer.json").write_text(json.dumps(note))
        self._lines = JsonLines(path / "telemetry.jsonl")

    def tell(self, *told: Any) -> None:
        for number, event in enumerate(told):
            self._lines.write(1_795_000_000.0 + number, event)


def training(path: Path) -> FakeRun:
    """A run in its third epoch, with a mask on trial and an analysis under way."""
    run = FakeRun(path, pid=os.getpid())
    masked = acts.Masked(2, 3, 3, False, 0.0, 0.25, "flops", "Go.")
    decided = acts.Decided(2, "accepted", "Go.", "id", RECORD, {})
    ended = progress.AnalysisEnded(2, "accepted", is_late=False, seconds=2.0)
    run.tell(epoch(1, 0.4), epoch(2, 0.6), decided, ended, masked, progress.AnalysisBegan(2))
    run.tell(events.MaskWaits("<script>alert(1)</script>"))
    return run


@contextmanager
def served(folder: Path, token: str = "") -> Iterator[str]:
    """The address of the pages of a folder; with a token, checkpoints can be gone back to."""
    listening = Address(port=0).bind()
    config = uvicorn.Config(
        application(Folder(folder), token=token, is_leaving=lambda: server.should_exit),
        log_level="error",
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()


def get(address: str, *, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Status and text of an answer."""
    request = urllib.request.Request(address, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
