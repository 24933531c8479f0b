"""One sketch for each structural level: channels, attention heads and layers, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from esper.errors import EvidenceError
from esper.importance.elements.hashing import name_keys
from esper.importance.elements.sketch import CountMinSketch
from esper.importance.elements.sketch_size import SketchSize, SketchStats

LEVELS = ("channel", "attention_head", "layer")
"""Source: spec 003, "Multi-Level Sketch Implementation"."""


class MultiLevelCountMinSketch:
    """Sums of importance by the names of structural elements, level by level, mergeable by addition.

    Names that are known beforehand need no sketch: `UnitHistory` holds a number for each. This is for names
    that come from many networks, ranks or runs, and for as many as there may be.

    Args:
        size: Of each level's sketch.
        levels: Which of `LEVELS` to hold.
        seed: Of the hash; the same on every rank.
        device: Where it lives.

    Raises:
        EvidenceError: A level is not known.
    """

    def __init__(
        self,
        size: SketchSize,
        levels: Sequence[str] = LEVELS,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        unknown = [level for level in levels if level not in LEVELS]
        if unknown:
            raise EvidenceError(f"There is no level {unknown[0]!r}; levels are {', '.join(LEVELS)}.")
        self._sketches = {
            level: CountMinSketch(size.width, size.depth, seed=seed, device=device) for level in levels
        }

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(self._sketches)

    def update(self, level: str, names: Sequence[str], scores: Tensor) -> None:
        """Adds scores (finite, not negative, shape [names]) to the elements of these names.

        Raises:
            EvidenceError: The level is not held, or a score cannot be added.
        """
        self._at(level).update(name_keys(names, level), scores)

    def estimate(self, level: str, names: Sequence[str]) -> Tensor:
        """The sum of every element's scores: float64 [names], NaN where nothing is known."""
        return self._at(level).estimate(name_keys(names, level))

    def merge(self, other: MultiLevelCountMinSketch) -> None:
        """Adds everything that another one was given.

        Raises:
            EvidenceError: It holds other levels, or sketches of another size or seed; nothing was added.
        """
        is_like = self.levels == other.levels and all(
            sketch.is_like(other._sketches[level]) for level, sketch in self._sketches.items()
        )
        if not is_like:
            raise EvidenceError(
                f"Sketches of {', '.join(other.levels)} cannot be merged into sketches of "
                f"{', '.join(self.levels)}: levels, size and seed must be the same. Nothing was added."
            )
        for level, sketch in self._sketches.items():
            sketch.merge(other._sketches[level])

    def stats(self) -> dict[str, SketchStats]:
        """Size, load and error bound of every level."""
        return {level: sketch.stats() for level, sketch in self._sketches.items()}

    def clear(self) -> None:
        """Forgets everything."""
        for sketch in self._sketches.values():
            sketch.clear()

    def state(self) -> dict[str, Tensor]:
        """Copies for a checkpoint: plain tensors named `level.part`."""
        return {
            f"{level}.{part}": tensor
            for level, sketch in self._sketches.items()
            for part, tensor in sketch.state().items()
        }

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], device: torch.device | str = "cpu"
    ) -> MultiLevelCountMinSketch:
        """The inverse of `state`.

        Raises:
            EvidenceError: It is not the state of such sketches.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            level, _, part = name.partition(".")
            parts.setdefault(level, {})[part] = tensor
        made = cls(SketchSize(1, 1), tuple(parts), device=device)
        made._sketches = {level: CountMinSketch.from_state(part, device) for level, part in parts.items()}
        return made

    def _at(self, level: str) -> CountMinSketch:
        if level not in self._sketches:
            raise EvidenceError(f"No level {level!r} is held here; levels are {', '.join(self.levels)}.")
        return self._sketches[level]
