"""The same training in four loops: one's own, by accelerate, by the Hugging Face Trainer, and by Lightning.

    python benchmarks/loops.py [--seeds 3] [--only own accelerate trainer lightning] [--target 0.5]

Each is written as its users write it, and trains a small convolutional network on scikit-learn's digits for
20 epochs, plainly and with Esper (the three calls, or the one line): how much has gone, and how much is lost
against the plain training by the same loop. Points are hundredths of the accuracy on 297 digits that neither
training nor Esper sees. Each training has one torch thread; seconds are those of the processor, with workers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import esper
from architectures.checks import cpu_seconds, flops

EPOCHS, BATCH, RATE = 20, 32, 2e-3
Batch = dict[str, Tensor]


class Digits(Dataset[Batch]):
    """Some of the 1,797 digits of 8 x 8 pixels."""

    def __init__(self, first: int, last: int) -> None:
        pixels, labels = load_digits(return_X_y=True)
        self.pixels = torch.tensor(pixels[first:last] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
        self.labels = torch.tensor(labels[first:last])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        return {"pixels": self.pixels[index], "labels": self.labels[index]}


class Network(nn.Module):
    """Gives its loss where it gets labels, as networks of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
            *(nn.Flatten(), nn.Linear(64, 10)),
        )

    def forward(self, pixels: Tensor, labels: Tensor | None = None) -> Mapping[str, Tensor]:
        logits = self.layers(pixels)
        return {"logits": logits} | ({} if labels is None else {"loss": F.cross_entropy(logits, labels)})


@dataclass(frozen=True)
class Task:
    """What every loop gets. `target` 0: it trains plainly."""

    seed: int
    target: float
    folder: Path

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def config(self) -> dict[str, Any]:
        return {"pruning": {"target": {"flops": self.target}}}


TRAINING, HELD_OUT, TEST = Digits(0, 1200), Digits(1200, 1500), Digits(1500, 1797)


def loaders() -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    return DataLoader(TRAINING, BATCH, shuffle=True), DataLoader(HELD_OUT, 64)


def accuracy(model: nn.Module, data: Digits) -> float:
    was = model.training
    model.eval()
    with torch.no_grad():
        right = model(data.pixels)["logits"].argmax(1) == data.labels
    model.train(was)
    return float(right.float().mean())


