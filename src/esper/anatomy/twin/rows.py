"""One run of a twin for many rows of gates: all at once where its operators can."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree


def for_each_row(one: Callable[[Any], Tensor], rows: Any) -> Tensor:
    """The scalar `one(row)` of every row: shape [rows]. What no row changes is computed once for all.

    Args:
        one: of a row.
        rows: a tensor, or several in lists and tuples, with rows along their first axis.
    """
    functorch: Any = torch._C._functorch
    functorch._set_vmap_fallback_warning_enabled(False)  # the warning goes past Python's filters
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batching rule
            return torch.vmap(one, randomness="same")(rows)
    except RuntimeError:
        # An operator without a batching rule, or one that writes to what was computed once for all units:
        # one after the other. What is wrong for another reason fails again.
        count = len(pytree.tree_leaves(rows)[0])
        return torch.stack([one(pytree.tree_map(itemgetter(n), rows)) for n in range(count)])
    finally:
        functorch._set_vmap_fallback_warning_enabled(True)
