"""From classes of labels to units, groups, costs and gates: the finished anatomy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from torch import Tensor

from esper.anatomy.labels import Classes
from esper.anatomy.labels.rules import Product
from esper.anatomy.structure import (
    Anatomy,
    Coupling,
    FrozenAxis,
    Gate,
    Group,
    Kind,
    Member,
    Role,
    TensorInfo,
    Term,
)
from esper.anatomy.units.propagate import Propagation
from esper.arrays import BoolArray, IntArray

_UNUSED = "is not both made and read by contractions"


@dataclass(frozen=True)
class _Coordinates:
    """Every labelled coordinate of every tensor axis, as parallel arrays."""

    keys: list[tuple[str, int]]
    axis: IntArray  # which key
    index: IntArray  # coordinate along the axis
    label: IntArray
    of_class: IntArray


def build(
    found: Propagation, classes: Classes, *, batch: int, aliases: Mapping[str, tuple[str, ...]]
) -> Anatomy:
    """Groups classes that run through the same tensor axes and computes what they cost."""
    coordinates = _coordinates(found, classes)
    sizes = {
        (name, axis): len(labels) for name, axes in found.axes.items() for axis, labels in enumerate(axes)
    }
    groups: list[Group] = []
    frozen: list[FrozenAxis] = []
    # By class: its unit, or -1.
    unit_of_class = np.full(int(classes.of.max(initial=0)) + 1, -1, np.int64)
    heads = _class_set(found.notes.heads, classes)
    routed = _class_set(found.notes.routed, classes)
    summed = _class_set([read.layer for read in found.notes.reads], classes) if routed else set()
    least = {int(c): count for layer, count in found.notes.least for c in np.unique(classes.map(layer))}
    ranks = {name: len(axes) for name, axes in found.axes.items()}
    coupling = _coupling_reasons(found, classes)
    names: dict[str, int] = {}
    start = 0
    # Why a class stays counts before what it is coupled to.
    reasons = {**coupling, **classes.reason}
    for members, ids in _by_signature(coordinates, _roles(found, coordinates), reasons):
        is_read = bool(routed.intersection(ids.tolist()) & summed)
        reason = classes.reason.get(int(ids[0]), "") or _why_not_removable(members, sizes, is_read)
        if not any(member.role == "producer" for member in members):
            continue  # kernel positions and input features are not what a reader looks for
        name = _name(members, names)
        if reason:
            frozen.append(FrozenAxis(name, len(ids), reason))
            continue
        kind = Kind.HEAD if heads.intersection(ids.tolist()) else Kind.CHANNEL
        if routed.intersection(ids.tolist()) and any(ranks[member.tensor] > 2 for member in members):
            kind = Kind.EXPERT
        needed = max((least.get(number, 1) for number in ids.tolist()), default=1)
        groups.append(Group(name, kind, len(ids), members, coupling.get(int(ids[0]), ""), needed))
        # `ids` are the group's classes in the order of its units.
        unit_of_class[ids] = start + np.arange(len(ids))
        start += len(ids)
    work, elements = _terms(found.notes.products, classes, unit_of_class, batch)
    return Anatomy(
        tensors=_tensors(found, aliases),
        groups=tuple(groups),
        frozen=tuple(frozen),
        terms=work,
        gates=_gates(found, classes, unit_of_class),
        activations=elements,
        couplings=_couplings(found, classes, unit_of_class),
    )


def _coupling_reasons(found: Propagation, classes: Classes) -> dict[int, str]:
    """For every class that a normalization runs over, which one; the first counts."""
    reasons: dict[int, str] = {}
    for coupled in found.notes.coupled:
        for number in np.unique(classes.map(coupled.labels)):
            reasons.setdefault(int(number), coupled.reason)
    return reasons


def _couplings(found: Propagation, classes: Classes, unit_of_class: IntArray) -> tuple[Coupling, ...]:
    mapped = [(c.node, c.axis, unit_of_class[classes.map(c.labels)]) for c in found.notes.coupled]
    return tuple(Coupling(*found) for found in mapped if (found[2] >= 0).any())


def _why_not_removable(
    members: tuple[Member, ...], sizes: Mapping[tuple[str, int], int], is_read: bool
) -> str:
    roles = {member.role for member in members}
    if "producer" not in roles or not ("consumer" in roles or is_read):
        return _UNUSED
    whole = [m for m in members if len(m.index) == 1 and m.index.size == sizes[m.tensor, m.axis]]
    return f"is all that {whole[0].tensor} has along axis {whole[0].axis}" if whole else ""


def _coordinates(found: Propagation, classes: Classes) -> _Coordinates:
    keys: list[tuple[str, int]] = []
    axis, index, label = [], [], []
    for name, axes in found.axes.items():
        for number, labels in enumerate(axes):
            array = labels.numpy()
            if array.size > 1:
                axis.append(np.full(array.size, len(keys)))
                index.append(np.arange(array.size))
                label.append(array)
                keys.append((name, number))
    if not keys:
        empty = np.empty(0, np.int64)
        return _Coordinates([], empty, empty, empty, empty)
    joined = np.concatenate(label)
    return _Coordinates(keys, np.concatenate(axis), np.concatenate(index), joined, classes.of[joined])


def _roles(found: Propagation, coordinates: _Coordinates) -> list[Role]:
    """For every tensor axis whether it makes units, reads them, points their way, or goes along."""
    notes = found.notes
    said: list[tuple[Role, list[Tensor]]] = [  # the last that holds counts
        ("producer", notes.produced),
        ("consumer", notes.consumed),
        ("direction", notes.directions),
    ]
    roles: list[Role] = ["companion"] * len(coordinates.keys)
    for role, layers in said:
        flags = _flags(layers, found.space.count)
        # An axis has a role as soon as one of its labels has.
        holds = np.bincount(coordinates.axis, flags[coordinates.label], len(coordinates.keys)) > 0
        roles = [role if it_does else other for it_does, other in zip(holds, roles, strict=True)]
    return roles


def _flags(layers: list[Tensor], count: int) -> BoolArray:
    flags = np.zeros(count + 1, bool)
    for layer in layers:
        flags[layer.numpy().ravel()] = True
    flags[0] = False
    return flags


def _class_set(layers: list[Tensor], classes: Classes) -> set[int]:
    return {int(c) for layer in layers for c in np.unique(classes.map(layer)) if c}


def _by_signature(
    coordinates: _Coordinates, roles: list[Role], reasons: Mapping[int, str]
) -> list[tuple[tuple[Member, ...], IntArray]]:
    """Classes with as many coordinates on the same axes (and the same reason to stay), and where they lie."""
    if not coordinates.keys:
        return []
    # Sorted by class, then axis, then place: a run is what one class has along one axis.
    order = np.lexsort((coordinates.index, coordinates.axis, coordinates.of_class))
    of_class, axis, index = coordinates.of_class[order], coordinates.axis[order], coordinates.index[order]
    # Runs as a table: `starts` and `counts` among the coordinates, `run_class`, `run_axis`. `firsts` are the
    # numbers of each class's first run.
    starts = np.flatnonzero(np.r_[True, (of_class[1:] != of_class[:-1]) | (axis[1:] != axis[:-1])])
    counts = np.diff(np.r_[starts, of_class.size])
    run_class, run_axis = of_class[starts], axis[starts]
    firsts = np.flatnonzero(np.r_[True, run_class[1:] != run_class[:-1]])
    signatures: dict[tuple[tuple[tuple[int, int], ...], str], list[int]] = {}
    for first, last in zip(firsts, np.r_[firsts[1:], run_class.size], strict=True):
        # The signature of a class: along which axes it lies, with how many coordinates each.
        runs = tuple(zip(run_axis[first:last].tolist(), counts[first:last].tolist(), strict=True))
        key = (runs, reasons.get(int(run_class[first]), ""))
        signatures.setdefault(key, []).append(int(first))
    result = []
    for (runs, _), numbers in sorted(signatures.items(), key=lambda item: item[1][0]):
        # First runs of the classes, ordered by their first coordinate. The run `offset` further on is the
        # class's run along the next axis: [width, count] coordinates for each member.
        rows = np.asarray(numbers)
        rows = rows[np.argsort(index[starts[rows]], kind="stable")]
        members = tuple(
            Member(
                *coordinates.keys[axis_number],
                index=index[starts[rows + offset][:, None] + np.arange(count)],
                role=roles[axis_number],
            )
            for offset, (axis_number, count) in enumerate(runs)
        )
        result.append((members, run_class[rows]))
    return result


def _name(members: tuple[Member, ...], names: dict[str, int]) -> str:
    """The module whose weight makes the unit, numbered when several groups come from one module."""
    first = next(m for m in members if m.role == "producer")
    path = first.tensor.rpartition(".")[0] or first.tensor
    names[path] = names.get(path, 0) + 1
    return path if names[path] == 1 else f"{path}:{names[path]}"


def _tensors(found: Propagation, aliases: Mapping[str, tuple[str, ...]]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(
            name, tuple(len(labels) for labels in axes), name in found.parameters, aliases.get(name, ())
        )
        for name, axes in found.axes.items()
    )


def _terms(
    products: list[Product], classes: Classes, unit_of_class: IntArray, batch: int
) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
    """The work of every contraction, and the elements that it makes, both for one sample."""
    work, elements = [], []
    for product in products:
        factors: dict[int, IntArray] = {}
        for layer in product.layers:
            mapped = unit_of_class[classes.map(layer)]
            # A layer is a factor if units vary along one of its axes only: then the work falls in proportion
            # to what is left of that axis.
            axes = [n for n in range(mapped.ndim) if not (mapped == mapped.take([0], n)).all()]
            if len(axes) == 1:
                pick = tuple(slice(None) if n == axes[0] else 0 for n in range(mapped.ndim))
                factors[axes[0]] = mapped[pick]
        # All other axes count in full.
        fixed = {axis: size for axis, size in enumerate(product.shape) if axis not in factors}
        # A multiplication and an addition each, for one sample.
        flops = 2.0 * prod(fixed.values()) * product.places[0] / max(batch, 1)
        work.append(Term(product.node, flops, tuple(factors.values())))
        # What comes out has all axes but the summed ones.
        made = prod(size for axis, size in fixed.items() if axis not in product.summed) * product.places[1]
        kept = tuple(factor for axis, factor in factors.items() if axis not in product.summed)
        elements.append(Term(product.node, made / max(batch, 1), kept))
    return tuple(work), tuple(elements)


def _gates(found: Propagation, classes: Classes, unit_of_class: IntArray) -> tuple[Gate, ...]:
    gates = []
    for read in found.notes.reads:
        units = unit_of_class[classes.map(read.layer)]
        # A unit that fills the summed axes (a head in Q K^T) lives on in the sum and is read further down.
        lives_on = (units == units.max(axis=read.axes, keepdims=True)).all(axis=read.axes, keepdims=True)
        if lives_on.size > 1:
            units = np.where(lives_on, -1, units)
        if (units >= 0).any():
            gates.append(Gate(read.node, read.argument, units))
    return tuple(gates)
