"""Labels that flow through a network's graph: which parameter coordinate made each activation element.

Every coordinate of every parameter axis is a *label* (an integer above zero; 0 is "no identity"). A `Flow`
describes one tensor of the graph by *layers*: label tensors with size 1 wherever the label does not vary, so
that an activation of a million elements is described by one row of channel labels. An element goes when the
label of any of its layers goes.

What the operators say about labels is collected in a `LabelSpace` as facts, all vectorised:

* *equal*: these two labels live or die together;
* *conjunction*: this label goes exactly when all of those go (a whole slice across another axis);
* *frozen*: this label stays, and why;
* *grid*: labels that vary along several axes of one tensor, where only whole slices can go.

`resolve.py` turns the facts into units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import prod

import numpy as np
import torch
from torch import Tensor

Axes = tuple[int, ...]
_MOST_CROSSED = 1 << 20


def varying_axes(layer: Tensor) -> Axes:
    """The axes along which a compact layer varies."""
    return tuple(axis for axis, size in enumerate(layer.shape) if size > 1)


def compact(layer: Tensor) -> Tensor:
    """The same layer with size 1 along every axis where the label does not vary."""
    for axis in range(layer.dim()):
        if layer.shape[axis] > 1:
            first = layer.narrow(axis, 0, 1)
            # An expanded axis (stride 0) cannot vary, and is not compared.
            if layer.stride(axis) == 0 or bool((layer == first).all()):
                layer = first
    return layer.contiguous()


@dataclass(frozen=True)
class Flow:
    """What one tensor of the graph carries: its concrete shape and its layers (compact, same number of axes).

    `is_constant`: it follows from parameters and buffers alone, whatever the input. `is_zeroed`: its
    elements are exactly zero where a mask removes their label (a parameter is; its cosine is not). `cause`
    says which operator left the tensor without labels.
    """

    shape: tuple[int, ...]
    layers: tuple[Tensor, ...] = ()
    is_constant: bool = False
    is_zeroed: bool = False
    cause: str = ""
    points: Tensor | None = None
    """For numbers of coordinates, as top-k gives them: the labels of those coordinates, in their order."""

    def moved(self, shape: Sequence[int], layers: Sequence[Tensor]) -> Flow:
        """The same content, rearranged."""
        return replace(self, shape=tuple(shape), layers=tuple(layers))

    def unsqueezed(self, *axes: int) -> Flow:
        """With axes of size 1 inserted at the given final positions (ascending)."""
        shape, layers = list(self.shape), list(self.layers)
        for axis in axes:
            shape.insert(axis, 1)
            layers = [layer.unsqueeze(axis) for layer in layers]
        return self.moved(shape, layers)

    def permuted(self, order: Sequence[int]) -> Flow:
        return self.moved([self.shape[i] for i in order], [layer.permute(*order) for layer in self.layers])

    def split_axis(self, axis: int, sizes: Sequence[int]) -> Flow:
        """With one axis seen as several."""
        shape = (*self.shape[:axis], *sizes, *self.shape[axis + 1 :])
        return self.moved(shape, [reshape_layer(layer, self.shape, shape) for layer in self.layers])


def with_rank(flow: Flow, rank: int) -> Flow:
    """With leading axes of size 1, as broadcasting sees it."""
    missing = rank - len(flow.shape)
    return flow.unsqueezed(*range(missing)) if missing else flow


def widest(layers: Sequence[Tensor]) -> list[Tensor]:
    """The layers that matter: on shared axes they are united, so the wider one is enough."""
    kept: list[Tensor] = []
    # From the layer that varies along most axes on: what varies along a part of them says nothing new,
    # unless the wider one has places without identity.
    for layer in sorted(layers, key=lambda layer: -len(varying_axes(layer))):
        axes = set(varying_axes(layer))
        covered = any(axes <= set(varying_axes(other)) and bool((other > 0).all()) for other in kept)
        if axes and not covered:
            kept.append(layer)
    return kept


def reshape_layer(layer: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Reshapes a compact layer of a tensor of shape `old` to the compact layer of shape `new`.

    Only those runs of axes that really mix are spelled out, so that batch and space stay at size 1.
    """
    expand = list(layer.shape)
    target: list[int] = []
    i = j = 0
    while i < len(old) or j < len(new):
        # The shortest run of old axes and run of new axes with equally many elements; `left` and `right` are
        # their sizes so far. Axes of size 1 join the run behind them.
        left, right, start_i, start_j = 1, 1, i, j
        while True:
            if left == right and (i > start_i or j > start_j) and left > 1:
                break
            if left <= right and i < len(old):
                left *= old[i]
                i += 1
            elif j < len(new):
                right *= new[j]
                j += 1
            else:
                break
        # Spelled out only where the layer varies within the run: elsewhere 1 stays 1.
        if any(layer.shape[axis] > 1 for axis in range(start_i, i)):
            expand[start_i:i] = old[start_i:i]
            target.extend(new[start_j:j])
        else:
            target.extend([1] * (j - start_j))
    return compact(layer.expand(expand).reshape(target))


