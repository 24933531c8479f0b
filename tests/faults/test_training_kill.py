"""kill -9 at random moments of a pruned training run: the short form of `benchmarks/training_kill.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training_kill.py"


def test_a_training_run_that_is_killed_at_random_moments_loses_nothing_and_leaves_nothing_behind() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "3", "--seed", "1", "--no-peer", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tally = json.loads(done.stdout)["esper"]
    assert tally["kills"] == 3
    assert (tally["lost"], tally["unverified"], tally["debris"], tally["untold"]) == (0, 0, 0, 0)
    assert tally["resumed"] > 0
