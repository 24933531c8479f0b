"""The algebra of labels: compact layers say what full ones would."""

from __future__ import annotations

from math import prod

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper.anatomy.labels.labels import Flow, LabelSpace, compact, reshape_layer, varying_axes, widest
from esper.anatomy.labels.resolve import resolve

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, list[int]]:
    """A compact layer with some axes that do not vary, and the shape of its tensor."""
    shape = draw(SIZES)
    axes = [size if draw(st.booleans()) else 1 for size in shape]
    values = draw(st.lists(st.integers(0, 5), min_size=prod(axes), max_size=prod(axes)))
    return compact(torch.tensor(values).reshape(axes)), shape


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[Tensor, list[int], list[int]]:
    """A layer, the shape of its tensor, and another shape of as many elements."""
    layer, shape = draw(layers())
    factors = [prime for size in shape for prime in {1: [], 2: [2], 3: [3], 4: [2, 2]}[size]]
    factors = draw(st.permutations(factors))
    new: list[int] = []
    joins: list[bool] = draw(st.lists(st.booleans(), min_size=len(factors), max_size=len(factors)))
    for factor, is_joined in zip(factors, joins, strict=True):
        if new and is_joined:
            new[-1] *= factor
        else:
            new.append(factor)
    for place in draw(st.lists(st.integers(0, len(new)), max_size=2)):
        new.insert(place, 1)
    return layer, shape, new


@given(layers())
def test_a_compact_layer_spreads_to_the_same_labels(case: tuple[Tensor, list[int]]) -> None:
    layer, shape = case
    full = layer.expand(shape)
    again = compact(full)
    assert torch.equal(again.expand(shape), full)
    assert all(not torch.equal(full.narrow(a, 0, 1).expand(shape), full) for a in varying_axes(again))


@given(reshapes())
def test_reshaping_a_compact_layer_is_reshaping_the_full_one(
    case: tuple[Tensor, list[int], list[int]],
) -> None:
    layer, old, new = case
    moved = reshape_layer(layer, old, new)
    assert torch.equal(moved.expand(new), layer.expand(old).reshape(new))
    assert moved.dim() == len(new)


@given(layers(), st.data())
def test_a_conjunction_goes_exactly_when_all_of_its_labels_go(
    case: tuple[Tensor, list[int]], data: st.DataObject
) -> None:
    layer, _ = case
    space = LabelSpace(count=5)
    axes = data.draw(st.lists(st.integers(0, layer.dim() - 1), unique=True)) if layer.dim() else []
    result = space.conjunction(layer, axes)
    assert all(result.shape[axis] == 1 for axis in axes)
    gone = torch.tensor([False, *data.draw(st.lists(st.booleans(), min_size=5, max_size=5))])
    gone = torch.cat([gone, torch.zeros(space.count - 5, dtype=torch.bool)])
    for ids, rows in space.conjunctions:
        gone[ids] = gone[rows].all(1)
    others = [axis for axis in range(layer.dim()) if axis not in axes]
    if any(layer.shape[axis] > 1 for axis in axes) and not any(layer.shape[axis] > 1 for axis in others):
        assert not result.any()  # the whole of an axis never goes
        return
    expected = gone[layer]
    for axis in axes:
        expected = expected.all(axis, keepdim=True)
    assert torch.equal(gone[result.expand(expected.shape)], expected)


@given(st.integers(2, 6))
def test_labels_that_meet_are_one_class(width: int) -> None:
    space = LabelSpace()
    left, right = space.fresh(width), space.fresh(width)
    met = space.meet(Flow((2, width), (left.reshape(1, -1),)), Flow((width,), (right,)), "why")
    assert met.shape == (2, width)
    assert len(met.layers) == 1
    classes = resolve(space)
    assert (classes.map(left) == classes.map(right)).all()
    assert len(set(classes.map(left))) == width


def test_labels_that_meet_a_fixed_size_stay() -> None:
    space = LabelSpace()
    labels = space.fresh(4)
    space.meet(Flow((4,), (labels,)), Flow((4,)), "a constant of four")
    classes = resolve(space)
    assert {classes.reason[c] for c in classes.map(labels)} == {"a constant of four"}


def test_labels_that_meet_a_broadcast_size_go_on() -> None:
    space = LabelSpace()
    labels = space.fresh(4)
    met = space.meet(Flow((4,), (labels,)), Flow((1,)), "a scalar")
    assert torch.equal(met.layers[0], labels)
    assert space.frozen == []


def test_a_single_coordinate_that_is_picked_out_stays() -> None:
    space = LabelSpace()
    labels = space.fresh(3)
    assert space.flow((2,), [labels[1:2]]).layers == ()
    assert [set(found.tolist()) for found, _ in space.frozen] == [{2}]


def test_two_layers_on_one_axis_become_the_slices_of_a_grid() -> None:
    space = LabelSpace()
    rows, columns = space.fresh(2), space.fresh(3)
    flat = space.reshaped(Flow((2, 3), (rows.reshape(2, 1), columns.reshape(1, 3))), (6,))
    assert flat.shape == (6,)
    assert len(flat.layers) == 1
    classes = resolve(space)
    of = classes.map(flat.layers[0]).reshape(2, 3)
    assert (of == of[0]).all()  # three columns leave more units than two rows
    assert (classes.map(columns) == of[0]).all()
    assert all(c in classes.reason for c in classes.map(rows))


def test_what_stays_already_is_no_obstacle_when_axes_become_one() -> None:
    space = LabelSpace()
    windows, heads = space.fresh(2), space.fresh(3)
    space.freeze(windows, "positions")
    layers = (windows.reshape(2, 1), heads.reshape(1, 3))
    flat = space.reshaped(Flow((2, 3), layers), (6,))
    assert torch.equal(flat.layers[0].reshape(2, 3), heads.expand(2, 3))
    classes = resolve(space)
    assert len(set(classes.map(heads).tolist())) == 3
    assert not set(classes.map(heads).tolist()) & set(classes.reason)


def test_a_fixed_axis_leaves_the_slices_of_the_other() -> None:
    space = LabelSpace()
    labels = space.fresh(6).reshape(2, 3)
    flow = space.flow((2, 3), [labels])
    space.fix_axis(flow, 1, "three of them")
    classes = resolve(space)
    of = classes.map(labels)
    assert (of == of[:, :1]).all()
    assert of[0, 0] != of[1, 0]
    assert not {of[0, 0], of[1, 0]} & set(classes.reason)


def test_zero_is_known_only_where_every_label_is_spelled_out_by_a_zeroed_tensor() -> None:
    space = LabelSpace()
    row, column = space.fresh(2).reshape(2, 1), space.fresh(2).reshape(1, 2)
    zeroed, other = Flow((2, 2), (row,), is_zeroed=True), Flow((2, 2), (column,))
    assert space.are_zeroed([row], [zeroed, other])
    assert not space.are_zeroed([row, column], [zeroed, other])
    assert space.are_zeroed([], [])
    space.freeze(column, "never removed, so it does not matter")
    assert space.are_zeroed([row, column], [zeroed, other])


def test_the_wider_layer_covers_the_narrower_one_only_if_it_has_no_gaps() -> None:
    narrow, wide = torch.tensor([[1], [2]]), torch.tensor([[3, 4], [5, 6]])
    assert [id(layer) for layer in widest([narrow, wide])] == [id(wide)]
    gap = torch.tensor([[3, 0], [5, 6]])
    assert len(widest([narrow, gap])) == 2
