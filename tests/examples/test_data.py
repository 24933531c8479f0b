"""The examples with text, sound and several processes do what they say, on short runs."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_language_model_gets_smaller_and_still_learns(tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLES / "text.py"))
    removed, nats = example["main"](tmp_path, steps=360, every=30)
    assert removed > 0.2
    assert nats < 2.6  # of 4.6 for a guess among a hundred characters


def test_the_network_that_hears_digits_gets_smaller_and_still_hears(tmp_path: Path) -> None:
    removed, accuracy = runpy.run_path(str(EXAMPLES / "audio.py"))["main"](tmp_path, epochs=8)
    assert removed > 0.2
    assert accuracy > 0.9


def test_two_processes_are_pruned_alike(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*words, str(EXAMPLES / "many_ranks.py"), str(tmp_path / "run")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends = re.findall(r"rank (\d): (\S+) parameters are left. ([\d.]+)% of the flops removed", done.stdout)
    assert sorted(rank for rank, *_ in ends) == ["0", "1"]
    assert len({(left, removed) for _, left, removed in ends}) == 1
    assert float(ends[0][2]) > 40
    assert (tmp_path / "run" / "report.html").exists()
