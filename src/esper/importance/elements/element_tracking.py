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
from esper.importance.products import StepProducts
from esper.importance.settings import ElementSettings


class ElementTracking(Protocol):
    """What keeps a score for every element of the tracked parameters."""

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

    def state(self) -> dict[str, Tensor]: ...

    def load_state(self, state: Mapping[str, Tensor]) -> None: ...


def elements_for(products: StepProducts, settings: ElementSettings) -> ElementTracking | None:
    """A new store for the parameters that are tracked; None where none is asked for."""
    sizes = _sizes(products)
    if settings.form == "off":
        return None
    if settings.form == "sketch":
        usual = SketchSize.for_training(sum(sizes.values()), settings.sketch_error_rate)
        size = SketchSize(settings.sketch_width or usual.width, settings.sketch_depth or usual.depth)
        return SketchedElements(sizes, size, products.device)
    return ElementScores(sizes, settings.form, settings.window_steps, products.device)


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
