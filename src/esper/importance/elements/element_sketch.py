"""Importance of every element in a small fraction of a byte each: a sketch keyed by name and place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from esper.errors import EvidenceError
from esper.importance.elements.elements import Products
from esper.importance.elements.hashing import element_keys
from esper.importance.elements.sketch import CountMinSketch
from esper.importance.elements.sketch_size import SketchSize, SketchStats
from esper.importance.elements.stored import SIZES, ErrorBound, as_tensor, sizes_in

_CHUNK = 1 << 16


class SketchedElements:
    """Upper bounds on the root mean square of weight x gradient of every element.

    It takes 0.06 to 0.6 bytes an element and finds the few that carry most of the total. It cannot rank
    the others: `ElementScores` can, in one byte each.

    Args:
        sizes: Number of elements of every parameter.
        size: Of the sketch.
        device: Where it lives.
    """

    def __init__(
        self, sizes: Mapping[str, int], size: SketchSize, device: torch.device | str = "cpu"
    ) -> None:
        self.sizes = dict(sizes)
        self._sketch = CountMinSketch(size.width, size.depth, device=device)
        self._samples = torch.zeros((), dtype=torch.float64, device=device)

    @property
    def memory_bytes(self) -> int:
        """What all of this takes."""
        return self._sketch.stats().memory_bytes

    def stats(self) -> SketchStats:
        """Size, load and error bound of the sums of squares."""
        return self._sketch.stats()

    @torch.no_grad()
    def sample(self, products: Products, taken: Tensor) -> None:
        """Takes in one step, on the device only.

        Args:
            products: Asked for every part of every parameter.
            taken: 1 if the step counts, else 0: a float32 scalar on the device.
        """
        for name, size in self.sizes.items():
            for first in range(0, size, _CHUNK):
                values = products(name, first, min(first + _CHUNK, size))
                if values is not None:
                    places = torch.arange(first, first + values.numel(), device=values.device)
                    # Chosen, not multiplied by 0: that would make a NaN of an infinity and spoil its buckets
                    # for good.
                    squares = torch.where(taken > 0, values, 0.0).square()
                    self._sketch.accumulate(element_keys(name, places), squares)
        self._samples += taken

    def of(self, name: str) -> Tensor:
        """The bounds for one parameter: float32 [elements], NaN where nothing was seen.

        Raises:
            EvidenceError: The parameter is not tracked.
        """
        if name not in self.sizes:
            raise EvidenceError(
                f"No elements of {name!r} are tracked; names begin with {list(self.sizes)[:4]}."
            )
        # No key is stored: each is made again from the parameter's name and the place.
        keys = element_keys(name, torch.arange(self.sizes[name], device=self._sketch.device))
        return (self._sketch.estimate(keys) / self._samples).sqrt().float()

    def select(
        self, sizes: Mapping[str, int], _chosen: Callable[[str, Tensor], Tensor | None]
    ) -> SketchedElements:
        """Begins anew after a cut: keys are places, and a sum cannot be moved to another place."""
        return SketchedElements(
            sizes, SketchSize(self._sketch.width, self._sketch.depth), self._sketch.device
        )

    def state(self) -> dict[str, Tensor]:
        """Copies for a checkpoint, as plain tensors."""
        samples = self._samples.detach().clone()
        return {**self._sketch.state(), "samples": samples, SIZES: as_tensor(self.sizes)}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> SketchedElements:
        """The scores of a checkpoint, to read.

        Raises:
            EvidenceError: It is not the state of such a sketch.
        """
        width, depth = state["shape"][:2].tolist()
        scores = cls(sizes_in(state), SketchSize(width, depth))
        scores.load_state(state)
        return scores

    def error(self, _name: str) -> ErrorBound:
        """How far a bound can be above the truth: of the mean squares as the sketch says, so of their roots.

        For a >= b >= 0, sqrt(a) - sqrt(a - b) <= sqrt(b).
        """
        stats = self._sketch.stats()
        mean_square = stats.error_bound / max(float(self._samples), 1.0)
        return ErrorBound(absolute=math.sqrt(mean_square), confidence=stats.confidence)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from `state`.

        Raises:
            EvidenceError: It is not the state of such a sketch; nothing was taken over.
        """
        sketch = CountMinSketch.from_state(state, self._sketch.device)
        if not sketch.is_like(self._sketch) or "samples" not in state:
            raise EvidenceError(
                f"A sketch of {sketch.width} x {sketch.depth} cannot go on as one of {self._sketch.width} x "
                f"{self._sketch.depth}. Start anew, or set the size that it was made with."
            )
        self._sketch = sketch
        self._samples = state["samples"].to(self._sketch.device, copy=True)
