"""One run of a twin for many rows of gates: all at once where its operators can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def for_each_row(one: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """The scalar `one(row)` of every row: shape [rows]. What no row changes is computed once for all."""
    functorch: Any = torch._C._functorch
    functorch._set_vmap_fallback_warning_enabled(False)  # the warning goes past Python's filters
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batching rule
            return torch.vmap(one, randomness="same")(rows)
    except RuntimeError:
        # An operator without a batching rule, or one that writes to what was computed once for all units:
        # one after the other. What is wrong for another reason fails again.
        return torch.stack([one(row) for row in rows])
    finally:
        functorch._set_vmap_fallback_warning_enabled(True)
