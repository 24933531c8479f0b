"""Scores of single weights in bounded memory: sketches and 8-bit stores with an error bound."""

from esper.importance.elements.element_tracking import ElementTracking, elements_for, tracking_after_cut

__all__ = ["ElementTracking", "elements_for", "tracking_after_cut"]
