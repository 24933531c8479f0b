"""Time and memory of an anatomy: a language model of a billion parameters, and networks that are awkward.

Usage: python benchmarks/scale.py [--layers 22] [--only [NAME ...]] [--seconds 120] [--no-peer]

First the anatomy of a Llama-shaped network of 1.1 billion parameters on the meta device (no weights): seconds
of CPU and the peak of resident memory of the whole process, with what importing the libraries takes.

Then networks on which a peer took minutes or gigabytes. `anatomy` is `esper.anatomy.inspect`; `cut` is that,
a mask of half of the FLOPs, the cut and its proof in float32 and float64. Torch-Pruning builds its graph and
prunes (it proves nothing), under a limit of time. Every figure comes from a process of its own; memory is the
growth of the peak from when the network had been built and run once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

from architectures.case import Architecture
from architectures.checks import cpu_seconds, flops, outputs, peak
from architectures.images import classifier
from architectures.llama import llama
from architectures.measure import half
from architectures.peer import prune
from esper.anatomy.cut import cut, feasible
from esper.anatomy.proof import Inputs
from esper.anatomy.units import inspect
from esper.errors import SurgeryError

Figures = dict[str, Any]
_TOLD = (
    "{parameters:.3g} parameters, {cpu_seconds:.1f} s of CPU ({seconds:.1f} s elapsed), peak {peak_mib:.0f} "
    "MiB of which {imported_mib:.0f} are there before; {groups} groups, {units} units, {gflops:.1f} GFLOPs"
)
AWKWARD: dict[str, Architecture] = {
    name: classifier(name, "awkward", size)
    for name, size in {
        "mobilevitv2_050": 256,
        "vgg11_bn": 64,
        "resnest14d": 224,
        "rexnet_100": 224,
        "focalnet_tiny_srf": 224,
        "visformer_tiny": 224,
    }.items()
}


def main() -> int:
    options = _options()
    if options.layers:
        figures = alone(partial(billion, options.layers), options.seconds)
        print(f"Llama-shaped, on the meta device: {figures.get('error') or _TOLD.format_map(figures)}\n")
    print(f"{'network':20}{'tool':18}{'seconds':>9}{'+MiB':>7}{'FLOPs gone':>12}")
    for name in AWKWARD if options.only is None else options.only:
        for tool, act in TOOLS.items():
            if tool != "torch-pruning" or options.peer:
                print(_line(name, tool, alone(partial(act, name), options.seconds)), flush=True)
    return 0


def _options() -> Any:
    parser = argparse.ArgumentParser(description="time and memory of an anatomy")
    parser.add_argument(
        "--layers", type=int, default=22, help="layers of the language model; 0: leave it out"
    )
    parser.add_argument("--only", nargs="*", choices=AWKWARD, help="names of networks; none: leave them out")
    parser.add_argument("--seconds", type=float, default=120.0, help="limit for one figure")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="leave Torch-Pruning out")
    return parser.parse_args()


def _line(name: str, tool: str, figures: Figures) -> str:
    if "error" in figures:
        return f"{name:20}{tool:18}{figures['error']}"
    gone = f"{figures['gone']:12.1%}" if "gone" in figures else ""
    return f"{name:20}{tool:18}{figures['seconds']:9.1f}{figures['bytes'] / 2**20:7.0f}{gone}"


def alone(act: Callable[[], Figures], seconds: float) -> Figures:
    """What an act measures in a process of its own, which ends after `seconds`."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(act, theirs))
    process.start()
    theirs.close()
    try:
        figures: Figures = ours.recv() if ours.poll(seconds) else {"error": f"longer than {seconds:.0f} s"}
    except EOFError:
        figures = {"error": "the process died"}
    process.kill()
    process.join()
    return figures


def _child(act: Callable[[], Figures], answer: Connection) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        answer.send(act())
    except Exception as error:  # noqa: BLE001  whatever went wrong is this figure
        line = (str(error).splitlines() or [""])[0]
        answer.send({"error": f"{type(error).__name__}: {line[:120]}"})


def billion(layers: int) -> Figures:
    """The anatomy of TinyLlama's shape, without weights."""
    model, tokens = llama(layers)
    imported, start, cpu = peak(), time.perf_counter(), cpu_seconds()
    anatomy = inspect(model, {"input_ids": tokens})
    return {
        "cpu_seconds": cpu_seconds() - cpu,
        "seconds": time.perf_counter() - start,
        "peak_mib": peak() / 2**20,
        "imported_mib": imported / 2**20,
        "parameters": anatomy.parameters(),
        "groups": len(anatomy.groups),
        "units": anatomy.num_units,
        "gflops": anatomy.flops() / 1e9,
    }


def by_anatomy(name: str) -> Figures:
    """Only the anatomy."""
    model, sample = _ready(AWKWARD[name])
    return _measured(partial(_inspect, model, sample))


def _inspect(model: nn.Module, sample: Any) -> Figures:
    return {"units": inspect(model, sample).num_units}


def by_cut(name: str) -> Figures:
    """Anatomy, half of the FLOPs masked, cut and proven."""
    model, sample = _ready(AWKWARD[name])

    def act() -> Figures:
        anatomy = inspect(model, sample)
        keep = half(model, anatomy, frozenset())
        probe = Inputs((sample,))
        try:
            cut(model, anatomy, keep, probe)
        except SurgeryError:
            keep = half(model, anatomy, frozenset(feasible(model, anatomy, keep, probe)[1]))
            cut(model, anatomy, keep, probe)
        return {"gone": 1.0 - anatomy.flops(keep) / anatomy.flops()}

    return _measured(act)


def by_torch_pruning(name: str) -> Figures:
    """Torch-Pruning's graph and one pruning step."""
    model, sample = _ready(AWKWARD[name])
    before = flops(model, sample)
    figures = _measured(partial(_prune, model, sample))
    return {**figures, "gone": 1.0 - flops(model, sample) / before}


def _prune(model: nn.Module, sample: Any) -> Figures:
    prune(model, sample)
    return {}


TOOLS: dict[str, Callable[[str], Figures]] = {
    "esper anatomy": by_anatomy,
    "esper cut": by_cut,
    "torch-pruning": by_torch_pruning,
}


def _ready(architecture: Architecture) -> tuple[nn.Module, Any]:
    """The network after one pass; the first use of the exporter is not this network's time."""
    inspect(nn.Linear(2, 2), torch.randn(2, 2))
    model, sample = architecture.network().eval(), architecture.inputs()
    outputs(model, sample)
    return model, sample


def _measured(act: Callable[[], Figures]) -> Figures:
    start, memory = time.perf_counter(), peak()
    figures = act()
    return {"seconds": time.perf_counter() - start, "bytes": peak() - memory, **figures}


if __name__ == "__main__":
    sys.exit(main())
