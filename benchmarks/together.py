"""Is what units cost together the sum of what each costs alone? Layer by layer, on networks in training.

    python benchmarks/together.py [--only NAME ...] [--epochs 2] [--fashion DIR]

Every layer of a few of the strangers' networks loses half of its units after some epochs, those that cost
least alone. Printed is the sum of their single losses (exact ablation, by size), the change of the loss when
they go together, and the same with what reads them reconstructed on other samples: as a multiple of the sum.
If sums were right, both multiples would be near 1 everywhere; a plan needs them to be alike, at least.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch

from esper.anatomy.graph import trace
from esper.anatomy.twin import Twin
from esper.anatomy.units import anatomy_of
from esper.elesh import Bench, OpenCase
from esper.urabrask import ablation_rises, evaluate, joined, run_twin
from strangers_runs import RUNS, Folders
from strangers_runs.run import Run, in_batches

NETWORKS = ("glosses-pre-norm", "mnist-cnn", "digits-mlp", "shapes-unet")
SAMPLES = 256


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--fashion", type=Path, help="directory of the Fashion-MNIST files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | layer | gone | sum alone | together / sum | reconstructed / sum |")
    print("|---|---|---|---|---|---|")
    spreads: list[float] = []
    for name in options.only:
        spreads += table(name, RUNS[name](Folders(options.fashion)), options.epochs)
    spread = statistics.median(spreads)
    print(f"\nLargest over smallest multiple within a network, reconstructed: {spread:.0f} in the median.")


def table(name: str, run: Run, epochs: int) -> list[float]:
    """Prints one row for each layer; how far the multiples of the network lie apart."""
    torch.manual_seed(0)
    model = run.network()
    optimizer = run.optimizer(model)
    for epoch in range(1, epochs + 1):
        for inputs, target in run.epoch(0, epoch):
            optimizer.zero_grad()
            output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
            run.loss(output, target).backward()
            optimizer.step()
    model.eval()
    opened = opened_case(model, run)
    batches = in_batches(run.data.probe, run.batch)[: SAMPLES // run.batch]
    judged = tuple(batches[1::2])
    bench = Bench(opened, joined(opened.twin, batches[0::2]), judged)
    plain = Bench(opened, joined(opened.twin, batches[0::2]), judged, reconstructs=False)

    def change(of: Bench, keep: np.ndarray) -> float:
        losses = (evaluate(run_twin(opened.twin, s), judged).losses for s in (of.without(keep), opened.state))
        after, before = losses
        assert after is not None
        assert before is not None
        return float(np.abs(after - before).mean())

    multiples = []
    for number, group in enumerate(opened.anatomy.groups):
        span = opened.anatomy.unit_slice(number)
        units = np.arange(span.start, span.stop)
        rises = ablation_rises(opened.twin, opened.anatomy, opened.state, judged, units)
        alone = np.abs(rises.mean(axis=1))
        gone = units[np.argsort(alone, kind="stable")][: units.size // 2]
        whole = float(alone[gone - span.start].sum())
        if not gone.size or not np.isfinite(whole) or whole <= 0:
            continue
        keep = opened.keep.copy()
        keep[gone] = False
        together, mended = (change(each, keep) / whole for each in (plain, bench))
        multiples.append(mended)
        print(
            f"| {name} | {group.name} | {gone.size} of {units.size} | {whole:.4f} | {together:.2f} "
            f"| {mended:.2f} |",
            flush=True,
        )
    return [max(multiples) / max(min(multiples), 1e-9)] if len(multiples) > 1 else []


def opened_case(model: torch.nn.Module, run: Run) -> OpenCase:
    """The network as workers see it."""
    sample = run.epoch(0, 0)[0]
    traced = trace(model, sample, run.loss)
    anatomy = anatomy_of(traced, model)
    state = {n: t.detach() for n, t in (*model.named_parameters(), *model.named_buffers())}
    return OpenCase(Twin.of(traced), anatomy, state, np.ones(anatomy.num_units, np.bool_))


if __name__ == "__main__":
    main()
