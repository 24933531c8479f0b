"""What the name of a metric says: which way it goes, and whether it is measured on what is trained with."""

from __future__ import annotations

import re
from collections.abc import Collection

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

_IN_TRAINING = {"train", "training", "batch"}


def direction_of(metric: str) -> bool | None:
    """Whether more of a metric is better: False for `val_loss`, True for `neg_loss`, None if unknown."""
    words = _words(metric)
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


def deciding_one(metrics: Collection[str]) -> str | None:
    """The one that decides, of metrics of which nobody said so: '' if none can, None if several could.

    What is measured while training cannot, nor can a mere `loss`. Of several it is the only one of which
    more is better, such as an accuracy beside a loss.
    """
    held_out = [name for name in metrics if name != "loss" and _IN_TRAINING.isdisjoint(_words(name))]
    better = [name for name in held_out if direction_of(name)]
    for those in (held_out, better):
        if len(those) == 1:
            return those[0]
    return None if held_out else ""


def _words(metric: str) -> list[str]:
    return re.split("[^a-z0-9]+", re.sub("(?<=[a-z])(?=[A-Z])", "_", metric).lower())
