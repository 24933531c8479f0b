"""Scores of single elements beside those of units: made as the settings say, and carried over cuts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from esper.anatomy import Anatomy
from esper.arrays import IntArray
from esper.importance.elements.element_sketch import SketchedElements
from esper.importance.elements.elements import ElementScores, Products
from esper.importance.elements.sketch_size import SketchSize
from esper.importance.elements.stored import ErrorBound
from esper.importance.products import StepProducts
from esper.importance.settings import ImportanceSettings

ELEMENTS = "elements."
"""Prefix of their tensors in the state of a tracker."""


class ElementTracking(Protocol):
    """What keeps a score for every element of the tracked parameters."""

    sizes: dict[str, int]

    @property
    def memory_bytes(self) -> int: ...

    def sample(self, products: Products, taken: Tensor) -> None:
        """Takes in one step."""
        ...

    def of(self, name: str) -> Tensor:
        """Scores of one parameter: float32 [elements], NaN unmeasured."""
        ...

    def select(
        self, sizes: Mapping[str, int], chosen: Callable[[str, Tensor], Tensor | None], /
    ) -> ElementTracking:
        """What is left of it after a cut."""
        ...

    def error(self, name: str, /) -> ErrorBound:
        """How far the scores of one parameter can be off."""
        ...

    def state(self) -> dict[str, Tensor]: ...

    def load_state(self, state: Mapping[str, Tensor]) -> None: ...


def elements_for(products: StepProducts, settings: ImportanceSettings) -> ElementTracking | None:
    """A new store for the parameters that are tracked; None where none is asked for."""
    sizes = _sizes(products)
    chosen = settings.elements
    if settings.backend == "unit":
        return None
    if settings.backend == "sketch":
        usual = SketchSize.for_training(sum(sizes.values()), chosen.sketch_error_rate)
        size = SketchSize(chosen.sketch_width or usual.width, chosen.sketch_depth or usual.depth)
        return SketchedElements(sizes, size, products.device)
    return ElementScores(sizes, chosen.form, chosen.window_steps, products.device)


def stored_elements(state: Mapping[str, Tensor]) -> ElementTracking | None:
    """The scores in the state of a tracker, to read; None where it kept none.

    Raises:
        EvidenceError: they are damaged, or do not say whose they are.
    """
    held = {name.removeprefix(ELEMENTS): t for name, t in state.items() if name.startswith(ELEMENTS)}
    if not held:
        return None
    return SketchedElements.from_state(held) if "table" in held else ElementScores.from_state(held)


def tracking_after_cut(
    tracking: ElementTracking | None, before: Anatomy, survivors: IntArray, products: StepProducts
) -> ElementTracking | None:
    """The scores of the elements that a cut has left.

    Args:
        tracking: What is known of the uncut network.
        before: Its anatomy.
        survivors: For every unit of it the new number, or -1.
        products: Of the cut network.
    """
    if tracking is None:
        return None
    shapes = {info.name: info.shape for info in before.tensors}
    lost = before.removed_indices(survivors >= 0)

    def chosen(name: str, values: Tensor) -> Tensor | None:
        if name not in shapes:
            return None
        left = values.reshape(shapes[name])
        for axis, size in enumerate(shapes[name]):
            if (name, axis) in lost:
                kept = np.setdiff1d(np.arange(size), lost[name, axis])
                left = left.index_select(axis, torch.from_numpy(kept).to(left.device))
        return left.flatten()

    return tracking.select(_sizes(products), chosen)


def _sizes(products: StepProducts) -> dict[str, int]:
    return {name: parameter.numel() for name, parameter in products.parameters.items()}
