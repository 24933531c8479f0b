"""`esper ask`: what it sends, and what it shows of the answer."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from esper.checkpoint import open_key_ring
from esper.cli.asking import asked, command_of, state_facts, state_table
from esper.errors import BusError, ConfigError
from esper.leyline.wire import messages
from tests.cli.test_main import esper
from tests.session.growers import GROWN
from tests.session.runs import Training


def test_a_run_does_what_it_is_asked_while_it_trains_and_says_so(tmp_path: Path) -> None:
    training, told = Training(tmp_path, **GROWN), list[str]()
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(asked, tmp_path, command_of("rollback", to=0), 60.0, told.append)
        while not asking.done() and training.session.epoch < 1000:
            training.epoch()
    training.session.detach()
    facts = asking.result()
    assert (facts["status"], facts["text"]) == ("done", "Went back to step 0.")
    assert (facts["state"]["epoch"], facts["state"]["breaker"]) == (0, "closed")
    assert told == [f"accepted: It is done where the epoch ends. Key {facts['key']}."]
    assert facts["key"].endswith(":layer")
    rendered = StringIO()
    Console(file=rendered, width=120).print(state_table(facts))
    assert "breaker closed, workers unknown" in rendered.getvalue()


def test_nobody_is_asked_where_nobody_trains(tmp_path: Path) -> None:
    open_key_ring(tmp_path, create=True)
    outcome = esper("ask", str(tmp_path))
    assert outcome.returncode == 2
    assert "Nobody trains in" in outcome.stderr


def test_where_a_run_was_killed_it_is_said_at_once_what_is_waited_for(tmp_path: Path) -> None:
    training, told = Training(tmp_path / "run"), list[str]()
    shutil.copytree(tmp_path / "run", tmp_path / "killed")  # with its mail and the note of who wrote it
    training.session.detach()
    note = tmp_path / "killed" / "checkpoints" / ".writer.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "pid": 2**22 + 1}))
    with pytest.raises(BusError, match=r"Nobody trains there any more, and nobody has resumed it"):
        asked(tmp_path / "killed", command_of("report"), 0.3, told.append)
    assert told == [f"nobody trains in {tmp_path}/killed any more; this waits for a resume, 0.3 s at most."]


@pytest.mark.parametrize(
    ("wish", "given", "why"),
    [
        ("grow", {}, "grow needs --at"),
        ("report", {"slot": "a"}, "--at goes with grow"),
        ("veto", {"to": 0}, "--to goes with rollback"),
        ("grow", {"slot": "a", "why": "b"}, "--why goes with veto"),
    ],
)
def test_words_that_do_not_fit_together_are_refused_before_anything_is_sent(
    wish: str, given: dict[str, str], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        command_of(wish, **given)  # type: ignore[arg-type]


def test_what_a_newer_run_says_and_what_nobody_measured_is_shown_as_that() -> None:
    raw = messages.SystemStatePacket(version=1, metrics={"accuracy": 0.1}).SerializeToString()
    facts = state_facts(messages.SystemStatePacket.FromString(raw + bytes([6 << 3, 99])))
    assert facts["phase"] == "99"
    assert facts["workers"] == "unknown"
    assert (facts["removed_fraction"], facts["checkpoint"]) == (None, None)
    assert facts["metrics"] == {"accuracy": 0.1}
