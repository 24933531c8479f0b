"""What is written comes back as it was, and what is no such value is refused with the path to the fault."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from esper.errors import ContractError
from esper.leyline import UNSTORED, Via, decode, encode, flat, gaps


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


class Size(IntEnum):
    SMALL = 0
    LARGE = 1


@dataclass(frozen=True, eq=False)
class Step:
    """One row with arrays of every kind."""

    __stored_row__: ClassVar = ("units", "losses", "size", "gone", "shape", "grid")

    units: NDArray[np.int64]
    losses: NDArray[np.float64]
    keep: Annotated[NDArray[np.bool_], gaps("size", "gone")]
    grid: Annotated[NDArray[np.int64], flat("shape", "grid")]


@dataclass(frozen=True)
class Node:
    """A class that holds others of its own."""

    name: str
    inner: Node | None = None


@dataclass(frozen=True)
class Plan:
    """One field of every type; some have come later."""

    color: Color
    size: Size
    word: Literal["go", "stay"]
    share: float
    limit: int | None
    mixed: bool | int | str | None
    pair: tuple[int, str]
    names: tuple[str, ...]
    colors: frozenset[Color]
    by_color: Mapping[Color, float]
    by_axis: Mapping[int, Sequence[int]]
    file: Path
    data: bytes
    node: Node
    anything: Any = None
    seconds: Annotated[float, UNSTORED] = 0.0
    reversed: Annotated[str, Via(str, lambda text: text[::-1], lambda text: text[::-1])] = "ab"


NUMBERS = st.integers(-(2**63), 2**63 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NODES = st.recursive(st.builds(Node, st.text()), lambda node: st.builds(Node, st.text(), node), max_leaves=4)
PLANS = st.builds(
    Plan,
    color=st.sampled_from(Color),
    size=st.sampled_from(Size),
    word=st.sampled_from(["go", "stay"]),
    share=st.floats(allow_nan=False),
    limit=st.none() | NUMBERS,
    mixed=st.none() | st.booleans() | NUMBERS | st.text(),
    pair=st.tuples(NUMBERS, st.text()),
    names=st.lists(st.text()).map(tuple),
    colors=st.frozensets(st.sampled_from(Color)),
    by_color=st.dictionaries(st.sampled_from(Color), st.floats(allow_nan=False)),
    by_axis=st.dictionaries(NUMBERS, st.lists(NUMBERS)),
    file=st.builds(Path, st.text("abc/", min_size=1)),
    data=st.binary(),
    node=NODES,
    anything=JSON,
    reversed=st.text(),
)
SHAPES = arrays.array_shapes(max_dims=3, min_side=0)
STEPS = st.builds(
    Step,
    units=arrays.arrays(np.int64, SHAPES),
    losses=arrays.arrays(np.float64, SHAPES),
    keep=arrays.arrays(np.bool_, st.integers(0, 20)),
    grid=arrays.arrays(np.int64, SHAPES),
)
PLAN = Plan(
    Color.RED, Size.SMALL, "go", 0.5, 1, None, (1, "a"), ("a",), frozenset({Color.RED}), {Color.RED: 1.0},
    {0: [1]}, Path("f"), b"", Node("outer", Node("inner")),
)  # fmt: skip


def through_json(plain: Any) -> Any:
    return json.loads(json.dumps(plain, allow_nan=False))


@given(PLANS)
def test_a_value_comes_back_as_it_was(plan: Plan) -> None:
    assert decode(Plan, through_json(encode(plan))) == plan


@given(STEPS)
def test_arrays_come_back_with_type_shape_and_what_was_not_measured(step: Step) -> None:
    again = decode(Step, through_json(encode(step)))
    for name in ("units", "losses", "keep", "grid"):
        before, after = getattr(step, name), getattr(again, name)
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        np.testing.assert_array_equal(after, before)


@given(st.lists(st.floats()))
def test_numbers_beyond_json_come_back(numbers: list[float]) -> None:
    again = decode(list[float], through_json(encode(numbers, list[float])))
    np.testing.assert_array_equal(again, numbers)


@dataclass(frozen=True)
class Shares:
    values: NDArray[np.float32]
    limit: float


def test_small_floats_and_numbers_of_numpy_are_written_as_numbers() -> None:
    shares = Shares(np.array([0.1, np.inf], np.float32), cast("float", np.float32(0.5)))
    plain = through_json(encode(shares))
    assert plain["limit"] == 0.5
    assert decode(Shares, plain).values.tolist() == shares.values.tolist()


def changed(path: Sequence[str | int], value: Any) -> Any:
    plain = through_json(encode(PLAN))
    inside = plain
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    return plain


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["color"], "green", "Plan.color: expected one of 'red', 'blue', found 'green'"),
        (["color"], ["red"], r"Plan.color: expected one of .*, found \['red'\]"),
        (["size"], False, "Plan.size: expected one of 0, 1, found False"),
        (["word"], 1, "Plan.word: expected one of 'go', 'stay', found 1"),
        (["share"], "nan", "Plan.share: expected a number, found 'nan'"),
        (["share"], True, "Plan.share: expected a number, found True"),
        (["limit"], 1.0, "Plan.limit: expected an integer, found 1.0"),
        (["mixed"], [], r"Plan.mixed: expected bool or null or number or text, found \[\]"),
        (["pair"], [1], r"Plan.pair: expected a list of 2, found \[1\]"),
        (["names"], "text", "Plan.names: expected a list, found 'text'"),
        (["names", 0], None, r"Plan.names\[0\]: expected text, found None"),
        (["by_color"], [], r"Plan.by_color: expected an object, found \[\]"),
        (["by_color", "red"], "x", r"Plan.by_color\['red'\]: expected a number, found 'x'"),
        (["by_color", "green"], 1.0, "Plan.by_color: expected one of .*, found 'green'"),
        (["by_axis", "first"], [1], "Plan.by_axis: expected an integer, found 'first'"),
        (["by_axis", "0", 0], "a", r"Plan.by_axis\['0'\]\[0\]: expected an integer"),
        (["data"], "%", "Plan.data: .*base64"),
        (["node"], [], r"Plan.node: expected an object, found \[\]"),
        (["node", "inner", "name"], 3, "Plan.node.inner.name: expected text, found 3"),
        (["node", "nested"], 3, "Plan.node.nested: expected no such field"),
        (["seconds"], 1.0, "Plan.seconds: expected no such field"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(path: list[str | int], value: Any, told: str) -> None:
    with pytest.raises(ContractError, match=told):
        decode(Plan, changed(path, value))


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (0, [1, "x"], r"Step.units\[1\]: expected an integer, found 'x'"),
        (0, [1.5], r"Step.units\[0\]: expected an integer, found 1.5"),
        (0, [None], r"Step.units\[0\]: expected an integer, found None"),
        (0, [[1], [1, 2]], "Step.units: .*inhomogeneous"),
        (0, [2**70], "Step.units: .*too large"),
        (0, "12", "Step.units: expected an array of int64, found '12'"),
        (1, [True], r"Step.losses\[0\]: expected a number, found True"),
        (3, [7], "Step: index 7 is out of bounds"),
        (4, [5], "Step: cannot reshape"),
    ],
)
def test_what_is_wrong_in_an_array_is_named_with_its_place(place: int, value: Any, told: str) -> None:
    row: list[Any] = [[1], [1.0], 1, [], [1], [1]]
    row[place] = value
    with pytest.raises(ContractError, match=told):
        decode(Step, row)


def test_a_missing_field_is_an_error_unless_it_has_a_default() -> None:
    plain = through_json(encode(PLAN))
    del plain["anything"]
    assert decode(Plan, plain) == PLAN
    del plain["share"]
    with pytest.raises(ContractError, match=r"Plan\.share: expected a value, found nothing"):
        decode(Plan, plain)
    with pytest.raises(ContractError, match=r"Step\.grid: expected a value, found nothing"):
        decode(Step, [[], [], 0, [], [0]])
    with pytest.raises(ContractError, match="expected a list of units, losses"):
        decode(Step, [[], [], 0, [], [0], [], 1])


@dataclass(frozen=True)
class Renamed:
    """A class that was stored otherwise before."""

    seconds: float

    @staticmethod
    def __stored_before__(stored: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"seconds": stored["ms"] / 1000} if "ms" in stored else stored


def test_a_class_reads_the_shape_that_it_had_before() -> None:
    assert decode(Renamed, {"ms": 500}) == decode(Renamed, encode(Renamed(0.5))) == Renamed(0.5)


@dataclass(frozen=True)
class Carried:
    array: NDArray[np.float64]
    names: tuple[str, ...]


def test_what_the_carrier_can_hold_stays_as_it_is() -> None:
    carried = Carried(np.ones(3), ("a",))
    plain = encode(carried, leaves=(np.ndarray,))
    assert plain == {"array": carried.array, "names": ["a"]}
    again = decode(Carried, {**plain, "names": ("a",)}, leaves=(np.ndarray,))
    assert again.array is carried.array
    assert again.names == ("a",)


@dataclass(frozen=True)
class Sampled:
    """What it takes is checked by itself."""

    share: float

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ValueError(f"a share of {self.share} is more than all")


def test_what_a_class_refuses_is_told_with_its_path() -> None:
    with pytest.raises(ContractError, match=r"\[1\]: a share of 2\.0 is more than all"):
        decode(tuple[Sampled, ...], [{"share": 0.5}, {"share": 2.0}])


@dataclass
class Loose:
    value: object = None
    items: list[int] = field(default_factory=list)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Loose({1: 2}), "Loose.value: expected what JSON can hold, found a dict"),
        (Loose([(1,)]), r"Loose.value\[0\]: .*found a tuple"),
        (Loose({"a": math.nan}), r"Loose.value\['a'\]: .*found nan"),
        (Loose(items=[1, "2"]), r"Loose.items\[1\]: expected an integer, found '2'"),  # type: ignore[list-item]
    ],
)
def test_what_would_not_come_back_is_not_written(value: Loose, told: str) -> None:
    with pytest.raises(ContractError, match=told):
        encode(value)


@pytest.mark.parametrize(
    "of", [int | float, Step | list[int], complex, NDArray[np.complex64], dict, Node | Loose]
)
def test_a_type_that_data_cannot_tell_is_refused(of: Any) -> None:
    with pytest.raises(ContractError, match=r"form in JSON|look alike"):
        decode(of, [])


def test_data_chooses_no_class() -> None:
    plain = {"!": "dataclass", "class": "subprocess:Popen", "fields": {"args": ["true"]}}
    assert decode(object, plain) is plain
    with pytest.raises(ContractError, match="expected no such field"):
        decode(Node, plain)
