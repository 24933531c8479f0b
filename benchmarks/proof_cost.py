"""What a proven cut and an `attach` cost, beside Torch-Pruning, which proves nothing.

Usage: python benchmarks/proof_cost.py [--only NAME ...] [--seconds 300]

    resnet18   esper.compact(flops=0.5) of a resnet18 on two images of 224 pixels
    vgg11_bn   the same of a vgg11_bn (133 million weights) on two images of 64 pixels; beside both stands the
               floor of any proof in float64: one pass of the uncut network with its gradient
    demo       esper.attach on the network of the demo
    minilm     esper.attach on a BERT of MiniLM's size: 6 layers of 12 heads, 384 wide, vocabulary of 30,522

Every figure comes from a process of its own with one torch thread. Imports and the first use of the exporter
are not counted; in `demo, first` that first use is.
CPU is what the process itself has used; wall time contains what other processes took. Memory is the growth of
the peak. The convolutional networks come from timm, which needs a torchvision beside it that transformers
stumbles over; see `architectures/images.py`, and run `--only demo minilm` without it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import esper
from architectures.checks import cpu_seconds, flops, outputs, peak
from architectures.images import classifier
from architectures.peer import prune
from scale import Figures, alone

IMAGES = {"resnet18": 224, "vgg11_bn": 64}
TARGETS = {
    "resnet18": "<= 3 s, <= 2x the peer",
    "vgg11_bn": "<= 5 s, <= 1,536 MiB",
    "demo": "<= 2 s",
    "minilm": "<= 5 s",
}


def main() -> int:
    parser = argparse.ArgumentParser(description="what a proven cut and an attach cost")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS), help="which ones")
    parser.add_argument("--seconds", type=float, default=300.0, help="limit for one figure")
    options = parser.parse_args()
    print(f"{'':24}{'target':26}{'wall s':>8}{'CPU s':>8}{'+MiB':>8}{'FLOPs gone':>12}{'differs by':>12}")
    for name in options.only:
        for what, act in acts(name).items():
            print(_line(what, TARGETS[name], alone(act, options.seconds)), flush=True)
    return 0


def acts(name: str) -> dict[str, Callable[[], Figures]]:
    """What is measured of one network, by the words for it."""
    if name in IMAGES:
        return {
            f"{name}, esper": partial(by_esper, name),
            f"{name}, peer": partial(by_peer, name),
            f"{name}, float64": partial(by_one_pass, name),
        }
    measured: dict[str, Callable[[], Figures]] = {name: partial(by_attach, name, warm=True)}
    return {"demo, first": partial(by_attach, name, warm=False), **measured} if name == "demo" else measured


def _line(what: str, target: str, figures: Figures) -> str:
    if "error" in figures:
        return f"{what:24}{target:26}{figures['error']}"
    gone = f"{figures['gone']:12.1%}" if "gone" in figures else ""
    proof = f"{figures['differs']:12.0e}" if "differs" in figures else ""
    seconds = f"{figures['seconds']:8.2f}{figures['cpu_seconds']:8.2f}"
    return f"{what:24}{target:26}{seconds}{figures['bytes'] / 2**20:8.0f}{gone}{proof}"


def by_esper(name: str) -> Figures:
    """Half of the FLOPs by magnitude, cut and proven."""
    model, sample = _ready(name)

    def act() -> Figures:
        result = esper.compact(model, sample=sample, flops=0.5)
        proof = result.proof
        return {
            "gone": 1.0 - result.flops_after / result.flops_before,
            "differs": max(proof.float64_error or 1.0, proof.gradient_error or 1.0),
        }

    return _measured(act)


def by_peer(name: str) -> Figures:
    """Torch-Pruning's graph and one pruning step."""
    model, sample = _ready(name)
    before = flops(model, sample)

    def act() -> Figures:
        prune(model, sample)
        return {}

    figures = _measured(act)
    return {**figures, "gone": 1.0 - flops(model, sample) / before}


def by_one_pass(name: str) -> Figures:
    """What a proof cannot do without, if it is in float64 and compares gradients."""
    model, sample = _ready(name)
    wide = model.double()

    def act() -> Figures:
        wide(sample.double()).sum().backward()
        return {}

    return _measured(act)


def _ready(name: str) -> tuple[nn.Module, Tensor]:
    """The network after one pass, and a process in which everything is imported."""
    esper.compact(
        nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), sample=torch.randn(2, 2), flops=0.3
    )
    torch.manual_seed(0)
    architecture = classifier(name, "proof", IMAGES[name])
    model, sample = architecture.network().eval(), architecture.inputs()
    outputs(model, sample)
    return model, sample


def by_attach(name: str, *, warm: bool) -> Figures:
    """One attach, with held-out data and a target, as training scripts call it."""
    if warm:
        _attached(*demo())
    task = demo() if name == "demo" else minilm()
    return _measured(partial(_attached, *task))


def _attached(model: nn.Module, batch: Callable[[], Any], loss: Callable[[Any, Tensor], Tensor]) -> Figures:
    config = esper.Config.model_validate({"pruning": {"target": {"flops": 0.3}}})
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    with tempfile.TemporaryDirectory() as directory:
        begin, cpu = time.perf_counter(), cpu_seconds()
        session = esper.attach(
            model,
            optimizer,
            loss=loss,
            sample=batch(),
            probe=[batch() for _ in range(8)],
            run_dir=directory,
            config=config,
            epochs=8,
        )
        figures = {"seconds": time.perf_counter() - begin, "cpu_seconds": cpu_seconds() - cpu}
        session.detach()
    return figures


def demo() -> tuple[nn.Module, Callable[[], Any], Callable[[Any, Tensor], Tensor]]:
    from esper.cli.demo import ResNet8

    torch.manual_seed(0)
    return ResNet8(), lambda: (torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))), F.cross_entropy


def minilm() -> tuple[nn.Module, Callable[[], Any], Callable[[Any, Tensor], Tensor]]:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    model: nn.Module = BertForSequenceClassification(BertConfig(**shape))

    def batch() -> Any:
        tokens = torch.randint(5, 30000, (16, 48))
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, torch.randint(0, 2, (16,))

    return model, batch, lambda output, target: F.cross_entropy(output.logits, target)


def _measured(act: Callable[[], Figures]) -> Figures:
    begin, cpu, memory = time.perf_counter(), cpu_seconds(), peak()
    figures = act()
    seconds = {"seconds": time.perf_counter() - begin, "cpu_seconds": cpu_seconds() - cpu}
    return {**seconds, "bytes": peak() - memory, **figures}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
