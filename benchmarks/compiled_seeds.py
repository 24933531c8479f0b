"""Measures what compiling seeds would buy, and whether a compile cache keeps the compiler out of training.

    python benchmarks/compiled_seeds.py            # about four minutes on one core; needs a C++ compiler

Esper does not compile seeds. Rows: (1) forward and backward of a seed alone, as it is and compiled, for all
blueprints; (2) a whole training step with a seed that is blended in, where its share of the step is largest;
(3) what a fresh process does that has what another one has left which has compiled the same seed: the
portable cache (`torch.compiler.save_cache_artifacts`), the compiled function (`aot_compile`,
`torch.compiler.load_compiled_function`), or the folder of torch's cache itself. It is counted how often the
C++ compiler runs there all the same, by a compiler that writes a line for every call. Times of rows 1 and 2
are of the processor, so that neighbors on the machine count for less.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import esper
from esper.nissa import ListSink
from esper.tezzeret import blueprint

PAIRS = 11
IMAGES = ((32, 16, 16, 16), (32, 64, 8, 8), (64, 32, 32, 32))
ROWS = ((32, 64), (256, 512), (16, 64, 128), (8, 256, 384))
SEEDS: dict[str, Sequence[tuple[int, ...]]] = {
    "conv": (*IMAGES, (64, 16, 28, 28)),
    "bottleneck": IMAGES,
    "norm": (IMAGES[0], IMAGES[2], *ROWS[2:]),
    "mlp": ROWS,
    "low_rank": ROWS,
    "attention": ROWS[2:],
}
STEPS = (
    ("conv", (32, 16, 16, 16)),
    ("conv", (32, 32, 32, 32)),
    ("norm", (32, 16, 16, 16)),
    ("mlp", (16, 64, 128)),
)
BLENDING: dict[str, Any] = {
    "significance": 1 - 1e-9,
    "patience_epochs": 99,
    "max_spread": 1e9,
    "max_drift": 1e9,
    "max_shift": 1e9,
    "max_latency": 1e9,
    "max_parameters": 1e9,
    "train_steps": 1,
    "ramp_steps": 10**6,
    "check_every": 10**9,
}
SEED_TARGET, STEP_TARGET = 0.9, 0.95
"""Of the time that it takes as it is: below, compiling would be worth its price."""
FIRST_SEED = (32, 64)
"""Of the `mlp` that is carried to another process."""


def compared(
    one: Callable[[], object], other: Callable[[], object], least: float
) -> tuple[float, float, float]:
    """Seconds that each takes, and the median ratio of pairs, taken in turns for `least` seconds each."""

    def clock(run: Callable[[], object], times: int) -> float:
        begun = time.process_time()
        for _ in range(times):
            run()
        return (time.process_time() - begun) / times

    one(), other()
    times = max(1, int(least / clock(one, 3)))
    pairs = [(clock(one, times), clock(other, times)) for _ in range(PAIRS)]
    ratio = statistics.median(theirs / mine for mine, theirs in pairs)
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), ratio


def seed_of(name: str, shape: tuple[int, ...]) -> nn.Module:
    """A seed that has learned a little: at birth it makes zeros."""
    torch.manual_seed(0)
    seed = blueprint(name, {})(torch.zeros(shape))
    with torch.no_grad():
        for parameter in seed.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return seed


def alone() -> None:
    print(f"\nForward and backward of a seed alone; target: at most {SEED_TARGET:g} of the time as it is.\n")
    print("| blueprint | activations | as it is, us | compiled, us | ratio | compiling, s | target |")
    print("|---|---|---|---|---|---|---|")
    for name, shapes in SEEDS.items():
        for shape in shapes:
            torch.compiler.reset()
            seed, x = seed_of(name, shape), torch.randn(shape)
            fast = torch.compile(seed, dynamic=False)
            gradient = torch.randn(shape)

            def learn(f: Callable[[Tensor], Tensor]) -> None:
                f(x).backward(gradient)  # noqa: B023
                seed.zero_grad()  # noqa: B023

            begun = time.perf_counter()
            learn(fast)
            compiling = time.perf_counter() - begun
            plain, compiled, ratio = compared(lambda: learn(seed), lambda: learn(fast), 0.03)  # noqa: B023
            verdict = "met" if ratio <= SEED_TARGET else "MISSED"
            print(
                f"| {name} | {' x '.join(map(str, shape))} | {1e6 * plain:,.0f} | {1e6 * compiled:,.0f} "
                f"| {ratio:.2f} | {compiling:.1f} | {verdict} |",
                flush=True,
            )


class Block(nn.Module):
    """Two convolutions over pictures, or two maps over the last axis, with a norm."""

    def __init__(self, like: tuple[int, ...]) -> None:
        super().__init__()
        is_image, width = len(like) == 4, like[1] if len(like) == 4 else like[-1]
        maps = [nn.Conv2d(width, width, 3, padding=1) if is_image else nn.Linear(width, width) for _ in "ab"]
        self.first, self.second = maps
        self.norm = nn.BatchNorm2d(width) if is_image else nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(F.relu(self.first(x)))))


class Network(nn.Module):
    def __init__(self, like: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(like) for _ in range(3)))
        self.is_image = len(like) == 4
        self.head = nn.Linear(like[1] if self.is_image else like[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        answer: Tensor = self.head(x.mean((2, 3)) if self.is_image else x.mean(1))
        return answer


def in_training() -> None:
    print(f"\nA training step, seed in BLENDING; target: at most {STEP_TARGET:g} of the time as it is.\n")
    print("| seed | activations | as it is, ms | compiled, ms | ratio | target |\n|---|---|---|---|---|---|")
    for name, shape in STEPS:
        torch.compiler.reset()
        torch.manual_seed(0)
        x, y, model = torch.randn(shape), torch.arange(shape[0]) % 10, Network(shape)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        growth = esper.Growth(
            model, optimizer, loss=F.cross_entropy, probe=[(x, y)], settings=BLENDING, sink=ListSink()
        )
        assert growth.germinate("blocks.1", name).passed

        def step() -> None:
            optimizer.zero_grad()  # noqa: B023
            growth.loss(model(x), y, x).backward()  # noqa: B023
            optimizer.step()  # noqa: B023

        while growth.slots["blocks.1"].stage.name != "BLENDING":
            for _ in range(5):
                step()
            growth.end_epoch()
            assert growth.is_under_way, growth
        seed = growth.slots["blocks.1"].seed.seed
        as_it_is = seed.forward
        fast = torch.compile(as_it_is, dynamic=False)

        def with_seed(forward: Callable[..., Tensor]) -> Callable[[], None]:
            def run() -> None:
                seed.forward = forward  # noqa: B023
                step()

            return run

        plain, compiled, ratio = compared(with_seed(as_it_is), with_seed(fast), 0.15)
        growth.detach()
        verdict = "met" if ratio <= STEP_TARGET else "MISSED"
        print(
            f"| {name} | {' x '.join(map(str, shape))} | {1e3 * plain:.2f} | {1e3 * compiled:.2f} "
            f"| {ratio:.2f} | {verdict} |",
            flush=True,
        )


def applied(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """An `mlp` as a function of its weights, which is what can be compiled for another process."""
    return F.linear(F.gelu(F.linear(x, first)), second)


def carried(way: str, file: Path, *, is_maker: bool) -> None:
    """In a process of its own: compiles a seed and leaves what others may load, or loads it and uses it."""
    begun = time.perf_counter()
    import torch._dynamo
    import torch._inductor.compile_fx
    from torch._dynamo.utils import counters

    importing = time.perf_counter() - begun
    torch.manual_seed(0)
    features = FIRST_SEED[1]
    weights = [nn.Parameter(torch.randn(features, features)) for _ in range(2)]
    x = torch.randn(FIRST_SEED)
    begun = time.perf_counter()
    fast: Any = torch.compile(applied, fullgraph=True)
    if way == "cache" and not is_maker:
        torch.compiler.load_cache_artifacts(file.read_bytes())
    elif way == "function" and is_maker:
        fast = fast.aot_compile(((x, *weights), {}))
        fast.save_compiled_function(str(file))
    elif way == "function":
        with file.open("rb") as stream:
            fast = torch.compiler.load_compiled_function(stream)
    fast(x, *weights).sum().backward()
    seconds = time.perf_counter() - begun
    assert all(weight.grad is not None for weight in weights)
    if way == "cache" and is_maker:
        saved = torch.compiler.save_cache_artifacts()
        assert saved is not None
        file.write_bytes(saved[0])
    hits, misses = (counters["inductor"][f"fxgraph_cache_{what}"] for what in ("hit", "miss"))
    print(f"{importing:.1f} | {seconds:.1f} | {hits} | {misses}")


def elsewhere() -> None:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        print("\nA cache in a fresh process: not measured, there is no C++ compiler here.")
        return
    print("\nThe first call of a seed (mlp, 32 x 64) in two fresh processes. The user has what the maker")
    print("left: the portable cache, the compiled function, or the folder of torch's cache itself.")
    print("Target: the user runs no compiler.\n")
    print("| given | process | import, s | first call, s | cache hits | misses | C++ compiler | target |")
    print("|---|---|---|---|---|---|---|---|")
    for way in ("cache", "function", "folder"):
        with tempfile.TemporaryDirectory() as folder:
            counting, calls = Path(folder) / "g++", Path(folder) / "calls"
            counting.write_text(f'#!/bin/sh\necho >> "{calls}"\nexec "{compiler}" "$@"\n')
            counting.chmod(0o700)
            for role in ("maker", "user"):
                calls.write_text("")
                cache = str(Path(folder) / ("maker" if way == "folder" else role))
                said = subprocess.run(
                    [sys.executable, __file__, "--carried", way, role, str(Path(folder) / "left")],
                    env={**os.environ, "CXX": str(counting), "TORCHINDUCTOR_CACHE_DIR": cache},
                    check=True,
                    text=True,
                    stdout=subprocess.PIPE,
                ).stdout.strip()
                runs = calls.read_text().count("\n")
                verdict = "" if role == "maker" else "met" if not runs else "MISSED"
                print(f"| {way} | {role} | {said} | {runs} runs | {verdict} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--carried", nargs=3, metavar=("WAY", "ROLE", "FILE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args().carried
    torch.set_num_threads(1)
    if chosen is not None:
        carried(chosen[0], Path(chosen[2]), is_maker=chosen[1] == "maker")
        return
    print(f"torch {torch.__version__}, {sys.version.split()[0]}, one thread; medians of {PAIRS} pairs")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # nobody's cache helps, and nothing is left behind
        elsewhere()
        alone()
        in_training()


if __name__ == "__main__":
    main()
