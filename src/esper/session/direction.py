"""Which way a metric goes, as far as its name says it."""

from __future__ import annotations

import re

from esper.errors import ConfigError

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


def direction_of(metric: str) -> bool | None:
    """Whether more of a metric is better: False for `val_loss`, True for `neg_loss`, None if unknown."""
    words = re.split("[^a-z0-9]+", re.sub("(?<=[a-z])(?=[A-Z])", "_", metric).lower())
    if words[0] in ("neg", "negative"):
        return True
    known = {*words, *(word.rstrip("0123456789") for word in words)}  # acc1, map50
    if not known.isdisjoint(_LESS.split()) or any(word.endswith(("loss", "error")) for word in words):
        return False
    return None if known.isdisjoint(_MORE.split()) else True


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
