"""Tier 2 for attention heads: how focused each head's pattern is, and which heads look at the same things."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper.anatomy import Anatomy
from esper.anatomy.twin import Twin
from esper.arrays import FloatArray, IntArray
from esper.elesh.attention_nodes import attentions_of, head_units, weights_of


@dataclass(frozen=True, eq=False)
class HeadPatterns:
    """The patterns of one attention, over all samples and rows of the calibration batches.

    Attributes:
        node: the operator's name in the graph.
        units: the unit of every head, -1 where a head is no unit alone, shape [heads].
        entropy: mean entropy of a row as a share of what the row could have, 0 (one key) to 1 (all alike),
            shape [heads]; NaN where no row has a choice.
        divergence: mean Jensen-Shannon divergence between the rows of two heads, base 2, 0 to 1,
            shape [heads, heads].
        similarity: cosine of the patterns of two heads, shape [heads, heads].
    """

    node: str
    units: IntArray
    entropy: FloatArray
    divergence: FloatArray
    similarity: FloatArray

    @property
    def diversity(self) -> FloatArray:
        """Divergence from the head that is most alike: shape [heads]; 1 for a head that is alone."""
        others = self.divergence.copy()
        # Nothing is more like a head than itself.
        np.fill_diagonal(others, np.inf)
        nearest: FloatArray = others.min(axis=1, initial=1.0)
        return nearest

    def clusters(self, threshold: float) -> list[IntArray]:
        """Heads whose patterns are alike, in groups of two or more: complete linkage, most alike first."""
        # Pairs of heads at or above the threshold, each pair once: [pairs, 2], the most alike first.
        alike = np.triu(self.similarity >= threshold, 1)
        pairs = np.argwhere(alike)
        order = np.argsort(-self.similarity[pairs[:, 0], pairs[:, 1]], kind="stable")
        # Every head begins as a group of its own; `of` is the group of each head.
        groups = [[head] for head in range(len(self.units))]
        of = list(range(len(self.units)))
        for a, b in pairs[order].tolist():
            first, second = of[a], of[b]
            if first == second:
                continue
            both = groups[first] + groups[second]
            # Complete linkage: groups join only where all their heads are alike, not along a chain.
            if (self.similarity[np.ix_(both, both)] >= threshold).all():
                groups[first] = both
                for head in groups[second]:
                    of[head] = first
        return [np.sort(np.array(groups[n], np.int64)) for n in sorted(set(of)) if len(groups[n]) > 1]


def measure_heads(
    twin: Twin, anatomy: Anatomy, state: Mapping[str, Tensor], batches: Sequence[Any]
) -> list[HeadPatterns]:
    """Measures every attention whose heads have an axis of their own; others are not listed.

    Args:
        twin: the network with its loss.
        anatomy: its units.
        state: its tensors, with what is masked already set to zero.
        batches: held-out batches that the twin can take.
    """
    attentions = attentions_of(twin)
    if not attentions or not batches:
        return []
    units = head_units(twin, anatomy, state, batches[0], attentions)
    totals = [_Totals() for _ in attentions]
    for batch in batches:
        for total, weights in zip(totals, weights_of(twin, state, batch, attentions), strict=True):
            total.add(weights.double())
    # Under grouped queries the owners are those of key heads, and every key head serves several heads in a
    # row.
    return [
        HeadPatterns(attention.node, np.repeat(owner, total.heads // owner.size), *total.means())
        for attention, owner, total in zip(attentions, units, totals, strict=True)
    ]


class _Totals:
    """Sums over batches of what is averaged in the end."""

    def __init__(self) -> None:
        self.entropy: Any = 0.0
        self.choices: Any = 0.0
        self.divergence: Any = 0.0
        self.heads = 0
        self.rows = 0
        self.products: Any = 0.0

    def add(self, weights: Tensor) -> None:
        """Takes in weights of shape [samples, heads, queries, keys]."""
        self.heads = heads = weights.shape[1]
        # Keys a row may see: masked ones weigh nothing. Its entropy counts as a share of an even row's; a
        # row of one key has no choice and does not count.
        support = (weights > 0).sum(-1).double()
        has_choice = support > 1
        share = torch.where(has_choice, entropy_bits(weights) / support.clamp_min(2).log2(), 0.0)
        self.entropy = self.entropy + share.sum((0, 2)).numpy()
        self.choices = self.choices + has_choice.sum((0, 2)).double().numpy()
        # [heads, heads], one head against all at a time: memory stays at that of the weights.
        self.divergence = (
            self.divergence
            + torch.stack(
                [jensen_shannon_bits(weights[:, head, None], weights).sum((0, 2)) for head in range(heads)]
            ).numpy()
        )
        self.rows += weights.shape[0] * weights.shape[2]
        # [heads, samples x queries x keys]; the products, summed over batches, give norms and cosines.
        flat = weights.movedim(1, 0).flatten(1)
        self.products = self.products + (flat @ flat.T).numpy()

    def means(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        size = np.sqrt(np.diagonal(self.products))
        entropy = np.divide(
            self.entropy, self.choices, out=np.full(size.shape, np.nan), where=self.choices > 0
        )
        divergence = np.clip(self.divergence / max(self.rows, 1), 0.0, 1.0)
        norms = np.outer(size, size)
        similarity = np.divide(self.products, norms, out=np.zeros_like(norms), where=norms > 0)
        return entropy, divergence, np.clip(similarity, -1.0, 1.0)


def entropy_bits(weights: Tensor) -> Tensor:
    """Entropy of every row in bits: shape [..., keys] -> [...]."""
    nats: Tensor = -torch.special.xlogy(weights, weights).sum(-1)
    return nats / math.log(2.0)


def jensen_shannon_bits(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence of rows in bits, 0 to 1: shape [..., keys] -> [...].

    Source: Lin (1991), "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37.
    """
    middle = entropy_bits((first + second) / 2)
    return middle - (entropy_bits(first) + entropy_bits(second)) / 2
