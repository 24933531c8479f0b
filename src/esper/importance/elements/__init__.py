"""Scores of single weights in bounded memory: sketches and 8-bit stores with an error bound."""

from esper.importance.elements.element_tracking import (
    ELEMENTS,
    ElementTracking,
    elements_for,
    stored_elements,
    tracking_after_cut,
)
from esper.importance.elements.summary import TensorElements, summaries

__all__ = [
    "ELEMENTS",
    "ElementTracking",
    "TensorElements",
    "elements_for",
    "stored_elements",
    "summaries",
    "tracking_after_cut",
]
