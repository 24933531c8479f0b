"""Which groups the network's own code allows to be cut in place: tried on a copy, once, before any plan."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from torch import nn

from esper.anatomy.equivalence import Probe
from esper.anatomy.structure import Anatomy
from esper.anatomy.surgery import cut, uncut
from esper.errors import SurgeryError


def refused_groups(model: nn.Module, anatomy: Anatomy, probe: Probe) -> dict[str, str]:
    """Groups that cannot be cut in place, and why. The network itself is not touched.

    One unit of every group is removed at once; if that fails the groups are divided to find the culprits.

    Raises:
        SurgeryError: the network cannot be copied.
    """
    try:
        twin = copy.deepcopy(model)
    except (TypeError, RuntimeError, AttributeError) as error:
        raise SurgeryError(
            f"{type(model).__name__} cannot be copied ({error}), and Esper tries cuts on a copy first. "
            "Remove what cannot be copied (open files, locks, non-leaf tensors kept as attributes) from it."
        ) from error
    refused: dict[str, str] = {}
    _divide(twin, anatomy, probe, [n for n, g in enumerate(anatomy.groups) if g.width > 1], refused)
    return refused


def _divide(
    model: nn.Module, anatomy: Anatomy, probe: Probe, groups: Sequence[int], refused: dict[str, str]
) -> None:
    if not groups:
        return
    keep = np.ones(anatomy.num_units, dtype=np.bool_)
    keep[anatomy.offsets[1:][list(groups)] - 1] = False
    try:
        made = cut(model, anatomy, keep, probe)
    except SurgeryError as error:
        if len(groups) == 1:
            refused[anatomy.groups[groups[0]].name] = str(error)
            return
        half = len(groups) // 2
        _divide(model, anatomy, probe, groups[:half], refused)
        _divide(model, anatomy, probe, groups[half:], refused)
    else:
        uncut(model, anatomy, made)
