"""Classes of labels: whole slices only, whatever tensors say about them."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.anatomy.labels.labels import Flow, LabelSpace
from esper.anatomy.labels.resolve import resolve

GRIDS = st.lists(st.integers(2, 3), min_size=2, max_size=3)


@given(GRIDS, st.data())
def test_every_class_of_a_grid_is_a_set_of_whole_slices(shape: list[int], data: st.DataObject) -> None:
    """Any set of classes can go, and what is left of the tensor is still a rectangle."""
    space = LabelSpace()
    size = int(np.prod(shape))
    labels = space.fresh(size).reshape(shape)
    space.flow(shape, [labels])
    for _ in range(data.draw(st.integers(0, 2))):
        one, other = (data.draw(st.integers(0, size - 1)) for _ in range(2))
        space.unite(labels.flatten()[one : one + 1], labels.flatten()[other : other + 1], "why")
    if data.draw(st.booleans()):
        space.freeze(labels.flatten()[data.draw(st.integers(0, size - 1))].reshape(1), "named by number")
    classes = resolve(space)
    grid = classes.map(labels)
    varying = [a for a in range(grid.ndim) if not (grid == grid.take([0], a)).all()]
    assert len(varying) <= 1


@given(GRIDS, st.data())
def test_a_preferred_axis_is_the_one_that_varies(shape: list[int], data: st.DataObject) -> None:
    space = LabelSpace()
    labels = space.fresh(int(np.prod(shape))).reshape(shape)
    axis = data.draw(st.integers(0, len(shape) - 1))
    space.flow(shape, [labels])
    space.grid(labels, axis)
    grid = resolve(space).map(labels)
    assert [a for a in range(grid.ndim) if not (grid == grid.take([0], a)).all()] == [axis]


def test_the_axis_with_more_free_slices_is_chosen() -> None:
    space = LabelSpace()
    labels = space.fresh(12).reshape(3, 4)
    flow = space.flow((3, 4), [labels])
    space.fix_axis(flow, 1, "fixed")
    grid = resolve(space).map(labels)
    assert len(set(grid[:, 0])) == 3
    assert (grid == grid[:, :1]).all()


def test_equal_conjunctions_are_one() -> None:
    space = LabelSpace()
    labels = space.fresh(6).reshape(2, 3)
    other = labels.flip(1)
    first, second = space.conjunction(labels, [1]), space.conjunction(other, [1])
    classes = resolve(space)
    assert (classes.map(first) == classes.map(second)).all()


def test_a_label_that_goes_only_with_all_slices_of_another_axis_stays() -> None:
    space = LabelSpace()
    heads = space.fresh(2)
    labels = space.fresh(6).reshape(2, 3)
    flow = space.flow((2, 3), [labels])
    space.grid(labels, 1)
    space.meet(Flow((2, 1), (space.conjunction(labels, [1]),)), Flow((2, 1), (heads.reshape(2, 1),)), "why")
    classes = resolve(space)
    assert flow.layers
    assert {classes.reason[c] for c in classes.map(heads)} == {"is shared by all slices of another axis"}


def test_the_first_reason_counts() -> None:
    space = LabelSpace()
    label = space.fresh(1)
    space.freeze(label, "first")
    space.freeze(label, "second")
    assert resolve(space).reason[int(resolve(space).map(label)[0])] == "first"


def test_nothing_said_is_nothing_united() -> None:
    space = LabelSpace()
    labels = space.fresh(5)
    assert len(set(resolve(space).map(labels))) == 5
    assert resolve(LabelSpace()).map(torch.zeros(2, dtype=torch.long)).tolist() == [0, 0]
