"""Answers of a teacher that are kept, so that a sample that comes again need not be asked again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

_WORDS = 1 << 16
"""Words of a sample that are hashed at once; bounds the memory that this takes."""


class Answers:
    """Rows of answers by the content of their samples, up to so many bytes; what does not fit is not kept.

    The oldest stay: where samples come in turns and not all fit, throwing out the oldest would keep those
    that come last.

    Args:
        max_bytes: of all rows together.

    Attributes:
        hits: samples whose answer was there.
        misses: samples that had to be asked.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._places: dict[tuple[int, int], int] = {}
        self._rows: Tensor | None = None
        self._weights: dict[int, Tensor] = {}
        self.hits = self.misses = 0

    @property
    def num_bytes(self) -> int:
        """What the rows that are kept take."""
        return 0 if self._rows is None else len(self._places) * self._rows[0].nbytes

    def clear(self) -> None:
        self._places, self._rows = {}, None

    def find(self, keys: Sequence[tuple[int, int]]) -> Tensor | None:
        """The rows of these samples, or None unless all of them are there."""
        places = [self._places.get(key) for key in keys]
        known = [place for place in places if place is not None]
        if self._rows is None or len(known) < len(places):
            self.misses += len(places)
            return None
        self.hits += len(places)
        return self._rows[torch.tensor(known, device=self._rows.device)]

    def keep(self, keys: Sequence[tuple[int, int]], answer: Tensor) -> None:
        """Keeps the rows that are new, as long as there is room. Rows of another shape take all room anew."""
        if self._rows is None or self._rows.shape[1:] != answer.shape[1:]:
            self.clear()
            room = self._max_bytes // max(answer[0].nbytes, 1)
            self._rows = answer.new_empty((room, *answer.shape[1:]))
        room = len(self._rows) - len(self._places)
        new = {key: row for row, key in enumerate(keys) if key not in self._places}
        rows = list(new.items())[:room]
        first = len(self._places)
        self._rows[first : first + len(rows)] = answer[[row for _, row in rows]]
        self._places.update((key, first + number) for number, (key, _) in enumerate(rows))

    def keys(self, leaves: Sequence[Tensor]) -> list[tuple[int, int]] | None:
        """128 bits for every sample of a batch that tell it from all others; None without an axis of samples.

        Args:
            leaves: the tensors of one batch.
        """
        if not leaves or any(not leaf.dim() or len(leaf) != len(leaves[0]) for leaf in leaves):
            return None
        return [tuple(pair) for pair in sum(self._hashed(leaf) for leaf in leaves).tolist()]  # type: ignore[union-attr]

    def _hashed(self, leaf: Tensor) -> Tensor:
        """Sums of a sample's words, each word times two fixed random numbers, modulo 2^64: [samples, 2]."""
        whole = leaf.detach().reshape(len(leaf), -1).contiguous()
        words = whole.view(torch.uint8 if whole.shape[1] * whole.element_size() % 4 else torch.int32)
        weights = self._weights_for(words.shape[1], leaf.device)
        # In stretches of words, because a word and its products take eight bytes each.
        ends = [*range(0, words.shape[1], _WORDS), words.shape[1]]
        parts = [words[:, a:b].long().unsqueeze(-1).mul(weights[a:b]).sum(1) for a, b in pairwise(ends)]
        return torch.stack(parts).sum(0)

    def _weights_for(self, count: int, device: torch.device) -> Tensor:
        if count not in self._weights:
            drawn = torch.Generator().manual_seed(count)
            bounds = torch.iinfo(torch.int64)
            weights = torch.randint(bounds.min, bounds.max, (count, 2), generator=drawn)
            self._weights[count] = weights.to(device)
        return self._weights[count]
