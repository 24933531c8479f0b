"""Sums by key in bounded memory: exact while the keys fit, then upper bounds with a known error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from esper.errors import ConfigError, EvidenceError
from esper.importance.elements.hashing import BucketHash
from esper.importance.elements.sketch_size import SketchStats

_CHUNK = 1 << 16
"""Keys that are hashed at once: their buckets stay in the processor's cache."""
_CELL_BYTES, _BYTES_PER_KEY = 8, 16
_STATE = ("shape", "total", "num_updates", "table", "keys", "sums")


class CountMinSketch:
    """Sums of non-negative values by 64-bit key.

    While there are at most as many distinct keys as take the memory of the table, every sum is exact. From
    then on each row of the table adds all keys of a bucket together, and the answer is the least of the rows:
    never less than the truth. The bound in `stats` is small against `total`, not against a small sum: a
    sketch finds what carries most of the total, and cannot rank what carries little of it.

    Args:
        width: Buckets of a row.
        depth: Rows.
        seed: Of the hash; sketches of different seeds cannot be merged.
        device: Where it lives.

    Source: Cormode and Muthukrishnan 2005; sizes from spec 000 and 003.
    """

    def __init__(self, width: int, depth: int, *, seed: int = 0, device: torch.device | str = "cpu") -> None:
        if not 0 < width < 1 << 31 or depth < 1:
            raise ConfigError(
                f"A sketch of width {width} and depth {depth} cannot be made; expected a width from 1 to "
                "2**31 - 1 and a depth of at least 1, as `SketchSize.for_training(num_parameters)` gives."
            )
        self.width, self.depth, self.seed = width, depth, seed
        self.device = torch.device(device)
        self._hash = BucketHash(width, depth, seed)
        self.clear()

    @property
    def exact_keys(self) -> int:
        """Distinct keys up to which sums are exact: they then take no more memory than the table would."""
        return self.width * self.depth * _CELL_BYTES // _BYTES_PER_KEY

    @property
    def is_exact(self) -> bool:
        return self._table is None

    def is_like(self, other: CountMinSketch) -> bool:
        """Do keys lie in the same buckets, so that the two can be merged?"""
        return (self.width, self.depth, self.seed) == (other.width, other.depth, other.seed)

    def clear(self) -> None:
        """Forgets everything."""
        self._exact = _ExactSums.empty(self.device)
        self._table: Tensor | None = None
        self._total = torch.zeros((), dtype=torch.float64, device=self.device)
        self._num_updates = 0

    def update(self, keys: Tensor, values: Tensor) -> None:
        """Adds values to their keys; a key may come several times.

        Args:
            keys: int64 of any shape.
            values: of the same shape, finite and not negative.

        Raises:
            EvidenceError: Keys or values are of another kind; nothing was added.
        """
        keys, values = keys.flatten().to(self.device), values.detach().flatten().to(self.device).double()
        _check(keys, values)
        if not keys.numel():
            return
        # Exact while the keys fit; the move into the table is for good.
        if self._table is None:
            self._exact = self._exact.added(keys, values)
            self._spill()
        else:
            self._add(self._table, keys, values)
        self._total += values.sum()
        self._num_updates += keys.numel()

    def accumulate(self, keys: Tensor, values: Tensor) -> None:
        """As `update`, but nothing is checked, nothing waits for the device, and sums are no longer exact.

        For a training step. The values must be finite and not negative.

        Args:
            keys: int64 [keys], on the sketch's device.
            values: float32 or float64 [keys].
        """
        self._add(self._fold(), keys, values.double())
        self._total += values.sum(dtype=torch.float64)
        self._num_updates += keys.numel()

    def estimate(self, keys: Tensor) -> Tensor:
        """The sum of every key: float64 of the shape of `keys`, on the sketch's device.

        NaN where nothing is known: the key was never added or, once the sketch is in use, nothing but zeros
        can have been.
        """
        keys = keys.to(self.device)
        if self._table is None:
            return self._exact.of(keys)
        parts = [self._least(self._table, part) for part in keys.flatten().split(_CHUNK)]
        least = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=self.device)
        return torch.where(least > 0, least, torch.nan).reshape(keys.shape)

    def merge(self, other: CountMinSketch) -> None:
        """Adds everything that another sketch was given, as if both had been one.

        Raises:
            EvidenceError: The other one has another size or seed.
        """
        if not self.is_like(other):
            raise EvidenceError(
                f"A sketch of {other.width} x {other.depth} buckets with seed {other.seed} cannot be merged "
                f"into one of {self.width} x {self.depth} with seed {self.seed}: its keys lie elsewhere. "
                "Make both with the same size and seed."
            )
        # Where either holds a table the result does. Two exact ones stay exact if their keys fit together.
        if other._table is not None:
            table = self._fold()
            table.add_(other._table.to(self.device))
        elif self._table is not None:
            keys, sums = other._exact.keys.to(self.device), other._exact.sums.to(self.device)
            self._add(self._table, keys, sums)
        else:
            self._exact = self._exact.added(
                other._exact.keys.to(self.device), other._exact.sums.to(self.device)
            )
            self._spill()
        self._total += other._total.to(self.device)
        self._num_updates += other._num_updates

    def stats(self) -> SketchStats:
        """Size, load and error bound; waits for the device."""
        total = float(self._total)
        if self._table is None:
            keys = self._exact.num_keys
            memory = keys * _BYTES_PER_KEY
            return SketchStats(True, total, self._num_updates, keys, 0.0, 0.0, 1.0, memory)
        return SketchStats(
            is_exact=False,
            total=total,
            num_updates=self._num_updates,
            num_keys=None,
            occupied_fraction=float((self._table > 0).double().mean()),
            # Beside its own key a bucket holds total / width of others on average. It holds e times that
            # with a probability of at most 1/e (Markov), and all rows do with e**-depth.
            error_bound=math.e / self.width * total,
            confidence=1.0 - math.exp(-self.depth),
            memory_bytes=self._table.numel() * _CELL_BYTES,
        )

    def state(self) -> dict[str, Tensor]:
        """Copies for a checkpoint, as plain tensors."""
        empty = torch.zeros((self.depth, 0), dtype=torch.float64)
        return {
            "shape": torch.tensor([self.width, self.depth, self.seed]),
            "total": self._total.cpu().clone(),
            "num_updates": torch.tensor(self._num_updates),
            "table": empty if self._table is None else self._table.cpu().clone(),
            "keys": self._exact.keys.cpu().clone(),
            "sums": self._exact.sums.cpu().clone(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> CountMinSketch:
        """The inverse of `state`.

        Raises:
            EvidenceError: It is not the state of a sketch.
        """
        problem = _problem(state)
        if problem:
            raise EvidenceError(
                f"This is not the state of a sketch: {problem}. It is damaged or of something else; start "
                "a new sketch, and units stay unmeasured until it has seen enough."
            )
        width, depth, seed = state["shape"].tolist()
        sketch = cls(width, depth, seed=seed, device=device)
        sketch._exact = _ExactSums(
            state["keys"].to(sketch.device, copy=True), state["sums"].to(sketch.device, copy=True)
        )
        if state["table"].numel():
            sketch._table = state["table"].to(sketch.device, copy=True)
        sketch._total = state["total"].to(sketch.device, copy=True)
        sketch._num_updates = int(state["num_updates"])
        return sketch

    def _spill(self) -> None:
        if self._exact.num_keys > self.exact_keys:
            self._fold()

    def _fold(self) -> Tensor:
        """From now on a table; what was exact goes into it."""
        if self._table is None:
            self._table = torch.zeros((self.depth, self.width), dtype=torch.float64, device=self.device)
            self._add(self._table, self._exact.keys, self._exact.sums)
            self._exact = _ExactSums.empty(self.device)
        return self._table

    def _add(self, table: Tensor, keys: Tensor, values: Tensor) -> None:
        for some, theirs in zip(keys.split(_CHUNK), values.split(_CHUNK), strict=True):
            for row, buckets in zip(table, self._hash.buckets(some), strict=True):
                row.index_add_(0, buckets, theirs)

    def _least(self, table: Tensor, keys: Tensor) -> Tensor:
        # [rows, keys]: no row is below the truth, so the least is the closest.
        rows = [row.index_select(0, b) for row, b in zip(table, self._hash.buckets(keys), strict=True)]
        return torch.stack(rows).amin(0)


def _check(keys: Tensor, values: Tensor) -> None:
    if keys.dtype != torch.int64 or keys.shape != values.shape:
        raise EvidenceError(
            f"A sketch was given {keys.numel()} keys of {keys.dtype} for {values.numel()} values; expected "
            "one int64 key for every value (`element_keys` makes them). Nothing was added."
        )
    if not bool(((values >= 0) & torch.isfinite(values)).all()):
        raise EvidenceError(
            "A sketch was given values that are negative or no numbers; it adds up sizes, such as squares "
            "or absolute values. Leave out what was not measured. Nothing was added."
        )


def _problem(state: Mapping[str, Tensor]) -> str:
    missing = [name for name in _STATE if name not in state]
    if missing:
        return f"{', '.join(missing)} missing"
    if state["shape"].shape != (3,) or not (state["shape"][:2] > 0).all():
        return f"its size is {state['shape'].tolist()}"
    width, depth, _ = state["shape"].tolist()
    table, keys, sums = state["table"], state["keys"], state["sums"]
    if tuple(table.shape) not in ((depth, 0), (depth, width)):
        return f"its table has shape {tuple(table.shape)} instead of {(depth, width)}"
    if keys.dtype != torch.int64 or keys.dim() != 1 or keys.shape != sums.shape or (keys.diff() <= 0).any():
        return "its keys are not ascending, or not one for every sum"
    if table.numel() and keys.numel():
        return "it holds a table and keys beside it"
    for name in ("table", "sums", "total"):
        values = state[name]
        if values.dtype != torch.float64 or not ((values >= 0) & torch.isfinite(values)).all():
            return f"{name} holds something that is no sum of sizes"
    return ""


@dataclass(frozen=True, eq=False)
class _ExactSums:
    """Distinct keys in ascending order (int64) and the sum of the values of each (float64)."""

    keys: Tensor
    sums: Tensor

    @classmethod
    def empty(cls, device: torch.device) -> _ExactSums:
        return cls(
            torch.zeros(0, dtype=torch.int64, device=device),
            torch.zeros(0, dtype=torch.float64, device=device),
        )

    @property
    def num_keys(self) -> int:
        return self.keys.numel()

    def added(self, keys: Tensor, values: Tensor) -> _ExactSums:
        """These sums and further values; a key may come several times."""
        # Old and new keys in one ascending list; `place` [old + new] is where each one's value goes.
        distinct, place = torch.unique(torch.cat([self.keys, keys]), return_inverse=True)
        sums = torch.zeros(distinct.numel(), dtype=torch.float64, device=distinct.device)
        return _ExactSums(distinct, sums.index_add_(0, place, torch.cat([self.sums, values.double()])))

    def of(self, keys: Tensor) -> Tensor:
        """The sum of every key: float64 of the shape of `keys`, NaN where a key was never added."""
        if not self.num_keys:
            return torch.full(keys.shape, torch.nan, dtype=torch.float64, device=keys.device)
        # Where the key would be inserted. Beyond the last there is nothing to compare with.
        place = torch.searchsorted(self.keys, keys).clamp_max(self.num_keys - 1)
        return torch.where(self.keys[place] == keys, self.sums[place], torch.nan)
