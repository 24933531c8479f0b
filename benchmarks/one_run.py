"""Half and three quarters of the FLOPs removed inside one ordinary training run, beside its uncut twin.

    python benchmarks/one_run.py [--task fashion speeches] [--target 0.5 0.75] [--seeds 3] [--file FILE]
                                 [--stop-after SECONDS] [--fashion DIR] [--speeches DIR] [--table]
                                 [--arm esper peer unmended taught layers]

Torch-Pruning (`peer`) cuts the same network once on the way, after 40 % of the same number of steps. Other
arms are Esper without reconstruction of what reads removed units (`unmended`), with the network from before
the first mask as a teacher (`taught`), and with whole layers among what may go (`layers`). Every training is
written to `--file` when it is done, and what stands there is not trained again; `--stop-after` starts none
after so many seconds, `--table` starts none at all. Times are ratios to the plain run of the same seed;
with other work on the machine, those of the processor (workers included) say more than those of the clock.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from esper.leyline import encode
from one_run_tasks import ARMS, TASKS, Missing, Task, trained

Key = tuple[str, str, float, int]
"""Task, arm, target, seed."""


def main() -> int:
    options = _options()
    done = _read(options.file)
    begun = time.monotonic()
    try:
        tasks = {name: TASKS[name](getattr(options, name)) for name in options.task}
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 1
    logging.getLogger("esper").setLevel(logging.ERROR)
    for key in _keys(options):
        if options.table or time.monotonic() - begun > options.stop_after:
            break
        if key not in done:
            name, arm, target, seed = key
            done[key] = encode(trained(tasks[name], arm, seed, target))
            _write(options.file, key, done[key])
            print(
                f"{name} {arm} {target:g} seed {seed}: {done[key]['final']:.4f}", file=sys.stderr, flush=True
            )
    for name in options.task:
        _print(name, tasks[name], options.target, done)
    return 0


def _options() -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--target", nargs="+", type=float, default=[0.5, 0.75], help="share of the FLOPs")
    parser.add_argument("--arm", nargs="+", choices=[*ARMS][1:], default=["esper", "peer"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--file", type=Path, help="one line of JSON per training; goes on where it ends")
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="seconds")
    parser.add_argument("--table", action="store_true", help="train nothing, print what the file holds")
    parser.add_argument("--fashion", type=Path, help="directory of the Fashion-MNIST files")
    parser.add_argument("--speeches", type=Path, help="directory of the speeches")
    return parser.parse_args()


def _keys(options: Any) -> Iterator[Key]:
    for seed in range(options.seeds):
        for name in options.task:
            yield name, "plain", 0.0, seed
            for target in options.target:
                yield from ((name, arm, target, seed) for arm in options.arm)


def _read(file: Path | None) -> dict[Key, dict[str, Any]]:
    lines = file.read_text().splitlines() if file is not None and file.is_file() else []
    rows = [json.loads(line) for line in lines]
    return {(row["task"], row["arm"], row["target"], row["seed"]): row["figures"] for row in rows}


def _write(file: Path | None, key: Key, figures: dict[str, Any]) -> None:
    if file is not None:
        row = dict(zip(("task", "arm", "target", "seed"), key, strict=True), figures=figures)
        with file.open("a") as end:
            end.write(json.dumps(row) + "\n")


def _print(name: str, task: Task, targets: list[float], done: dict[Key, dict[str, Any]]) -> None:
    plain = {key[3]: figures for key, figures in done.items() if key[:2] == (name, "plain")}
    finals = " ".join(f"{figures['final']:.4f}" for figures in plain.values())
    unit = "accuracy" if task.is_accuracy else "nats"
    print(f"\n## {task.about}\n\nUncut twin, by seed: {finals}. Margins are in {unit}; minus is worse.")
    print("Stretches are looked at when they end, instants right after something was masked or cut.\n")
    print(
        "| target | tool | FLOPs gone | worst drop by a cut | worst instant - twin | worst stretch - twin "
        "| final - twin | each seed | CPU / twin | time / twin |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for target in targets:
        for arm in list(ARMS)[1:]:
            found = {
                key[3]: figures
                for key, figures in done.items()
                if key[:3] == (name, arm, target) and key[3] in plain
            }
            if found:
                print(_row(task, arm, target, found, plain))


def _row(
    task: Task, arm: str, target: float, found: dict[int, dict[str, Any]], plain: dict[int, dict[str, Any]]
) -> str:
    def mean(of: Callable[[int], float]) -> float:
        return statistics.fmean(of(seed) for seed in found)

    leads = {seed: task.lead(figures["final"], plain[seed]["final"]) for seed, figures in found.items()}
    instants = [
        task.lead(quality, plain[seed]["curve"][number - 1])
        for seed, figures in found.items()
        for number, quality in figures["instants"]
    ]
    drops = [
        task.lead(quality, figures["curve"][number - 1])
        for figures in found.values()
        for number, quality in figures["instants"]
    ]
    stretches = [
        task.lead(mine, twins)
        for seed, figures in found.items()
        for mine, twins in list(zip(figures["curve"], plain[seed]["curve"], strict=True))[_first(figures) :]
    ]
    cells = (
        f"-{target:.0%}",
        arm,
        " ".join(f"{figures['share']:.3f}" for figures in found.values()),
        f"{min(drops):+.4f}" if drops else "nothing went",
        f"{min(instants):+.4f}" if instants else "",
        f"{min(stretches):+.4f}" if stretches else "",
        f"{statistics.fmean(leads.values()):+.4f}",
        " ".join(f"{lead:+.4f}" for lead in leads.values()),
        f"{mean(lambda seed: found[seed]['processor_seconds'] / plain[seed]['processor_seconds']):.2f}",
        f"{mean(lambda seed: found[seed]['seconds'] / plain[seed]['seconds']):.2f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _first(figures: dict[str, Any]) -> int:
    """Stretches before the first whose network has lost something."""
    return min((number for number, _ in figures["instants"]), default=len(figures["curve"]))


if __name__ == "__main__":
    sys.exit(main())
