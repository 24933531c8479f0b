"""The live view on a real terminal: drawn below what is printed, gone from pipes, harmless in forks."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, sys, time
from pathlib import Path
from esper.nissa import TelemetrySettings
from esper.session.log import RunLog
from esper.session.telemetry import Telemetry
from tests.web.served import epoch

log = RunLog()
telemetry = Telemetry(Path(sys.argv[1]), TelemetrySettings(jsonl=False, console=True), (), log)
log.tell(epoch(1))
print("printed by the script", flush=True)
if (child := os.fork()) == 0:
    print("printed by a fork", flush=True)
    os._exit(0)
os.waitpid(child, 0)
log.tell(epoch(2, 0.75))
telemetry.close()
print("printed at the end", flush=True)
"""


AS_IT_OPENS = """
import os, sys
from rich.live import Live

was, start = sys.stdout, Live.start

def opened(live, *given, **more):
    start(live, *given, **more)
    if (child := os.fork()) == 0:
        os._exit(0 if sys.stdout is was else 1)
    os.write(2, b"the fork has " + (b"no" if os.waitpid(child, 0)[1] == 0 else b"a") + b" proxy ")

Live.start = opened
"""


def shown(folder: Path, *, on_terminal: bool, script: str = SCRIPT) -> str:
    """What a script leaves on a terminal, or in a pipe."""
    (folder / "script.py").write_text(script)
    command = [sys.executable, str(folder / "script.py"), str(folder)]
    paths = os.pathsep.join(["src", ".", os.environ.get("PYTHONPATH", "")])
    settings = {**os.environ, "PYTHONPATH": paths, "TERM": "xterm", "COLUMNS": "100"}
    root = Path(__file__).parents[2]
    if not on_terminal:
        done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=settings, check=True)
        return done.stdout + done.stderr
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=root, env=settings)
    os.close(theirs)
    pieces = []
    try:
        while piece := os.read(ours, 1 << 16):
            pieces.append(piece)
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    return b"".join(pieces).decode()


def test_a_terminal_shows_the_panel_and_whatever_is_printed(tmp_path: Path) -> None:
    text = shown(tmp_path, on_terminal=True)
    for words in (
        "Training epoch 3",
        "75.00 %",
        "printed by the script",
        "printed by a fork",
        "printed at the end",
    ):
        assert words in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is there


def test_a_process_that_is_forked_as_the_view_opens_prints_past_it(tmp_path: Path) -> None:
    """Through the view it would wait for ever for a lock that the drawing thread held."""
    assert "the fork has no proxy" in shown(tmp_path, on_terminal=True, script=AS_IT_OPENS + SCRIPT)


def test_a_pipe_is_left_alone(tmp_path: Path) -> None:
    text = shown(tmp_path, on_terminal=False)
    assert text.split("\n") == ["printed by the script", "printed by a fork", "printed at the end", ""]
