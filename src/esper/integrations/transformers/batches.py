"""What a Hugging Face `Trainer` is to Esper: its batches, its loss, and how often it evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader

from esper.batches import samples
from esper.errors import ConfigError
from esper.integrations.guest import PERIODS, first_batches, say
from esper.integrations.wish import Wish
from esper.session import FROM_PROBE, direction_of

if TYPE_CHECKING:
    from transformers import Trainer, TrainerState, TrainingArguments

_IGNORED = -100
"""A label that losses do not count."""


class Batches:
    """The trainer's batches as Esper takes them: inputs by keyword and a target, and the loss of the two.

    The network sees its labels, and its own loss counts, unless somebody gave another one.
    """

    def __init__(self, trainer: Trainer, wish: Wish) -> None:
        self._trainer = trainer
        self._wish = wish
        given = trainer.compute_loss_func
        own = (
            None if given is None else (lambda output, labels: given(output, labels, num_items_in_batch=None))
        )
        self._loss = wish.loss or own
        self._label = (trainer.label_names or ["labels"])[0]

    def loss(self, output: Any, target: Any) -> Tensor:
        """The loss of one batch."""
        if self._loss is not None:
            return self._loss(output, target)
        own: Tensor | None = output.get("loss") if isinstance(output, Mapping) else output[0]
        if own is None:
            raise ConfigError(
                "The network gives no loss: do its batches hold labels? Give loss(output, labels) as "
                "EsperCallback(loss=...)."
            )
        return own

    def held_out(self) -> list[Any]:
        """A few batches that training never sees, all of one length.

        Raises:
            ConfigError: there is no data for them.
        """
        args, probe = self._trainer.args, self._wish.probe
        if probe is None:
            if self._trainer.eval_dataset is None:
                raise ConfigError(
                    "There is no held-out data to decide by: this Trainer has no eval_dataset. Nothing was "
                    "changed. Give one, or EsperCallback(probe=...), batches that training never sees."
                )
            data = self._trainer.eval_dataset
            loader = self._trainer.get_eval_dataloader(next(iter(data)) if isinstance(data, dict) else None)
            probe = DataLoader(loader.dataset, args.per_device_eval_batch_size, collate_fn=loader.collate_fn)
        batches = first_batches(map(dict, probe), self._wish.probe_samples, samples)
        if not batches:
            raise ConfigError("The held-out data holds no batch. Nothing was changed.")
        return [self._with_target(batch) for batch in self._padded(batches)]

    def _with_target(self, batch: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        labels = batch.get(self._label)
        if self._loss is not None:
            return {name: value for name, value in batch.items() if name != self._label}, labels
        # One class for each sample can be counted right or wrong; what a decoder predicts stands one place
        # further on than its labels, so the loss alone tells of it.
        return batch, labels if isinstance(labels, Tensor) and labels.dim() == 1 else None

    def _padded(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Sequences of different lengths become equally long, as a collator does within a batch."""
        lengths = {batch["input_ids"].shape[1] for batch in batches if "input_ids" in batch}
        if len(lengths) < 2:
            return batches
        config = getattr(self._trainer.model, "config", None)
        filler = {
            self._label: _IGNORED,
            "input_ids": getattr(config, "pad_token_id", None) or 0,
        }
        longest = max(lengths)

        def grown(name: str, value: Any, length: int) -> Any:
            if not isinstance(value, Tensor) or value.dim() < 2 or value.shape[1] != length:
                return value
            return pad(value, (0, 0) * (value.dim() - 2) + (0, longest - length), value=filler.get(name, 0))

        return [
            {name: grown(name, value, batch["input_ids"].shape[1]) for name, value in batch.items()}
            for batch in batches
        ]


def metric_of(wish: Wish, args: TrainingArguments, evaluated: object) -> tuple[str, bool]:
    """What decisions are made by, and whether higher is better.

    Args:
        wish: what was asked for.
        args: of the trainer.
        evaluated: its `eval_dataset`.
    """
    name = wish.metric
    if name is not None and args.eval_strategy == "no":
        say(
            f"Decisions wait for {name}, and this Trainer never evaluates by itself (eval_strategy='no'). "
            "Let it evaluate, or leave metric= out: then the loss on Esper's own held-out batches decides.",
            is_problem=True,
        )
    if name is None and args.metric_for_best_model is not None:
        name = str(args.metric_for_best_model).removeprefix("eval_")
        if wish.higher_is_better is None and args.greater_is_better is not None:
            return name, bool(args.greater_is_better)
    if name is None:
        name = FROM_PROBE if args.eval_strategy == "no" else "loss"
    if name == "loss" and wish.metric is None and isinstance(evaluated, dict) and evaluated:
        name = f"{next(iter(evaluated))}_loss"
        say(
            f"This Trainer evaluates {len(evaluated)} sets, and decisions are made by the loss on the first, "
            f"{name}. EsperCallback(metric=...) names another."
        )
    if wish.higher_is_better is not None:
        return name, wish.higher_is_better
    return name, direction_of(name) is not False


def period_of(wish: Wish, args: TrainingArguments, state: TrainerState, loader: Any) -> int:
    """Optimizer steps between two decisions."""
    if wish.every_n_steps is not None:
        return wish.every_n_steps
    if args.eval_strategy == "steps":
        return max(int(state.eval_steps), 1)
    try:
        per_epoch = -(-len(loader) // int(args.gradient_accumulation_steps))
    except TypeError:  # a stream
        per_epoch = 0
    if args.eval_strategy == "epoch" and per_epoch:
        return per_epoch
    return max(int(state.max_steps) // PERIODS, 1)
