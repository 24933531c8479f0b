"""Power cuts: states of the disk that a cut may leave, from the system calls of who did the work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.faults.disk import Tree, write_tree
from tests.faults.dying import life_of, start, work_traced
from tests.faults.lives import LIVES
from tests.faults.regimes.regime import Regime, spread
from tests.faults.traced import states


def states_of(name: str, folder: Path, most: int) -> list[tuple[str, Tree]]:
    """What a cut may leave of a life, at most `most` states for each moment, with what was acknowledged."""
    root, told = folder / f"{name}-recorded", folder / f"{name}-told"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    told.write_bytes(b"")
    log = folder / f"{name}-trace"
    found = list(states(start(work_traced, name, root, told), root, told, log, most))
    log.unlink()
    return found


def _regime(name: str, goal: int, what: str) -> Regime:
    def cases(folder: Path, first: int, goal: int) -> Iterator[str]:
        found = spread(states_of(name, folder, most=max(16, min(400, goal // 20))), goal)
        disk = folder / f"{name}-disk"
        for told, tree in found[first:]:
            shutil.rmtree(disk, ignore_errors=True)
            write_tree(tree, disk)
            yield life_of(name).problem(disk, told)

    return Regime(f"power-{name}", f"power cut: {what}", goal, cases, is_traced=True)


CUTS = (
    *(
        _regime(name, 1000 if name in ("bundle", "import") else 3000, life.what)
        for name, life in LIVES.items()
    ),
    _regime("run", 2000, "a run that masks, cuts and finishes"),
)
