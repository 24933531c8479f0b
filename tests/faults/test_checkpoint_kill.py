"""kill -9 of a training run with background saves, by the same script that prints the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_training_run_that_is_killed_again_and_again_ends_as_if_it_never_was() -> None:
    result = subprocess.run(
        [sys.executable, "benchmarks/checkpoint_kill.py", "--kills", "15", "--no-peer", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": f"{ROOT}/src", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    tally = json.loads(result.stdout)["esper"]
    assert (tally["kills"], tally["lost"], tally["acknowledged_but_lost"], tally["debris"]) == (15, 0, 0, 0)
    assert tally["equals_uninterrupted_run"] is True
    assert tally["last_step"] > 0
    assert tally["during_a_save"] + tally["swept"] > 0
