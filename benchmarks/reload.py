"""Reloading a cut network: with its class, without any source, and as a pickled module.

Usage: python benchmarks/reload.py [--flops 0.5] [--times 5]

A network of resnet50's size (from transformers, random weights) loses half of its FLOPs and is saved in both
of Esper's forms, and by `torch.save` of the whole module, which is how Torch-Pruning keeps what it cut. Every
load runs in a process of its own; "without source" means that the package of the model cannot be imported
there. Timed is what comes after the imports, the median of several processes: seconds elapsed, seconds of CPU
and those of them that building a fresh network takes; an audit hook counts the classes that pickle looks up
meanwhile. The outputs must be those of the cut network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import esper

_START = """
import json, sys, time, torch
from importlib.abc import MetaPathFinder
from pathlib import Path
sys.path.insert(0, {here!r})
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("transformers", "timm", "reload"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
if {is_absent}:
    sys.meta_path.insert(0, Absent())
else:
    from reload import build
    from transformers import ResNetForImageClassification  # the imports are not what is timed
from safetensors.torch import load_file
import esper, esper.session, torch.export
looked_up = []
sys.addaudithook(lambda event, given: looked_up.append(given) if event == "pickle.find_class" else None)
saved = Path({saved!r})
data, built = load_file(saved / "data.safetensors"), 0.0
start, cpu = time.perf_counter(), time.process_time()
try:
"""
_END = """
except Exception as error:
    print(json.dumps({"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}))
    sys.exit()
cpu, seconds, pickled = time.process_time() - cpu, time.perf_counter() - start, len(looked_up)
torch.set_num_threads(1)
with torch.no_grad():
    output = network(pixel_values=data["x"])["logits"]
error = float((output - data["y"]).abs().max() / data["y"].abs().max())
print(json.dumps({"seconds": seconds, "cpu": cpu, "built": built, "pickled": pickled, "difference": error}))
"""


@dataclass(frozen=True)
class Way:
    """How a network is loaded: the file that counts, what the process lacks, and the line that loads."""

    file: str
    is_absent: bool
    line: str


_PICKLED = "network = torch.load({saved}/'whole.pt', weights_only=False)"
_FRESH = (
    "fresh = build(); built = time.process_time() - cpu; network = esper.load({saved}/'small', model=fresh)"
)
_HOLLOW = _FRESH.replace("build()", "build('meta')")
_WAYS = {
    "esper, class built as usual": Way("small/model.safetensors", False, _FRESH),
    "esper, class built on meta": Way("small/model.safetensors", False, _HOLLOW),
    "esper, without any source": Way("small/network.pt2", True, "network = esper.load({saved}/'small')"),
    "pickled module, with the class": Way("whole.pt", False, _PICKLED),
    "pickled module, without source": Way("whole.pt", True, _PICKLED),
}
TARGET_SECONDS = 1.0


def build(device: str = "cpu") -> torch.nn.Module:
    """resnet50, as transformers builds it when nothing is said; on the meta device no weight is drawn."""
    from transformers import ResNetConfig, ResNetForImageClassification

    with torch.device(device):
        model: torch.nn.Module = ResNetForImageClassification(ResNetConfig(num_labels=1000))
        return model.eval()


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder)
        _save(saved, options.flops)
        print(
            f"{'way':34}{'seconds':>9}{'CPU':>7}{'building it':>13}{'MB':>7}{'pickled':>9}  outputs differ by"
        )
        for name, way in _WAYS.items():
            runs = [_run(saved, way) for _ in range(options.times)]
            print(_told(name, runs, (saved / way.file).stat().st_size / 1e6), flush=True)
        _print_strictness(saved)
    return 0


def _options() -> Any:
    parser = argparse.ArgumentParser(description="how fast a cut network is loaded, and what that needs")
    parser.add_argument("--flops", type=float, default=0.5, help="the fraction that stays")
    parser.add_argument("--times", type=int, default=5, help="processes for every way")
    return parser.parse_args()


def _save(saved: Path, flops: float) -> None:
    torch.manual_seed(0)
    model, x = build(), torch.randn(2, 3, 64, 64)
    result = esper.compact(model, sample={"pixel_values": x}, flops=flops)
    result.save(saved / "small")
    torch.save(model, saved / "whole.pt")
    with torch.no_grad():
        save_file({"x": x, "y": model(x).logits}, saved / "data.safetensors")
    kept = result.flops_after / result.flops_before
    print(
        f"resnet50: {result.parameters_before:,} weights cut to {result.parameters_after:,}, "
        f"{kept:.0%} of the FLOPs are left"
    )


def _run(saved: Path, way: Way) -> dict[str, Any]:
    start = _START.format(here=str(Path(__file__).parent), saved=str(saved), is_absent=way.is_absent)
    code = f"{start}    {way.line.format(saved='saved')}{_END}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _told(name: str, runs: list[dict[str, Any]], megabytes: float) -> str:
    if any("error" in run for run in runs):
        return f"{name:34}{next(run['error'] for run in runs if 'error' in run)}"
    seconds, cpu, built = (median(run[key] for run in runs) for key in ("seconds", "cpu", "built"))
    pickled, difference = (max(run[key] for run in runs) for key in ("pickled", "difference"))
    line = f"{name:34}{seconds:9.2f}{cpu:7.2f}{built:13.2f}{megabytes:7.1f}{pickled:9d}  {difference:.1e}"
    if not name.startswith("esper"):
        return line
    is_met = cpu <= TARGET_SECONDS and not pickled
    return f"{line}  (target: {TARGET_SECONDS:.0f} s of CPU, no pickle: {'met' if is_met else 'MISSED'})"


def _print_strictness(saved: Path) -> None:
    """A file with one weight too few must be refused, and leave the network as it is."""
    weights = load_file(saved / "small" / "model.safetensors")
    lost = min(weights)
    del weights[lost]
    save_file(weights, saved / "small" / "model.safetensors")
    try:
        esper.load(saved / "small", model=build())
    except esper.EsperError as error:
        print(f"without {lost}: {type(error).__name__}: {error}")
    else:
        print(f"without {lost}: LOADED")


if __name__ == "__main__":
    sys.exit(main())
