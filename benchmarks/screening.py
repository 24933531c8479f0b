"""What a first look at a checkpoint costs: a language model of a billion parameters, and units per second.

    python benchmarks/screening.py [--layers 22] [--dtype float32] [--folder DIR] [--json]

First a checkpoint of a Llama-shaped network of 1.1 billion parameters (weights, and both moments of AdamW,
all in `--dtype`) is written to files, and screened in a process of its own: seconds of CPU, and the peak of
its resident memory, imports included. Every byte is verified before it is used. Then the rates: units of
networks that fit into memory, with weights and moments read, scored and ranked; and ranked only, from scores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import blake3
import numpy as np
import torch
from torch import Tensor, nn

from architectures.checks import cpu_seconds
from architectures.llama import llama
from esper.anatomy import Anatomy, Kind
from esper.anatomy.units import inspect
from esper.checkpoint import FileRef, encode, file_pieces, to_json
from esper.elesh import Case, DataRef, screen
from esper.importance import ScoreWeights, combine, fisher_and_magnitude, moments_from_optimizer
from esper.leyline import encode as encode_value

WEIGHTS = ScoreWeights().model_dump()
TARGETS = {"weights": 1e9, "channels": 1e6, "heads": 2e4, "layers": 2e3}
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=22, help="0 leaves the large checkpoint out")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written for the time of the run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Figures] = {}
    if options.layers:
        found["large checkpoint"] = large(options.layers, getattr(torch, options.dtype), options.folder)
    for name, make in {"conv": convolutions, "transformer": transformer}.items():
        found |= {f"{name}, {kind}": rates for kind, rates in rated(*make()).items()}
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for name, figures in found.items():
        print(f"{name}: " + ", ".join(f"{key} {value:,.4g}" for key, value in figures.items()))


def large(layers: int, dtype: torch.dtype, folder: Path | None) -> Figures:
    """Screens a Llama-shaped checkpoint from its files."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        model, anatomy = on_no_device(layers)
        case, written = saved(Path(name), model, anatomy, dtype)
        figures = alone(case)
    return {
        "parameters": float(anatomy.parameters()),
        "units": float(anatomy.num_units),
        "GB of files": written / 1e9,
        **figures,
    }


def on_no_device(layers: int) -> tuple[nn.Module, Anatomy]:
    model, tokens = llama(layers)
    return model, inspect(model, {"input_ids": tokens})


def saved(folder: Path, model: nn.Module, anatomy: Anatomy, dtype: torch.dtype) -> tuple[Case, int]:
    """The files of a checkpoint with made-up values, never all in memory at once."""
    torch.manual_seed(0)

    def made(parameter: Tensor) -> Tensor:
        row = torch.rand(parameter.shape[-1]) + 0.5
        return row.to(dtype).expand(parameter.shape)

    parameters = dict(model.named_parameters())
    weights = {name: made(parameter) for name, parameter in parameters.items()}
    state = {
        number: {"step": torch.tensor(1000.0), "exp_avg": made(p), "exp_avg_sq": made(p)}
        for number, p in enumerate(parameters.values())
    }
    group = {"params": list(range(len(parameters))), "betas": (0.9, 0.999)}
    rest = {
        "extra": {"parameter_names": list(parameters)},
        "optimizer": {"state": state, "param_groups": [group]},
    }
    tree, tensors = encode(rest)
    form = written(folder / "anatomy.json", [json.dumps(encode_value(anatomy)).encode()])
    files = [
        written(folder / "model.safetensors", file_pieces(weights)),
        written(folder / "trainer.json", [to_json({"rest": tree})]),
        written(folder / "optimizer.safetensors", file_pieces(tensors)),
    ]
    unread = DataRef(form, form)  # the twin is too large to be looked at, so neither it nor data is opened
    case = Case(
        twin=form,
        anatomy=form,
        model=files[0],
        optimizer=DataRef(files[1], files[2]),
        tracked=None,
        data=unread,
        masked=(),
        twin_samples=0,
    )
    return case, sum(file.size for file in files)


def written(path: Path, pieces: Iterable[bytes | memoryview]) -> FileRef:
    hasher, size = blake3.blake3(), 0
    with path.open("wb") as file:
        for piece in pieces:
            hasher.update(piece)
            file.write(piece)
            size += len(piece)
    return FileRef(path, size, hasher.hexdigest())


def alone(case: Case) -> Figures:
    """The screen in a fresh process, as a worker runs it."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(case, theirs))
    process.start()
    theirs.close()
    figures: Figures = ours.recv()
    process.join()
    return figures


def _child(case: Case, answer: Connection) -> None:
    torch.set_num_threads(1)
    before, start = cpu_seconds(), time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    ranks = screen(case, WEIGHTS, 5).ranks
    answer.send(
        {
            "units ranked": float(np.isfinite(ranks).sum()),
            "CPU seconds (target 10)": cpu_seconds() - before,
            "seconds elapsed": time.perf_counter() - start,
            "peak GiB (target 1.5)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "of which imports": peak,
        }
    )


def convolutions() -> tuple[nn.Module, Tensor]:
    """Twenty-four convolutions of 256 channels: 2,304 weights a channel are read where it is made."""
    layers = [nn.Conv2d(3 if n == 0 else 256, 256, 3, padding=1) for n in range(24)]
    parts = [part for layer in layers for part in (layer, nn.BatchNorm2d(256), nn.ReLU())]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)), torch.randn(
        2, 3, 8, 8
    )


def transformer() -> tuple[nn.Module, Tensor]:
    """Six layers of width 384 with twelve heads, as in MiniLM."""
    layer = nn.TransformerEncoderLayer(384, 12, 1536, dropout=0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), torch.randn(2, 8, 384)


def rated(model: nn.Module, sample: Tensor) -> dict[str, Figures]:
    """Units a second, with weights and moments read and without."""
    anatomy = inspect(model, sample)
    optimizer = torch.optim.AdamW(model.parameters())
    model(sample).square().mean().backward()
    optimizer.step()
    parameters = dict(model.named_parameters())
    moments = moments_from_optimizer(optimizer, parameters)
    assert moments is not None

    def scored() -> Mapping[str, np.ndarray]:
        # As a screen of a checkpoint does it: one pass over the weights.
        return dict(
            zip(("taylor", "magnitude"), fisher_and_magnitude(anatomy, parameters, moments), strict=True)
        )

    parts = scored()
    weights = {name: WEIGHTS[name] for name in parts}
    heads = sum(group.width for group in anatomy.groups if group.kind is Kind.HEAD)
    layers = sum(p.dim() > 1 for p in parameters.values())
    weights_read = sum(p.numel() for p in parameters.values())
    counts = {"channels": anatomy.num_units - heads, "heads": heads, "layers": layers}
    kinds: dict[str, Callable[[], object]] = {
        "weights and moments read": lambda: combine(scored(), weights),
        "ranked from scores": lambda: combine(parts, weights),
    }
    found = {}
    for kind, act in kinds.items():
        seconds = _median_seconds(act)
        done = counts if kind == "ranked from scores" else {"weights": weights_read, **counts}
        rates = {f"{name}/s (target {TARGETS[name]:g})": n / seconds for name, n in done.items() if n}
        found[kind] = {
            **{name: float(n) for name, n in counts.items()},
            "milliseconds": seconds * 1e3,
            **rates,
        }
    return found


def _median_seconds(act: Callable[[], object], repeats: int = 9) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return median(times)


if __name__ == "__main__":
    main()
