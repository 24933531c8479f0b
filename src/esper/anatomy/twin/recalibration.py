"""Running statistics of batch norms, measured anew while a graph runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from esper.anatomy.twin.narrowed_norms import Left, OverSurvivors

BATCH_NORMS = {
    torch.ops.aten.batch_norm.default: 7,
    torch.ops.aten._native_batch_norm_legit_no_training.default: 6,
}
"""Batch norms, as they are written and written out: the place of their epsilon among the arguments."""


class Recalibrating(OverSurvivors):
    """Interprets the graph with every batch norm by the statistics of the batch, and adds these up."""

    def __init__(self, module: fx.GraphModule, left: Mapping[fx.Node, Left]) -> None:
        super().__init__(module, left)
        self.sums: dict[fx.Node, tuple[Tensor, Tensor, int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.target not in BATCH_NORMS or n.args[3] is None:
            return super().run_node(n)
        given = self.fetch_args_kwargs_from_env(n)[0]
        (x, weight, bias), epsilon = given[:3], given[BATCH_NORMS[n.target]]
        axes = [axis for axis in range(x.dim()) if axis != 1]
        mean, variance = x.mean(axes), x.var(axes, unbiased=x.numel() > x.shape[1])
        before = self.sums.get(n, (torch.zeros_like(mean), torch.zeros_like(variance), 0))
        self.sums[n] = (before[0] + mean, before[1] + variance, before[2] + 1)
        # Later layers are measured on what this one then gives: normalized by the batch.
        normed = torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=epsilon)
        return normed if n.target is torch.ops.aten.batch_norm.default else (normed,)
