"""How much of a network's work runs over widths that stay, by the operator that says so."""

from __future__ import annotations

import re
from collections import defaultdict
from math import prod

import numpy as np

from esper.anatomy.graph import Traced
from esper.anatomy.units.inspection import classes_of

_PLACE = re.compile(r" at [\w./]+")


def work_held(traced: Traced, *, allow_approximate: bool = False) -> dict[str, float]:
    """The share of the work of all contractions that each reason has a part in, the largest first.

    A matrix product of which half the columns stay is held by half. One that two reasons hold counts for
    both, so shares can add up to more than 1. Reasons name the operator, not its place (`layer_norm`).
    """
    propagation, classes = classes_of(traced, allow_approximate=allow_approximate)
    total, held = 0.0, defaultdict[str, float](float)
    for product in propagation.notes.products:
        # Multiplications: points of the joint space, times those at each of them.
        work = float(prod(product.shape)) * product.places[0]
        total += work
        shares = defaultdict[str, float](float)
        for layer in product.layers:
            # The share of the layer that stays, by why it does.
            for number, count in zip(*np.unique(classes.map(layer), return_counts=True), strict=True):
                if number and int(number) in classes.reason:
                    shares[_PLACE.sub("", classes.reason[int(number)])] += int(count) / layer.numel()
        # One reason can hold several layers of a product, which is held only once.
        for reason, share in shares.items():
            held[reason] += work * min(share, 1.0)
    largest_first = sorted(held.items(), key=lambda item: -item[1])
    return {reason: work / total for reason, work in largest_first}
