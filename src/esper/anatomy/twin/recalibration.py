"""Running statistics of batch norms, measured anew while a graph runs.

Most follow training, and after a mask they are what the batches show. Some stand still: a norm that is kept
in eval mode, as in much fine-tuning, keeps statistics of other data, and the layers behind it have learned to
live with these. They are moved only as far as a mask moves what the norm sees.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from esper.anatomy.twin.narrowed_norms import Left, OverSurvivors

BATCH_NORMS = {
    torch.ops.aten.batch_norm.default: 7,
    torch.ops.aten._native_batch_norm_legit_no_training.default: 6,
}
"""Batch norms, as they are written and written out: the place of their epsilon among the arguments."""

_OFF = 1e4
"""A channel that varies so many times as much as before was off before."""


@dataclass(frozen=True)
class Statistics:
    """Mean and variance of every channel, shape [channels] each."""

    mean: Tensor
    variance: Tensor

    def moved(self, before: Statistics, now: Statistics) -> Statistics:
        """As far as those of the same batch move from `before` to `now`.

        A channel that was off before, as one that comes back from a mask, has nothing of its own to move.
        """
        # Variances are moved by a ratio and so stay positive; the small term keeps one near 0 from exploding.
        little = 0.01 * self.variance + torch.finfo(self.variance.dtype).tiny
        ratio = (now.variance + little) / (before.variance + little)
        was_off = before.variance * _OFF < now.variance
        return Statistics(
            torch.where(was_off, now.mean, self.mean + (now.mean - before.mean)),
            torch.where(was_off, now.variance, self.variance * ratio),
        )


@dataclass(frozen=True)
class Seen:
    """What a norm saw in one batch, with the statistics by which it normalized it."""

    batch: Statistics
    by: Statistics


class Recalibrating(OverSurvivors):
    """Interprets the graph with batch norms by the statistics of the batch, and adds these up.

    Args:
        module: the graph.
        left: see `OverSurvivors`.
        norms: those.
        still: norms whose statistics training leaves alone; they go by these.
        before: what another `Recalibrating` saw at them in the same batches, before a mask: theirs are moved
            as far as that moves.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        left: Mapping[fx.Node, Left],
        norms: Collection[fx.Node],
        still: Collection[fx.Node] = (),
        before: Mapping[fx.Node, Sequence[Seen]] | None = None,
    ) -> None:
        super().__init__(module, left)
        self.seen: dict[fx.Node, list[Seen]] = {}
        self._norms, self._still, self._before = frozenset(norms), frozenset(still), before

    def run_node(self, n: fx.Node) -> Any:
        if n.target not in BATCH_NORMS or n not in self._norms:
            return super().run_node(n)
        given = self.fetch_args_kwargs_from_env(n)[0]
        (x, weight, bias), epsilon = given[:3], given[BATCH_NORMS[n.target]]
        batch = Statistics(torch.zeros_like(given[3]), torch.zeros_like(given[4]))
        # With a momentum of 1 the running statistics become those of the batch, in the pass that normalizes.
        normed = torch.batch_norm(x, weight, bias, batch.mean, batch.variance, True, 1.0, epsilon, False)
        if x.numel() == x.shape[1]:  # one value of each channel has no variance
            batch.variance.zero_()
        by = self._standing(n, batch, Statistics(given[3], given[4])) if n in self._still else batch
        self.seen.setdefault(n, []).append(Seen(batch, by))
        # Later layers are measured on what this one then gives.
        if n in self._still:
            normed = torch.nn.functional.batch_norm(x, by.mean, by.variance, weight, bias, eps=epsilon)
        return normed if n.target is torch.ops.aten.batch_norm.default else (normed,)

    def _standing(self, n: fx.Node, batch: Statistics, own: Statistics) -> Statistics:
        if self._before is None:
            return own
        before = self._before[n][len(self.seen.get(n, ()))]  # of the same batch
        return before.by.moved(before.batch, batch)

    def statistics(self) -> dict[fx.Node, Statistics]:
        """Of every norm: the mean of those by which it normalized."""
        return {node: averaged([one.by for one in seen]) for node, seen in self.seen.items()}


def averaged(statistics: Sequence[Statistics]) -> Statistics:
    """The mean of those of several batches."""
    return Statistics(
        torch.stack([one.mean for one in statistics]).mean(0),
        torch.stack([one.variance for one in statistics]).mean(0),
    )