@dataclass
class Grid:
    """Labels that vary along all axes; the axis whose slices should be the units: demanded or hinted."""

    labels: Tensor
    demanded: int | None = None
    hinted: int | None = None


@dataclass
class LabelSpace:
    """Hands out labels and collects what the operators say about them."""

    count: int = 0
    equal: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    conjunctions: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    frozen: list[tuple[Tensor, str]] = field(default_factory=list)
    grids: dict[bytes, Grid] = field(default_factory=dict)
    heads: set[int] = field(default_factory=set)
    """Labels of slices that two activations are multiplied by one and one: heads are the natural units."""
    _stays: Tensor = field(default_factory=lambda: torch.zeros(1024, dtype=torch.bool))

    def fresh(self, count: int) -> Tensor:
        """`count` new labels."""
        labels = torch.arange(self.count + 1, self.count + 1 + count)
        self.count += count
        return labels

    def flow(self, shape: Sequence[int], layers: Sequence[Tensor], *, is_zeroed: bool = False) -> Flow:
        """A flow in normal form: empty layers dropped, single labels frozen, grids recorded."""
        kept: list[Tensor] = []
        for layer in layers:
            axes = varying_axes(layer)
            if not axes:
                self.freeze(layer, "a single coordinate of its axis is picked out")
                continue
            if any(layer.shape == other.shape and bool((layer == other).all()) for other in kept):
                continue
            if len(axes) > 1:
                self.grid(layer)
            kept.append(layer)
        return Flow(tuple(int(size) for size in shape), tuple(kept), is_zeroed=is_zeroed)

    def grid(self, layer: Tensor, unit_axis: int | None = None, *, is_hint: bool = False) -> None:
        """Records labels that vary along several axes; slices along `unit_axis` should be the units.

        A hint counts only where no operator demands another axis.
        """
        axes = varying_axes(layer)
        if len(axes) < 2:
            return
        # The same labels in the same order are one grid, whatever axes of size 1 lie between them.
        labels = layer.squeeze()
        key = repr(tuple(labels.shape)).encode() + labels.contiguous().numpy().tobytes()
        grid = self.grids.setdefault(key, Grid(labels))
        # The first to demand an axis decides, and so does the first to hint at one.
        if unit_axis in axes:
            place = axes.index(unit_axis)
            if is_hint:
                grid.hinted = place if grid.hinted is None else grid.hinted
            else:
                grid.demanded = place if grid.demanded is None else grid.demanded

    def reshaped(self, flow: Flow, shape: Sequence[int]) -> Flow:
        """The flow in another shape; layers that come to lie along one axis become one, less what stays."""
        layers = list(flow.layers)
        while True:
            # Where two layers would come to vary along one axis, they are crossed in the old shape first;
            # again until none are left.
            moved = [reshape_layer(layer, flow.shape, shape) for layer in layers]
            pairs = combinations(range(len(layers)), 2)
            clash = next(
                (p for p in pairs if set(varying_axes(moved[p[0]])) & set(varying_axes(moved[p[1]]))), None
            )
            # Two that shared an axis before are united there already and may share one again.
            if clash is None or set(varying_axes(layers[clash[0]])) & set(varying_axes(layers[clash[1]])):
                return self.flow(shape, moved, is_zeroed=flow.is_zeroed)
            fixed = next((n for n in clash if self._is_frozen(layers[n])), None)
            if fixed is not None:  # no element goes with it, so it is a size like any other
                layers.pop(fixed)
                continue
            second, first = layers.pop(clash[1]), layers.pop(clash[0])
            layers.append(self.crossed(first, second))

    def crossed(self, left: Tensor, right: Tensor) -> Tensor:
        """One layer for two that vary along different axes: an element goes with the slice of either."""
        shape = np.broadcast_shapes(left.shape, right.shape)
        # Every element becomes a label of its own. Beyond so many the two axes stay instead.
        if prod(shape) > _MOST_CROSSED:
            for layer in (left, right):
                self.freeze(layer, "runs into too large a product of two axes")
            return torch.zeros([1] * len(shape), dtype=torch.long)
        both = self.fresh(prod(shape)).reshape(shape)
        # Where one of the two counts heads, whole heads are the units.
        head = next(
            (layer for layer in (left, right) if self.heads.issuperset(layer.flatten().tolist())), None
        )
        self.grid(both, None if head is None else varying_axes(head)[0])
        # A slice of the new labels goes exactly when the old label does.
        self.unite(self.conjunction(both, varying_axes(right)), left, "meets a fixed size")
        self.unite(self.conjunction(both, varying_axes(left)), right, "meets a fixed size")
        return both

    def unite(self, left: Tensor, right: Tensor, reason: str) -> None:
        """Says that labels at the same place are equal; one that meets a fixed size is frozen."""
        shape = np.broadcast_shapes(left.shape, right.shape)
        left, right = left.expand(shape), right.expand(shape)
        # Two labels at a place are a fact; one label at a place without identity has met a fixed size.
        both = (left > 0) & (right > 0)
        if bool(both.any()):
            self.equal.append((left[both], right[both]))
        self.freeze(left[(right == 0)], reason)
        self.freeze(right[(left == 0)], reason)

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Says that these labels stay."""
        labels = torch.unique(labels[labels > 0])
        if labels.numel():
            self.frozen.append((labels, reason))
            # The table at least doubles: labels are handed out and frozen all the time.
            missing = self.count + 1 - self._stays.numel()
            if missing > 0:
                self._stays = torch.nn.functional.pad(self._stays, (0, max(missing, self._stays.numel())))
            self._stays[labels] = True

    def freeze_flow(self, flow: Flow, reason: str) -> None:
        for layer in (*flow.layers, *(() if flow.points is None else (flow.points,))):
            self.freeze(layer, reason)

    def are_zeroed(self, layers: Sequence[Tensor], by: Sequence[Flow]) -> bool:
        """Whether a product of `by` is zero where a mask removes a label of `layers` (of equal rank)."""
        # A factor makes the product zero only where it spells out all axes of the label. What stays need not
        # be zero.
        spelled_out = [set(varying_axes(layer)) for flow in by if flow.is_zeroed for layer in flow.layers]
        return all(
            any(set(varying_axes(layer)) <= axes for axes in spelled_out) or self._is_frozen(layer)
            for layer in layers
        )

    def _is_frozen(self, layer: Tensor) -> bool:
        """Is it known already that no label of the layer goes?"""
        # Freezing makes the table long enough, so labels behind its end are not frozen.
        known = int(layer.max()) < self._stays.numel()
        return known and bool((self._stays[layer] | (layer == 0)).all())

    def conjunction(self, layer: Tensor, axes: Sequence[int]) -> Tensor:
        """The layer without variation along `axes`: a label per place that goes when all there go."""
        gone = [axis for axis in axes if layer.shape[axis] > 1]
        if not gone:
            return layer
        kept = [axis for axis in range(layer.dim()) if axis not in gone]
        # [places that remain, labels of the slice at each]; equal slices will share a label.
        rows = layer.permute(*kept, *gone).reshape(-1, prod(layer.shape[axis] for axis in gone))
        if rows.shape[0] == 1:  # the whole axis, which is never removed as a whole
            return torch.zeros([1] * layer.dim(), dtype=torch.long)
        unique, inverse = torch.unique(rows, dim=0, return_inverse=True)
        # A slice of one label is that label. One with a place without identity never goes. All others get a
        # new label, which goes when all of the slice go.
        same = (unique == unique[:, :1]).all(1)
        partly_fixed = (unique == 0).any(1)
        labels = torch.where(same, unique[:, 0], 0)
        new = ~same & ~partly_fixed
        if bool(new.any()):
            fresh = self.fresh(int(new.sum()))
            labels[new] = fresh
            self.conjunctions.append((fresh, unique[new]))
        shape = [1 if axis in gone else size for axis, size in enumerate(layer.shape)]
        return compact(labels[inverse].reshape(shape))

    def fix_axis(self, flow: Flow, axis: int, reason: str) -> None:
        """Says that no coordinate of one axis of the tensor can go (slices along other axes still can)."""
        axis %= max(len(flow.shape), 1)
        for layer in flow.layers:
            if layer.shape[axis] > 1:
                self._fix_places(layer, axis, reason)

    def meet(self, left: Flow, right: Flow, reason: str) -> Flow:
        """Two tensors combined element by element (with broadcasting): labels that meet are equal."""
        rank = max(len(left.shape), len(right.shape))
        left, right = with_rank(left, rank), with_rank(right, rank)
        # First what one tensor spells out and the other has no labels for; then every two layers that share
        # an axis.
        for mine, other in ((left, right), (right, left)):
            for layer in mine.layers:
                self._against_fixed_size(layer, other, reason)
        layers = [*left.layers, *right.layers]
        covered: set[int] = set()
        for i, ours in enumerate(left.layers):
            for k, theirs in enumerate(right.layers, start=len(left.layers)):
                along, across = set(varying_axes(ours)), set(varying_axes(theirs))
                if not along & across:
                    continue
                # They meet on the shared axes, each as whole slices across the axes that the other does not
                # have.
                self.unite(
                    self.conjunction(ours, tuple(along - across)),
                    self.conjunction(theirs, tuple(across - along)),
                    reason,
                )
                # Of two layers over the same axes one is left, with the other's labels where it has none;
                # one over fewer axes says nothing that the wider one does not.
                if along == across:
                    layers[i] = torch.where(layers[i] > 0, layers[i], theirs)
                if across <= along:
                    covered.add(k)
                elif along <= across:
                    covered.add(i)
        shape = np.broadcast_shapes(left.shape, right.shape)
        return self.flow(shape, [layer for n, layer in enumerate(layers) if n not in covered])

    def _against_fixed_size(self, layer: Tensor, other: Flow, reason: str) -> None:
        """An axis that the other tensor spells out without labels has a fixed size: its slices stay."""
        labelled = {axis for theirs in other.layers for axis in varying_axes(theirs)}
        for axis in varying_axes(layer):
            if other.shape[axis] > 1 and axis not in labelled:
                self._fix_places(layer, axis, reason)

    def _fix_places(self, layer: Tensor, axis: int, reason: str) -> None:
        """Says that no whole slice of a layer at a place along the axis can go."""
        others = [other for other in varying_axes(layer) if other != axis]
        self.freeze(self.conjunction(layer, others), reason)
