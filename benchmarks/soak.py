"""Breaks Esper in every way that is known, many times, and counts what it costs.

Usage: python benchmarks/soak.py [--scale 1] [--minutes 0] [--only NAME ...] [--results FILE] [--fresh]

Every row is a way of breaking it, of `tests/faults/regimes`, by which few cases run with the tests: kills,
power cuts, full disks, calls that fail, damaged files, workers that crash. Numbers are those of the design
times `--scale`. They run in turns, so that each has got its share when `--minutes` are over; what was counted
is kept in the file of results, and the next call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from multiprocessing import forkserver
from pathlib import Path

import checkpoint_kill
import training_kill

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.faults.regimes import REGIMES, Regime
from tests.faults.traced import can_trace
from tests.workers.processes import children_of

PRELOAD = ["__main__", *training_kill.PRELOAD, "tests.faults.dying", "tests.faults.trained"]
logging.getLogger("esper").setLevel(logging.CRITICAL)  # thousands of runs tell what happened to them
TURN_SECONDS = 10.0
MOST_PROBLEMS = 20
ROUND = 20
"""Kills of one training run."""


def kills_of_training(folder: Path, first: int, goal: int) -> Iterator[str]:
    """A training run is killed again and again, and must end as if it never was."""
    for number in range(first, goal, ROUND):
        with tempfile.TemporaryDirectory(dir=folder) as run:
            kills = min(ROUND, goal - number)
            target, rng = checkpoint_kill.train_with_store, random.Random(f"training {number}")
            tally = checkpoint_kill.campaign(target, Path(run), kills, rng)
            checkpoint_kill.check_the_end(Path(run), tally)
        wrong = tally.lost + tally.acknowledged_but_lost + tally.debris
        same = tally.last_step == 0 or tally.equals_uninterrupted_run
        yield f"{asdict(tally)}" if wrong or not same else ""
        yield from [""] * (kills - 1)


def kills_of_pruning(folder: Path, first: int, goal: int) -> Iterator[str]:
    """A run that masks and cuts is killed again and again."""
    for number in range(first, goal, ROUND):
        with tempfile.TemporaryDirectory(dir=folder) as run:
            kills, rng = min(ROUND, goal - number), random.Random(f"pruning {number}")
            tally = training_kill.campaign(training_kill.train_with_esper, Path(run), kills, rng, 1.2)
        wrong = tally.lost + tally.unverified + tally.debris + tally.untold
        yield f"{asdict(tally)}" if wrong else ""
        yield from [""] * (kills - 1)


ALL = (
    *REGIMES,
    Regime("kill-training", "kill -9 of training with background saves", 500, kills_of_training),
    Regime("kill-pruning", "kill -9 of a run that masks and cuts", 200, kills_of_pruning),
)


@dataclass
class Row:
    """What is known of one way of breaking it.

    Attributes:
        cases: how many there were.
        bad: how many of them went wrong.
        ended: whether all were done, or all that there are.
        seconds: that they took.
        problems: the first ones.
    """

    cases: int = 0
    bad: int = 0
    ended: bool = False
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class Soak:
    """Runs ways of breaking it in turns, and keeps what was counted in a file.

    Args:
        results: the file.
        scale: of all numbers.
        folder: for scratch.
    """

    def __init__(self, results: Path, scale: float, folder: Path) -> None:
        self.results, self.scale, self.folder = results, scale, folder
        self.rows: dict[str, Row] = {}
        if results.exists():
            known = json.loads(results.read_text())
            if known["scale"] == scale:
                self.rows = {name: Row(**row) for name, row in known["rows"].items()}
            else:
                print(f"{results} is of scale {known['scale']}: begun anew.", file=sys.stderr)

    def goal(self, regime: Regime) -> int:
        return max(1, round(regime.goal * self.scale))

    def run(self, regimes: list[Regime], seconds: float) -> None:
        """Runs them until all have ended, or the time is over."""
        end = time.monotonic() + seconds if seconds else float("inf")
        with ExitStack() as opened:
            going: dict[str, Iterator[str]] = {}
            for regime in regimes:
                row = self.rows.setdefault(regime.name, Row())
                if not row.ended:
                    place = self.folder / regime.name
                    place.mkdir()
                    cases = regime.cases(place, row.cases, self.goal(regime))
                    going[regime.name] = opened.enter_context(closing(cases))  # type: ignore[type-var]
            while going and time.monotonic() < end:
                for regime in regimes:
                    if regime.name in going and time.monotonic() < end:
                        self._turn(regime, going, end)

    def _turn(self, regime: Regime, going: dict[str, Iterator[str]], end: float) -> None:
        row, begun = self.rows[regime.name], time.monotonic()
        until = min(end, begun + TURN_SECONDS)
        try:
            row.ended = not self._count(regime, going[regime.name], until)
        finally:
            row.seconds += time.monotonic() - begun
            self._keep()
        if row.ended:
            del going[regime.name]
        of = "done" if row.ended else f"of {self.goal(regime):,}"
        print(
            f"{time.strftime('%H:%M:%S')} {regime.name}: {row.cases:,} {of}, {row.bad} {regime.bad}",
            file=sys.stderr,
        )

    def _count(self, regime: Regime, cases: Iterator[str], until: float) -> bool:
        """Counts cases until it is late; False: there are no more."""
        row = self.rows[regime.name]
        for wrong in cases:
            row.cases += 1
            if wrong:
                row.bad += 1
                row.problems = [*row.problems, wrong][:MOST_PROBLEMS]
                print(f"\n{regime.name}, case {row.cases - 1}: {wrong}", file=sys.stderr)
            if time.monotonic() >= until:
                return True
        return False

    def _keep(self) -> None:
        beside = self.results.with_name(self.results.name + ".new")
        rows = {name: asdict(row) for name, row in self.rows.items()}
        beside.write_text(json.dumps({"scale": self.scale, "rows": rows}, indent=1) + "\n")
        beside.replace(self.results)

    def table(self, regimes: list[Regime]) -> str:
        lines = [
            "| broken by | cases | wanted | went wrong | target | cases reached | minutes |",
            "|---|---|---|---|---|---|---|",
        ]
        for regime in regimes:
            row, goal = self.rows.get(regime.name, Row()), self.goal(regime)
            reached = "yes" if row.cases >= goal else "all there are" if row.ended else "missed: time"
            wanted = f"{row.cases:,}" if row.ended and row.cases < goal else f"{goal:,}"
            cells = (
                f"{row.cases:,}",
                wanted,
                f"{row.bad} {regime.bad}",
                "0",
                reached,
                f"{row.seconds / 60:.1f}",
            )
            lines.append(f"| {regime.what} | {' | '.join(cells)} |")
        return "\n".join(lines)


def leftovers(folder: Path) -> list[str]:
    """Processes and mounts that are still there."""
    helpers = ("forkserver", "resource_tracker")
    found = [
        pid for pid in children_of(os.getpid()) if not any(helper in _command(pid) for helper in helpers)
    ]
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
    return [*(f"process {pid}: {_command(pid)}" for pid in found), *mounts]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Breaks Esper many times and counts what it costs.")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of all numbers; 0.01 is done in a minute or two"
    )
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so many; 0: when all is done")
    parser.add_argument(
        "--only", nargs="*", default=[], choices=[regime.name for regime in ALL], metavar="NAME"
    )
    parser.add_argument("--results", type=Path, default=Path("build/soak.json"), help="what was counted")
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    parser.add_argument("--json", action="store_true", help="print what was counted as JSON")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # either of them leaves nothing behind
        signal.signal(number, signal.default_int_handler)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    forkserver.ensure_running()  # one for all, with all that any of them imports
    options.results.parent.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        options.results.unlink(missing_ok=True)
    regimes = [regime for regime in ALL if not options.only or regime.name in options.only]
    untraced = [] if can_trace() else [regime for regime in regimes if regime.is_traced]
    regimes = [regime for regime in regimes if regime not in untraced]
    if untraced:
        names = ", ".join(regime.name for regime in untraced)
        print(f"Not measured, since strace is not there or may trace nothing: {names}.", file=sys.stderr)
    memory = Path("/dev/shm")  # a disk would spend the time with syncs that nothing here is about
    with tempfile.TemporaryDirectory(prefix="esper-soak-", dir=memory if memory.is_dir() else None) as folder:
        soak = Soak(options.results, options.scale, Path(folder))
        try:
            soak.run(regimes, 60 * options.minutes)
        except KeyboardInterrupt:
            print("\nStopped; the next call goes on from here.", file=sys.stderr)
        left = leftovers(Path(folder))
    rows = {regime.name: asdict(soak.rows.get(regime.name, Row())) for regime in regimes}
    print(
        json.dumps({"scale": options.scale, "rows": rows, "left": left})
        if options.json
        else soak.table(regimes)
    )
    if not options.json:
        print(f"\nProcesses and mounts left: {len(left)} (target 0).")
    sys.exit(bool(left) or any(row["bad"] for row in rows.values()))


if __name__ == "__main__":
    main()