def pairs(batches: DataLoader[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        yield batch["pixels"], batch["labels"]


def cross_entropy(output: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    return F.cross_entropy(output["logits"], labels)


def attached(task: Task, model: nn.Module, optimizer: Any, held_out: DataLoader[Batch]) -> Any:
    return esper.attach(
        *(model, optimizer),
        loss=cross_entropy,
        sample=next(pairs(held_out)),
        probe=list(pairs(held_out)),
        metric="accuracy",
        run_dir=task.run_dir,
        config=task.config,
        epochs=EPOCHS,
    )


def own(task: Task) -> nn.Module:
    """A loop of one's own."""
    model, (training, held_out) = Network(), loaders()
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(training))
    session = attached(task, model, optimizer, held_out) if task.target else None
    for _ in range(EPOCHS):
        for x, y in pairs(training):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
            scheduler.step()
        measured = accuracy(model, HELD_OUT)
        if session is not None:
            session.end_epoch(accuracy=measured)
    if session is not None:
        session.finish()
    return model


def accelerate(task: Task) -> nn.Module:
    """A loop around what `Accelerator.prepare` gives."""
    from accelerate import Accelerator  # type: ignore[import-untyped]

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, (training, held_out) = Network(), loaders()
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    model, optimizer, training = accelerator.prepare(model, optimizer, training)
    session = attached(task, model, optimizer, held_out) if task.target else None
    for _ in range(EPOCHS):
        for x, y in pairs(training):
            with accelerator.accumulate(model):
                accelerator.backward(cross_entropy(model(x), y))
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        measured = accuracy(model, HELD_OUT)
        if session is not None:
            session.end_epoch(accuracy=measured)
    if session is not None:
        session.finish()
    unwrapped: nn.Module = accelerator.unwrap_model(model)
    return unwrapped


def trainer(task: Task) -> nn.Module:
    """The Hugging Face Trainer, which evaluates after every epoch."""
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    from esper.integrations.transformers import EsperCallback

    arguments = TrainingArguments(
        output_dir=str(task.folder / "trainer"),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=task.seed,
    )
    running = Trainer(
        model=Network(),
        args=arguments,
        train_dataset=TRAINING,
        eval_dataset=HELD_OUT,
        compute_metrics=lambda found: {"accuracy": float((found[0].argmax(1) == found[1]).mean())},
        callbacks=(
            [EsperCallback(target=task.target, run_dir=task.run_dir, metric="accuracy")]
            if task.target
            else []
        ),
    )
    running.remove_callback(PrinterCallback)
    running.train()
    model: nn.Module = running.model
    return model


def lightning(task: Task) -> nn.Module:
    """Lightning's Trainer, which validates after every epoch."""
    from lightning.pytorch import LightningModule, Trainer

    from esper.integrations.lightning import EsperCallback

    class Module(LightningModule):  # type: ignore[misc]  # nothing is known of it
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def forward(self, pixels: Tensor) -> Tensor:
            logits: Tensor = self.network(pixels)["logits"]
            return logits

        def training_step(self, batch: Batch, _: int) -> Tensor:
            return F.cross_entropy(self(batch["pixels"]), batch["labels"])

        def validation_step(self, batch: Batch, _: int) -> None:
            right = self(batch["pixels"]).argmax(1) == batch["labels"]
            self.log("accuracy", right.float().mean(), batch_size=len(right))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), RATE)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
            return {"optimizer": optimizer, "lr_scheduler": scheduler}

    callbacks = []
    if task.target:
        loss = F.cross_entropy  # the module holds none
        callbacks.append(
            EsperCallback(run_dir=task.run_dir, target=task.target, metric="accuracy", loss=loss)
        )
    module = Module()
    running = Trainer(
        max_epochs=EPOCHS,
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    running.fit(module, *loaders())
    return module.network


LOOPS: dict[str, Callable[[Task], nn.Module]] = {
    "own": own,
    "accelerate": accelerate,
    "trainer": trainer,
    "lightning": lightning,
}


@dataclass(frozen=True)
class Ended:
    """How a training ended."""

    share: float
    accuracy: float
    seconds: float


def trained(name: str, seed: int, target: float) -> Ended:
    """One training; its process has one torch thread."""
    torch.manual_seed(seed)
    sample = TEST.pixels[:1]
    with tempfile.TemporaryDirectory() as folder:
        begun = cpu_seconds()
        model = LOOPS[name](Task(seed, target, Path(folder)))
        seconds = cpu_seconds() - begun
    return Ended(1 - flops(model, sample) / flops(Network(), sample), accuracy(model, TEST), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(LOOPS), default=list(LOOPS))
    parser.add_argument("--target", type=float, default=0.5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| loop | FLOPs gone, by seed | plain, accuracy | against it, points | mean | processor's time |")
    print("|---|---|---|---|---|---|")
    for name in asked.only:
        plain = [trained(name, seed, 0.0) for seed in range(asked.seeds)]
        ours = [trained(name, seed, asked.target) for seed in range(asked.seeds)]
        gains = [100 * (one.accuracy - twin.accuracy) for one, twin in zip(ours, plain, strict=True)]
        times = statistics.median(one.seconds / twin.seconds for one, twin in zip(ours, plain, strict=True))
        print(
            f"| {name} | {' '.join(f'{one.share:.3f}' for one in ours)} "
            f"| {' '.join(f'{twin.accuracy:.3f}' for twin in plain)} "
            f"| {' '.join(f'{gain:+.1f}' for gain in gains)} | {statistics.mean(gains):+.2f} | {times:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
