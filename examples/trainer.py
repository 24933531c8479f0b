"""Prunes a small BERT while the Hugging Face `Trainer` trains it: `python examples/trainer.py`.

Takes half a minute. The sentences are made up: the class is the one of four words that a sentence repeats.
One line is Esper's. `torchrun --nproc-per-node 2 examples/trainer.py` trains the same by two processes.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    set_seed,
)

from esper.integrations.transformers import EsperCallback


class Sentences(Dataset[dict[str, Tensor]]):
    """Twelve words each; four of them are the word 0, 1, 2 or 3, which no other is."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, 4, (count,), generator=generator)
        self.words = torch.randint(4, 20, (count, 12), generator=generator)
        places = torch.rand(count, 12, generator=generator).argsort(1)[:, :4]
        self.words.scatter_(1, places, self.labels[:, None].expand(-1, 4))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[index], "labels": self.labels[index]}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of right answers."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main(folder: Path, epochs: int = 10) -> Trainer:
    """Trains, prunes, cuts, saves, and reads what was saved; returns the trainer."""
    set_seed(0)
    shape = BertConfig(
        vocab_size=20,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=12,
        num_labels=4,
    )
    callback = EsperCallback(target=0.5, run_dir=folder / "esper", metric="accuracy")
    trainer = Trainer(
        model=BertForSequenceClassification(shape),
        args=TrainingArguments(
            output_dir=str(folder / "trainer"),
            num_train_epochs=epochs,
            learning_rate=2e-3,
            per_device_train_batch_size=32,
            eval_strategy="epoch",
            save_strategy="epoch",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
        ),
        train_dataset=Sentences(512, seed=1),
        eval_dataset=Sentences(512, seed=2),
        compute_metrics=accuracy,
        callbacks=[callback],  # the one line, with the name that it is given above
    )
    trainer.train()

    trainer.save_model(str(folder / "small"))
    if trainer.is_world_process_zero():  # which has saved it
        small = BertForSequenceClassification.from_pretrained(folder / "small")
        print(callback.result)
        print(f"The saved network has an intermediate_size of {small.config.intermediate_size}, it was 256.")
    return trainer


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(Path(tempfile.mkdtemp(prefix="esper-trainer-")))
