"""What one pruning cycle costs the processor, beside that of another commit.

    python benchmarks/cycle_cost.py [--against COMMIT] [--rounds 3] [--only NAME ...] [--speeches DIR]

Ordinary trainings with nothing set but the target, on a third of their samples, with the analysis in the
training process (`analysis.workers = 0`) and one torch thread. Printed is the time of the thread that works
for a cycle, over the number of cycles that came to an ablation: the worker's tasks `screen`, `ablate` and
`measure`, and `confirm`, the last look on the live weights, for each mask that was looked at. Each figure is
the median over processes; commits take turns. Opening a network after a cut is part of `screen`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from looking import git
from pretrained_networks.peer import called
from strangers_runs import RUNS, Folders
from strangers_runs.run import Run, in_batches, rows, size

HERE = Path(__file__).resolve().parent.parent
NAMES = ("mnist-cnn", "angle-sgd", "glosses-bert", "speeches-gpt")
EPOCHS, SHARE = 8, 3
PARTS = ("screen", "ablate", "measure", "confirm")
Figures = dict[str, float]
Seconds = defaultdict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", default="5868a7f", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(NAMES))
    parser.add_argument("--speeches", type=Path, help="directory of the speeches")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(costs(RUNS[options.one](Folders(None, options.speeches)))))
        return
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        git("worktree", "add", "--detach", str(other), options.against)
        try:
            show(other, options)
        finally:
            git("worktree", "remove", "--force", str(other))


def show(other: Path, options: Any) -> None:
    print("seconds of CPU".ljust(26) + "".join(part.rjust(10) for part in (*PARTS, "cycle", "cycles")))
    for name in options.only:
        figures: dict[str, list[Figures]] = {options.against: [], "here": []}
        for _ in range(options.rounds):
            for label, root in ((options.against, other), ("here", HERE)):
                figures[label].append(in_process(root, name, options))
        for label, each in figures.items():
            middle = [statistics.median(one[part] for one in each) for part in (*PARTS, "cycle", "cycles")]
            print(f"{name:16}{label:10}" + "".join(f"{value:10.2f}" for value in middle), flush=True)


def in_process(root: Path, name: str, options: Any) -> Figures:
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--one", name]
    command += ["--speeches", str(options.speeches.resolve())] if options.speeches else []
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    run = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    figures: Figures = json.loads(run.stdout.splitlines()[-1])
    return figures


def costs(run: Run) -> Figures:
    """Trains with Esper; seconds of every part, per cycle or per mask that was looked at."""
    from esper.workers import InlinePool

    torch.set_num_threads(1)
    logging.getLogger("esper").setLevel(logging.CRITICAL)
    seconds: Seconds = defaultdict(float)
    calls: Counter[str] = Counter()
    meter(InlinePool, "submit", seconds, calls, lambda _, task: task.function_name.rpartition(":")[2])
    part = rows(run.data.train, slice(0, size(run.data.train) // SHARE))
    train(replace(run, epochs=EPOCHS, data=replace(run.data, train=part)), seconds, calls)
    # A screen without an ablation found nobody to ablate.
    cycles = max(1, min(calls["screen"], calls["measure"] // 2))
    each = {"screen": calls["screen"], "ablate": cycles, "measure": cycles, "confirm": calls["confirm"]}
    figures = {name: seconds[name] / max(each[name], 1) for name in PARTS}
    return {**figures, "cycle": sum(figures.values()), "cycles": cycles}


def meter(owner: Any, name: str, seconds: Seconds, calls: Counter[str], label: Callable[..., str]) -> None:
    """Lets a function add the time of its thread to `seconds`."""
    function = getattr(owner, name)

    def metered(*args: Any, **kwargs: Any) -> Any:
        start = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            part = label(*args)
            seconds[part] += time.thread_time() - start
            calls[part] += 1

    setattr(owner, name, metered)


def train(run: Run, seconds: Seconds, calls: Counter[str]) -> None:
    import esper

    torch.manual_seed(0)
    model = run.network()
    optimizer = run.optimizer(model)
    scheduler = run.scheduler(optimizer, run.epochs * run.steps) if run.scheduler else None
    probe = in_batches(run.data.probe, run.batch)
    config = {"analysis": {"workers": 0}, "pruning": {"target": {"flops": run.target}}}
    with tempfile.TemporaryDirectory() as folder:
        session = esper.attach(
            model,
            optimizer,
            loss=run.loss,
            sample=probe[0],
            probe=probe,
            metric=run.metric,
            higher_is_better=not run.is_loss,
            epochs=run.epochs,
            run_dir=f"{folder}/run",
            config=esper.Config.model_validate(config),
        )
        meter(type(session.pruning.acting), "confirm", seconds, calls, lambda *_: "confirm")
        for number in range(1, run.epochs + 1):
            model.train()
            for inputs, target in run.epoch(0, number):
                optimizer.zero_grad()
                run.loss(called(model, inputs), target).backward()
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
            model.eval()
            with torch.no_grad():
                scores = [run.score(called(model, inputs), target).mean() for inputs, target in probe]
            session.end_epoch(**{run.metric: float(torch.stack(scores).mean())})
        session.finish(latency=False)


if __name__ == "__main__":
    main()
