"""Cost of a masked network as one sparse product, fast enough to try thousands of masks.

Every operator and every parameter tensor costs `multiplier x product of factor sizes`; the size of a factor
is a fixed part plus the coordinates of the units that are kept. All sizes are one sparse matrix times the
mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy import sparse

from esper.anatomy import Anatomy, Kind, Term
from esper.arrays import BoolArray, FloatArray, IntArray

CostName = Literal["flops", "parameters", "latency"]
"""What a fraction counts; latency is measured."""


class Costs(Protocol):
    """What a network costs under any mask."""

    def total(self, keep: BoolArray) -> float:
        """Cost of what is left."""
        ...

    def gradient(self, keep: BoolArray) -> FloatArray:
        """What removing each unit would save now, to first order: shape [units]."""
        ...


@dataclass(frozen=True, eq=False)
class _Factor:
    fixed: int
    """Coordinates that cannot be removed."""
    units: IntArray
    counts: IntArray
    """How many coordinates each of `units` owns."""


class CostModel:
    """FLOPs or parameters of one anatomy under any mask; agrees with `Anatomy.flops` and `.parameters`.

    With `activation_flops`, each element that a contraction makes costs so many FLOPs on top: an estimate of
    time rather than of work, because normalization, activation functions and memory traffic follow it.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        cost: Literal["flops", "parameters"],
        *,
        activation_flops: float = 0.0,
        without: frozenset[str] = frozenset(),
    ) -> None:
        """Writes the cost as a sum of products.

        Args:
            anatomy: the network.
            cost: what is counted.
            activation_flops: FLOPs that each element of an activation counts on top.
            without: operators whose FLOPs are left out (their elements are not).
        """
        products = list(_flops(anatomy, without) if cost == "flops" else _parameters(anatomy))
        if cost == "flops" and activation_flops:
            products += [(m * activation_flops, f) for m, f in _products(anatomy.activations)]
        # Factors of all products, numbered through; those of one product are neighbors.
        factors = [factor for _, product in products for factor in product]
        lengths = [len(product) for _, product in products]
        self._multipliers = np.array([multiplier for multiplier, _ in products], np.float64)
        # By factor its product, by product its first factor.
        self._product_of = np.repeat(np.arange(len(products)), lengths)
        self._starts = np.cumsum([0, *lengths[:-1]])
        self._fixed = np.array([factor.fixed for factor in factors], np.float64)
        # [factors, units]: how many coordinates of a factor each unit owns. The transpose serves gradients.
        rows = np.repeat(np.arange(len(factors)), [factor.units.size for factor in factors])
        columns = np.concatenate([np.zeros(0, np.int64), *(factor.units for factor in factors)])
        counts = np.concatenate([np.zeros(0), *(factor.counts.astype(np.float64) for factor in factors)])
        self._owned = sparse.csr_array((counts, (rows, columns)), shape=(len(factors), anatomy.num_units))
        self._owners = self._owned.T.tocsr()

    def total(self, keep: BoolArray) -> float:
        """Cost of what is left."""
        return float(self._work(self._sizes(keep)).sum())

    def gradient(self, keep: BoolArray) -> FloatArray:
        """What removing each unit would save now, to first order: shape [units].

        Never less than the true saving, also of several units together, because a product of sizes is convex
        along every direction in which sizes shrink; a unit that is gone gets what it saved last.
        """
        sizes = self._sizes(keep)
        # The slope of a product in one of its factors is product / factor: [factors], then summed to
        # [units].
        work = self._work(sizes)[self._product_of]
        slope: FloatArray = self._owners @ np.divide(work, sizes, out=np.zeros_like(sizes), where=sizes > 0)
        return slope

    def _sizes(self, keep: BoolArray) -> FloatArray:
        sizes: FloatArray = self._fixed + self._owned @ keep.astype(np.float64)
        return sizes

    def _work(self, sizes: FloatArray) -> FloatArray:
        if not self._multipliers.size:
            return self._multipliers
        # Every product has a factor, if only a constant: of an empty one `reduceat` would take its
        # neighbor's.
        return self._multipliers * np.multiply.reduceat(sizes, self._starts)


def _flops(anatomy: Anatomy, without: frozenset[str]) -> Iterator[tuple[float, list[_Factor]]]:
    return _products(tuple(term for term in anatomy.terms if term.node not in without))


def _products(terms: tuple[Term, ...]) -> Iterator[tuple[float, list[_Factor]]]:
    for term in terms:
        factors = []
        for owners in term.factors:
            # -1 is owned by no unit, and fixed.
            units, counts = np.unique(owners[owners >= 0], return_counts=True)
            factors.append(_Factor(int((owners < 0).sum()), units, counts))
        yield term.multiplier, factors or [_constant(1)]


def _parameters(anatomy: Anatomy) -> Iterator[tuple[float, list[_Factor]]]:
    owners: dict[tuple[str, int], list[tuple[IntArray, int]]] = {}
    around: dict[str, list[_Factor]] = {}
    for number, group in enumerate(anatomy.groups):
        units = anatomy.offsets[number] + np.arange(group.width)
        for member in group.members:
            # A layer is one more factor of each of its tensors: 1, or 0 when it has gone.
            if group.kind is Kind.LAYER:
                around.setdefault(member.tensor, []).append(_Factor(0, units, np.ones(1, np.int64)))
            else:
                owners.setdefault((member.tensor, member.axis), []).append((units, member.index.shape[1]))
    for tensor in anatomy.tensors:
        if tensor.is_parameter:
            axes = [
                _axis(size, owners.get((tensor.name, axis), [])) for axis, size in enumerate(tensor.shape)
            ]
            yield 1.0, [*axes, *around.get(tensor.name, ())] or [_constant(1)]


def _axis(size: int, owned: list[tuple[IntArray, int]]) -> _Factor:
    if not owned:
        return _constant(size)
    units = np.concatenate([units for units, _ in owned])
    counts = np.concatenate([np.full(units.size, each) for units, each in owned])
    return _Factor(size - int(counts.sum()), units, counts)


def _constant(size: int) -> _Factor:
    return _Factor(size, np.zeros(0, np.int64), np.zeros(0, np.int64))
