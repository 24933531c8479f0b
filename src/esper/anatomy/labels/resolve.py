"""From facts about labels to classes of labels that live or die together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from esper.anatomy.labels.labels import LabelSpace
from esper.arrays import BoolArray, IntArray


@dataclass(frozen=True)
class Classes:
    """`of[label]` is the class of a label (0 means none); `reason[c]` says why a class stays."""

    of: IntArray
    reason: dict[int, str]

    def map(self, labels: Tensor) -> IntArray:
        classes: IntArray = self.of[labels.numpy()]
        return classes


def resolve(space: LabelSpace) -> Classes:
    """Unites equal labels, closes under the rule that only whole slices can go, and freezes the rest."""
    solver = _Solver(space)
    solver.settle()
    grids = list(space.grids.values())
    demanded = [(grid.labels, grid.demanded) for grid in grids if grid.demanded is not None]
    hinted = [(grid.labels, grid.hinted if grid.demanded is None else grid.demanded) for grid in grids]
    # Demands first; then all grids, by hint or by what is freest. One choice can settle other grids.
    for choices in (demanded, hinted):
        while solver.choose_axes(choices):
            solver.settle()
    return Classes(solver.classes, solver.reasons())


class _Solver:
    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self.left: list[IntArray] = [a.numpy().ravel() for a, _ in space.equal]
        self.right: list[IntArray] = [b.numpy().ravel() for _, b in space.equal]
        self.conjunctions = [(ids.numpy(), rows.numpy()) for ids, rows in space.conjunctions]
        self.classes: IntArray = np.arange(space.count + 1)
        self.mixed: IntArray = np.empty(0, np.int64)
        self._fixed: tuple[BoolArray, NDArray[np.uint64]] = np.empty(0, np.bool_), np.empty(0, np.uint64)

    def settle(self) -> None:
        """Recomputes classes until the conjunctions add nothing new."""
        while True:
            self._components()
            if not self._conjunction_equalities():
                self._fixed = self._what_is_fixed()
                return

    def _components(self) -> None:
        size = self.space.count + 1
        if self.left:
            left, right = np.concatenate(self.left), np.concatenate(self.right)
            # Labels are nodes, equalities edges, and a class goes by its smallest label. Nothing is equal to
            # 0, so class 0 stays "none".
            graph = coo_array((np.ones(left.size, np.int8), (left, right)), shape=(size, size))
            _, component = connected_components(graph, directed=False)
            first = np.full(component.max() + 1, size, np.int64)
            np.minimum.at(first, component, np.arange(size))
            self.classes = first[component]
            self.left, self.right = [np.arange(size)], [self.classes]  # what is known, in its shortest form

    def _conjunction_equalities(self) -> bool:
        """A conjunction of one class is that class; two of the same classes are one. Returns: is any new?"""
        new = False
        mixed: list[IntArray] = []
        by_support: dict[int, list[tuple[IntArray, IntArray]]] = {}
        for ids, rows in self.conjunctions:
            # [conjunctions, labels of the slice], as classes in ascending order.
            support = np.sort(self.classes[rows], axis=1)
            single = support[:, 0] == support[:, -1]
            new |= self._unite(ids[single], support[single, 0])
            # What has several classes is compared as a set, among slices of one length.
            if (~single).any():
                mixed.append(ids[~single])
                by_support.setdefault(rows.shape[1], []).append((ids[~single], _distinct(support[~single])))
        for parts in by_support.values():
            ids = np.concatenate([part[0] for part in parts])
            support = np.concatenate([part[1] for part in parts])
            # Conjunctions of the same set are all united with the first of them.
            _, first, inverse = np.unique(support, axis=0, return_index=True, return_inverse=True)
            new |= self._unite(ids, ids[first[inverse.ravel()]])
        self.mixed = np.concatenate(mixed) if mixed else np.empty(0, np.int64)
        return new

    def _unite(self, left: IntArray, right: IntArray) -> bool:
        apart = self.classes[left] != self.classes[right]
        if not apart.any():
            return False
        self.left.append(left[apart])
        self.right.append(right[apart])
        return True

    def choose_axes(self, grids: Sequence[tuple[Tensor, int | None]]) -> bool:
        """Chooses for every grid whose classes are still as settled. Returns: did that unite any?"""
        # A choice moves the classes of its grid. Whatever shares one of them waits until they have settled
        # again.
        changed = np.zeros(self.classes.size, np.bool_)
        for grid, preferred in grids:
            classes = self.classes[grid.numpy()]
            if not changed[classes].any() and self.choose_axis(grid, preferred):
                changed[classes] = True
        return bool(changed.any())

    def choose_axis(self, small: Tensor, preferred: int | None) -> bool:
        """Makes the slices of one grid along one axis live or die whole. Returns: did that unite any?"""
        grid = self.classes[small.numpy()]
        # Where classes differ along one axis only, its slices are whole already.
        axes = [n for n in range(grid.ndim) if not (grid == grid.take([0], n)).all()]
        if len(axes) < 2:
            return False
        axis = preferred if preferred in axes else self._freest(grid, axes)
        # [slices, classes of each]: all of a slice become one class; places without identity stay out.
        rows = np.moveaxis(grid, axis, 0).reshape(grid.shape[axis], -1)
        first = rows.max(axis=1, keepdims=True)
        there = (rows > 0) & (first > 0)
        return self._unite(rows[there], np.broadcast_to(first, rows.shape)[there])

    def _freest(self, grid: IntArray, axes: list[int]) -> int:
        """The axis with the most slices that nothing fixes."""
        frozen, fixed = self._fixed

        def free(axis: int) -> tuple[int, int]:
            rows = np.moveaxis(grid, axis, 0).reshape(grid.shape[axis], -1)
            # A slice stays with any class of it that stays, and if it is a set of classes of which one must
            # stay.
            is_fixed = frozen[rows].any(axis=1) | np.isin(_fingerprints(rows), fixed)
            return int((~is_fixed).sum()), -axis

        return max(axes, key=free)

    def _what_is_fixed(self) -> tuple[BoolArray, NDArray[np.uint64]]:
        """For every class whether it stays, and fingerprints of sets of classes of which one must stay."""
        frozen = np.zeros(self.classes.size, np.bool_)
        for labels, _ in self.space.frozen:
            frozen[self.classes[labels.numpy()]] = True
        # A conjunction that stays forbids its classes to go all together.
        found = [
            _fingerprints(self.classes[rows[frozen[self.classes[ids]]]]) for ids, rows in self.conjunctions
        ]
        return frozen, np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64)

    def reasons(self) -> dict[int, str]:
        """Why each frozen class stays; the first reason counts."""
        reasons: dict[int, str] = {0: "no identity"}
        for labels, reason in self.space.frozen:
            for number in np.unique(self.classes[labels.numpy()]):
                reasons.setdefault(int(number), reason)
        for number in np.unique(self.classes[self.mixed]):
            reasons.setdefault(int(number), "is shared by all slices of another axis")
        return reasons


def _distinct(support: IntArray) -> IntArray:
    """Sorted rows with repeats replaced by 0, sorted again: equal rows mean equal sets."""
    # 0 is in no set, so it can stand in the place of a repeat.
    repeats = np.concatenate([np.zeros((len(support), 1), bool), support[:, 1:] == support[:, :-1]], axis=1)
    return np.sort(np.where(repeats, 0, support), axis=1)


def _fingerprints(rows: IntArray) -> NDArray[np.uint64]:
    """One number per row, equal for equal sets of classes."""
    members = _distinct(np.sort(rows, axis=1)).astype(np.uint64)
    # Mixed one by one and added up, so that order does not matter. Two sets could share a number; then only
    # the choice of the freest axis would suffer.
    mixed = (members ^ (members >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    total: NDArray[np.uint64] = (mixed ^ (mixed >> np.uint64(32))).sum(axis=1, dtype=np.uint64)
    return total
