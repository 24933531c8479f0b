"""What a training script reports: checked, and kept until the period ends in which it was measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from esper.errors import ConfigError
from esper.session.terms import Terms

Metric = float | Callable[[], float] | None
"""What a metric is, or a function that measures it when it is asked for; None: nobody measured it."""

_LESS = """
err mse rmse nmse nrmse msle rmsle mae mape smape wape mase nll kl nats bits bpc bpb perplexity ppl wer cer
eer fid lpips crps brier ece deviance divergence entropy pinball huber mpjpe epe chamfer cost regret
l1 l2
"""
_MORE = """
acc accuracy top correctness f f1 auc auroc auprc ap map precision recall sensitivity specificity iou miou
dice jaccard psnr ssim bleu rouge meteor score r2 em match mcc kappa correlation pearson spearman index ndcg
mrr hit hits return reward likelihood elbo
"""
"""Words in the names of metrics of which less, or more, is better."""


class Metrics:
    """The metrics of the period that has not ended yet."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._numbers: dict[str, float] = {}
        self._step = -1

    def report(self, metrics: Mapping[str, Metric], step: int, *, is_over: bool) -> None:
        """Takes what was measured at `step`; what was reported before under the same names counts no more.

        Args:
            metrics: by name.
            step: optimizer steps made.
            is_over: whether the period ends; otherwise functions are not asked.

        Raises:
            ConfigError: something is no number, or what decisions are made by is missing beside others.
        """
        numbers = self._checked({n: m for n, m in metrics.items() if is_over or not callable(m)})
        if numbers:
            self._numbers |= numbers
            self._step = step

    def take(self, step: int) -> tuple[dict[str, float], int | None]:
        """What was reported for the period that ends at `step`, and at which step unless at this one."""
        numbers, measured = self._numbers, self._step
        self.forget()
        return numbers, measured if 0 <= measured < step else None

    def forget(self) -> None:
        """Training goes on elsewhere."""
        self._numbers, self._step = {}, -1

    def state(self) -> dict[str, Any]:
        return {"numbers": dict(self._numbers), "step": self._step}

    def check(self, state: Mapping[str, Any]) -> None:
        """Whatever was measured then was measured."""

    def load(self, state: Mapping[str, Any]) -> None:
        self._numbers, self._step = dict(state["numbers"]), state["step"]

    @property
    def is_empty(self) -> bool:
        return not self._numbers

    def _checked(self, metrics: Mapping[str, Metric]) -> dict[str, float]:
        name, others = self._terms.metric, ", ".join(metrics.keys() - {"loss"})
        says = self._terms.pace.says
        if others and name not in metrics:
            text = (
                f"end_epoch was told {others}, and attach(metric={name!r}) says that decisions are made by "
                f"{name}. Call session.end_epoch({name}=...), or {name}=None in an epoch in which nobody "
                "measures it. Nothing was changed."
            )
            raise ConfigError(says(text))
        values = {key: value() if callable(value) else value for key, value in metrics.items()}
        try:
            return {key: float(value) for key, value in values.items() if value is not None}
        except (TypeError, ValueError, RuntimeError) as error:
            text = (
                f"end_epoch was told something that is no single number: {error}. Give every metric as one "
                "number, such as its mean. Nothing was changed."
            )
            raise ConfigError(says(text)) from error


def direction_of(metric: str) -> bool | None:
    """Whether more of a metric is better: False for `val_loss`, True for `neg_loss`, None if unknown."""
    words = re.split("[^a-z0-9]+", re.sub("(?<=[a-z])(?=[A-Z])", "_", metric).lower())
    if words[0] in ("neg", "negative"):
        return True
    known = {*words, *(word.rstrip("0123456789") for word in words)}  # acc1, map50
    is_more = not known.isdisjoint(_MORE.split())
    less = known.intersection(_LESS.split())
    if is_more and less <= {"l1", "l2"}:  # a score of the second level, or of two norms
        return True
    if less or any(word.endswith(("loss", "error")) for word in words):
        return False
    return True if is_more else None


def check_direction(given: object) -> None:
    """What `higher_is_better` may be.

    Raises:
        ConfigError: it is neither True nor False nor None.
    """
    if given is not None and not isinstance(given, bool):
        raise ConfigError(
            f"higher_is_better={given!r} is neither True nor False. Nothing was changed. Give True where "
            "more of the metric is better, False where less is, or leave it out where its name says so."
        )
