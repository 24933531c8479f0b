"""Sums over units against the plain loop over units and coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper.anatomy import Anatomy, Group, Kind, Member, Role, TensorInfo
from esper.errors import StructureError
from esper.importance.accumulate import UnitReducer, by_anatomy_name
from tests.importance.networks import residual, two

ROLES: tuple[Role, ...] = ("producer", "consumer", "companion")
CPU = torch.device("cpu")


def plain_sums(anatomy: Anatomy, values: dict[str, Tensor], roles: tuple[Role, ...]) -> list[float]:
    sums = []
    for group in anatomy.groups:
        for unit in range(group.width):
            total = 0.0
            for member in group.members:
                if member.role in roles and member.tensor in values:
                    index = torch.from_numpy(member.index[unit])
                    total += float(values[member.tensor].double().index_select(member.axis, index).sum())
            sums.append(total)
    return sums


@st.composite
def anatomies(draw: st.DrawFn) -> Anatomy:
    """A few tensors of 1 to 4 axes, and groups over permuted coordinates of their axes."""
    sizes = st.integers(1, 6)
    shapes = draw(st.lists(st.lists(sizes, min_size=1, max_size=4), min_size=1, max_size=4))
    tensors = tuple(TensorInfo(f"t{i}", tuple(shape), True) for i, shape in enumerate(shapes))
    free = [(t, axis) for t in tensors for axis in range(len(t.shape))]
    groups: list[Group] = []
    for _ in range(draw(st.integers(0, 3))):
        if not free:
            break
        members = []
        width = draw(st.integers(1, 3))
        for _ in range(draw(st.integers(1, 3))):
            if not free:
                break
            tensor, axis = free.pop(draw(st.integers(0, len(free) - 1)))
            each = tensor.shape[axis] // width
            order = draw(st.permutations(range(tensor.shape[axis])))
            index = np.array(order[: each * width], np.int64).reshape(width, each)
            role: Role = draw(st.sampled_from(ROLES))
            members.append(Member(tensor.name, axis, index, role))
        groups.append(Group(f"g{len(groups)}", Kind.CHANNEL, width, tuple(members)))
    return Anatomy(tensors, tuple(groups), (), ())


@given(
    anatomies(),
    st.sampled_from([("consumer",), ("producer", "companion"), ("producer", "consumer", "companion")]),
)
def test_sums_equal_the_loop_over_units_and_coordinates(anatomy: Anatomy, roles: tuple[Role, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = {t.name: torch.randn(t.shape, generator=generator) for t in anatomy.tensors}
    sums = UnitReducer(anatomy, roles).sum(values.get, CPU, torch.float64)
    assert sums.tolist() == pytest.approx(plain_sums(anatomy, values, roles), abs=1e-5)


def test_buffers_are_not_read() -> None:
    _, anatomy = residual()
    assert "norm.running_mean" not in UnitReducer(anatomy).tensors
    assert "norm.weight" in UnitReducer(anatomy).tensors


def test_elements_count_what_is_added_up() -> None:
    network, anatomy = residual()
    reducer = UnitReducer(anatomy)
    counted = reducer.sum(lambda name: torch.ones_like(dict(network.named_parameters())[name]), CPU)
    assert counted.tolist() == reducer.elements.tolist()


def test_a_unit_is_covered_only_when_all_its_tensors_are_there() -> None:
    _, anatomy = residual()
    reducer = UnitReducer(anatomy, ("consumer",))
    assert reducer.covered({"conv1.weight", "conv2.weight"}).tolist() == [False] * 4 + [True] * 3
    assert reducer.touched({"conv1.weight"}).tolist() == [True] * 4 + [False] * 3


def test_half_precision_is_added_up_in_single_precision() -> None:
    network, anatomy = two(width=2)
    values = {n: torch.full(p.shape, 3e4, dtype=torch.float16) for n, p in network.named_parameters()}
    sums = UnitReducer(anatomy).sum(values.get, CPU)
    assert torch.isfinite(sums).all()  # in half precision 6 x 3e4 is infinite
    assert sums.dtype == torch.float32


def test_a_tensor_of_another_shape_is_refused_with_both_shapes() -> None:
    _, anatomy = two(width=5)
    with pytest.raises(StructureError, match=r"up\.weight.*\(4, 3\).*\(5, 3\)"):
        UnitReducer(anatomy).sum({"up.weight": torch.ones(4, 3)}.get, CPU)


def test_a_tied_tensor_is_found_under_its_other_name() -> None:
    info = TensorInfo("embed.weight", (3, 2), True, aliases=("head.weight",))
    weight = torch.ones(3, 2)
    assert by_anatomy_name(Anatomy((info,), (), (), ()), {"head.weight": weight}) == {"embed.weight": weight}


def test_an_anatomy_without_units_gives_no_sums() -> None:
    anatomy = Anatomy((TensorInfo("w", (2,), True),), (), (), ())
    reducer = UnitReducer(anatomy)
    assert reducer.sum({"w": torch.ones(2)}.get, CPU).shape == (0,)
    assert reducer.covered({"w"}).shape == (0,)
