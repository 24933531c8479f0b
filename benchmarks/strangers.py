"""Trainings as strangers write them, with nothing set but a target: reached, as good, and at what price?

    python benchmarks/strangers.py --file FILE [--only NAME ...] [--arm twin esper peer narrow]
                                   [--seeds 3 | 0 2 ...] [--stop-after SECONDS] [--jobs N]
                                   [--table] [--page FILE] [--list] [--fashion DIR] [--speeches DIR]

Every run is trained plainly (`twin`), with Esper's default settings and a share of the FLOPs as its target
(`esper`), and cut to it once by Torch-Pruning after 40 % of the same steps (`peer`): with the same order
of samples and the same weights to begin with. Whoever asks (`--arm narrow`) sees what the widths that Esper
found give in a network that is born with them, where its modules know how to be born. Each training has a
process of its own and one torch thread; what it gave is appended to `--file` as one line of JSON, and what
stands there is not trained again.

Points are hundredths of an accuracy; a loss that is larger by 2 % is one point worse. Data that no run shows
to Esper or to training judges the end (`final`) and is looked at in between (`curve`, `instants`). Workers
count in the processor's time; the time of the clock says little on a busy machine. A run has reached its
target if torch's counter finds that share gone, but for half a percent by which counts may differ.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import esper
from strangers_runs import ARMS, MISSING, RUNS, SHORT, Record, Together, summary, table

Key = tuple[str, str, int]
"""Run, arm, seed."""


@dataclass
class Battery:
    """What has been trained, and the trainings that are to come.

    Attributes:
        options: of the command line.
        done: all records.
        missing: by run, what is not on this machine.
    """

    options: Any
    done: dict[Key, Record]
    missing: dict[str, str]

    def __post_init__(self) -> None:
        self._begun, self._lock = time.monotonic(), Lock()

    def train(self) -> None:
        """All that is not there yet, as many at a time as there are jobs."""
        with ThreadPoolExecutor(self.options.jobs) as threads:
            list(threads.map(self._one, self._keys()))

    def _keys(self) -> Iterator[Key]:
        for seed in _seeds(self.options.seeds):
            for name in self.options.only:
                yield from (
                    (name, arm, seed) for arm in self.options.arm if (name, arm, seed) not in self.done
                )

    def _one(self, key: Key) -> None:
        name, arm, seed = key
        if name in self.missing or time.monotonic() - self._begun > self.options.stop_after:
            return
        status, output, errors = _process(self.options, key)
        with self._lock:
            if status == MISSING:
                self.missing[name] = errors.strip().splitlines()[-1]
                print(f"{name}: missing: {self.missing[name]}", file=sys.stderr, flush=True)
                return
            record = (
                Record(**json.loads(output.splitlines()[-1])) if status == 0 else _died(key, status, errors)
            )
            self.done[key] = record
            with self.options.file.open("a") as end:
                end.write(json.dumps(asdict(record)) + "\n")
            print(f"{name} {arm} seed {seed}: {_short(record)}", file=sys.stderr, flush=True)


def _process(options: Any, key: Key) -> tuple[int, str, str]:
    """Exit status and what was printed; at the deadline the process goes, and its workers with it."""
    command = [sys.executable, "-m", "strangers_runs", *map(str, key)]
    for name in ("fashion", "speeches"):
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name).resolve())]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=options.deadline)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        errors = f"ran past its deadline of {options.deadline:g} s"
    return process.returncode, output, errors


def _died(key: Key, status: int, errors: str) -> Record:
    last = (errors.strip().splitlines() or ["said nothing"])[-1]
    return Record(*key, error=f"process ended with status {status}: {last[:400]}")


def _short(record: Record) -> str:
    if record.error:
        return record.error
    quality = f"{record.metric} {record.final:.4f}"
    return f"{record.share:.3f} gone, {quality}, {record.cpu_seconds:.0f} s of the processor"


def _seeds(given: list[int]) -> list[int]:
    """One number says how many, several say which."""
    return given if len(given) > 1 else list(range(given[0]))


def _read(file: Path) -> dict[Key, Record]:
    lines = file.read_text().splitlines() if file.is_file() else []
    records = [Record(**json.loads(line)) for line in lines]
    return {(record.name, record.arm, record.seed): record for record in records}


def _page(battery: Battery) -> str:
    runs = [Together.of(name, list(battery.done.values())) for name in battery.options.only]
    runs = [run for run in runs if run.ours and run.twins]
    seeds = sorted({record.seed for record in battery.done.values()})
    about = f"{len(runs)} runs, seeds {', '.join(map(str, seeds))}; points, minus is worse."
    missing = [f"- {name} was not run: {why}" for name, why in battery.missing.items()]
    return "\n".join([about, "", *summary(runs), "", *table(runs), *([""] if missing else []), *missing])


def _options() -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--file", type=Path, default=Path("strangers.jsonl"), help="one line for each training"
    )
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(SHORT), metavar="NAME")
    parser.add_argument("--arm", nargs="+", choices=list(ARMS), default=["twin", "esper", "peer"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[3], help="how many, or which")
    parser.add_argument(
        "--stop-after", type=float, default=float("inf"), help="start none after these seconds"
    )
    parser.add_argument("--deadline", type=float, default=1_800.0, help="seconds of one training")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--table", action="store_true", help="train nothing, print what the file holds")
    parser.add_argument("--page", type=Path, help="write the tables here, too")
    parser.add_argument("--list", action="store_true", help="print the names of the runs")
    parser.add_argument("--fashion", type=Path, help="directory of the Fashion-MNIST files")
    parser.add_argument("--speeches", type=Path, help="directory of the speeches")
    options = parser.parse_args()
    if not _seeds(options.seeds):
        parser.error("--seeds 0 is no seed at all: one number says how many, 1 or more; several say which")
    return options


def _compile() -> None:
    """Byte code of Esper, as pip leaves it: without it, every process of a clone would make its own."""
    for folder in (Path(esper.__file__).parent, Path(__file__).parent / "strangers_runs"):
        compileall.compile_dir(folder, quiet=2)


def main() -> int:
    options = _options()
    if options.list:
        print("\n".join(RUNS))
        return 0
    battery = Battery(options, _read(options.file), {})
    if not options.table:
        _compile()
        battery.train()
    page = _page(battery)
    print(page)
    if options.page is not None:
        options.page.write_text(f"# Strangers' runs\n\n{page}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
