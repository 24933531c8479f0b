"""Anatomies written down by hand, so that decisions can be tested without tracing a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from esper.anatomy import Anatomy, Group, Kind, Member, TensorInfo, Term
from esper.arrays import IntArray
from esper.elesh import Evidence, Tier


def chain(widths: Sequence[int], pixels: int = 16, *, heads: int = 0, head_size: int = 4) -> Anatomy:
    """3x3 convolutions with these hidden widths from 3 inputs to 10 outputs, and perhaps attention heads."""
    tensors = []
    sizes = [3, *widths, 10]
    ends = list(pairwise(sizes))
    for layer, (inputs, outputs) in enumerate(ends):
        tensors += [
            TensorInfo(f"conv{layer}.weight", (outputs, inputs, 3, 3), True),
            TensorInfo(f"conv{layer}.bias", (outputs,), True),
        ]
    groups = []
    for layer, width in enumerate(widths):
        index = np.arange(width).reshape(-1, 1)
        members = (
            Member(f"conv{layer}.weight", 0, index, "producer"),
            Member(f"conv{layer}.bias", 0, index, "producer"),
            Member(f"conv{layer + 1}.weight", 1, index, "consumer"),
        )
        groups.append(Group(f"conv{layer}", Kind.CHANNEL, width, members))
    starts = np.cumsum([0, *widths])
    axes: list[IntArray] = [
        np.full(3, -1, np.int64),
        *(start + np.arange(width) for start, width in zip(starts, widths, strict=False)),
        np.full(10, -1, np.int64),
    ]
    terms = [Term(f"conv{n}", 2.0 * 9 * pixels, (axes[n + 1], axes[n])) for n in range(len(ends))]
    if heads:
        index = np.arange(heads * head_size).reshape(heads, head_size)
        tensors += [
            TensorInfo("attention.value", (heads * head_size, 10), True),
            TensorInfo("attention.out", (10, heads * head_size), True),
        ]
        both = (
            Member("attention.value", 0, index, "producer"),
            Member("attention.out", 1, index, "consumer"),
        )
        groups.append(Group("attention", Kind.HEAD, heads, both))
        owner = np.repeat(int(starts[-1]) + np.arange(heads), head_size)
        outside = np.full(10, -1, np.int64)
        terms += [Term("value", 2.0 * pixels, (owner, outside)), Term("out", 2.0 * pixels, (outside, owner))]
    return Anatomy(tuple(tensors), tuple(groups), (), tuple(terms))


def resnet8() -> Anatomy:
    """A ResNet-8 for 28x28 images: stages of 16, 32 and 64 channels, one block each, with projections."""
    names = ["stage1", "inner1", "stage2", "inner2", "stage3", "inner3"]
    widths = [16, 16, 32, 32, 64, 64]
    starts = dict(zip(names, np.cumsum([0, *widths]), strict=False))
    size = dict(zip(names, widths, strict=True))
    convolutions: list[tuple[str, str | None, str, int, int]] = [
        ("stem", None, "stage1", 3, 784),
        ("b1.conv1", "stage1", "inner1", 3, 784),
        ("b1.conv2", "inner1", "stage1", 3, 784),
        ("b2.conv1", "stage1", "inner2", 3, 196),
        ("b2.conv2", "inner2", "stage2", 3, 196),
        ("b2.skip", "stage1", "stage2", 1, 196),
        ("b3.conv1", "stage2", "inner3", 3, 49),
        ("b3.conv2", "inner3", "stage3", 3, 49),
        ("b3.skip", "stage2", "stage3", 1, 49),
    ]

    def axis(name: str | None) -> IntArray:
        return np.full(1, -1, np.int64) if name is None else starts[name] + np.arange(size[name])

    tensors = [
        TensorInfo(f"{n}.weight", (size[o], size[i] if i else 1, k, k), True)
        for n, i, o, k, _ in convolutions
    ]
    members: Mapping[str, list[Member]] = {name: [] for name in names}
    for n, i, o, _, _ in convolutions:
        members[o].append(Member(f"{n}.weight", 0, np.arange(size[o]).reshape(-1, 1), "producer"))
        if i:
            members[i].append(Member(f"{n}.weight", 1, np.arange(size[i]).reshape(-1, 1), "consumer"))
    tensors.append(TensorInfo("head.weight", (10, 64), True))
    members["stage3"].append(Member("head.weight", 1, np.arange(64).reshape(-1, 1), "consumer"))
    terms = [Term(n, 2.0 * k * k * p, (axis(o), axis(i))) for n, i, o, k, p in convolutions]
    terms.append(Term("head", 2.0, (np.full(10, -1, np.int64), axis("stage3"))))
    groups = [Group(name, Kind.CHANNEL, size[name], tuple(members[name])) for name in names]
    return Anatomy(tuple(tensors), tuple(groups), (), tuple(terms))


def measured(anatomy: Anatomy, seed: int = 0, *, unmeasured: float = 0.0) -> Evidence:
    """Evidence by ablation: losses with a long tail, some below zero, and a share of units missing."""
    random = np.random.default_rng(seed)
    loss = random.lognormal(-6, 1.5, anatomy.num_units) - 0.0005
    loss[random.random(anatomy.num_units) < unmeasured] = np.nan
    return replace(
        Evidence.unmeasured(anatomy.digest, anatomy.num_units),
        screen=np.argsort(np.argsort(loss)) / max(anatomy.num_units - 1, 1),
        loss_increase=loss,
        confidence=np.where(
            np.isnan(loss), np.nan, random.choice([1.0, 0.97, 0.6], anatomy.num_units, p=[0.7, 0.2, 0.1])
        ),
        samples=np.full(anatomy.num_units, 256),
        tier=Tier.ABLATION,
    )


anatomies = st.builds(
    chain,
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(1, 64),
    heads=st.integers(0, 8),
    head_size=st.integers(1, 4),
)
"""Small networks of all shapes."""


def layered(anatomy: Anatomy, names: Sequence[str]) -> Anatomy:
    """The same network, in which these of its convolutions are layers that can go as a whole."""
    groups, terms = list(anatomy.groups), list(anatomy.terms)
    for unit, name in enumerate(names, start=anatomy.num_units):
        members = tuple(
            Member(info.name, 0, np.arange(info.shape[0])[None], "producer")
            for info in anatomy.tensors
            if info.name.startswith(f"{name}.")
        )
        groups.append(Group(f"layer:{name}", Kind.LAYER, 1, members, least=0))
        terms = [
            replace(term, factors=(*term.factors, np.array([unit]))) if term.node == name else term
            for term in terms
        ]
    return replace(anatomy, groups=tuple(groups), terms=tuple(terms))
