"""Calls of a session in any order, with late analyses: does an error of ours end the training?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.faults.regimes.regime import Regime
from tests.faults.walks import Walker

_MOVES = 25


def walks(folder: Path, first: int, goal: int) -> Iterator[str]:
    for number in range(first, goal):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            wrong = Walker(Path(place), number).walk(_MOVES)
        yield f"walk {number}: {wrong}" if wrong else ""


WALKS = Regime("walks", "a random walk through the calls of a session", 200, walks, bad="ended")
