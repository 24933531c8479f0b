"""Nested training state to a tree and tensors, and back."""

from __future__ import annotations

import json
import struct
from collections import Counter, OrderedDict, defaultdict
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.checkpoint.codec import MAX_DEPTH, MAX_JSON_BYTES, decode, encode, from_json, to_json
from esper.checkpoint.tensor_file import lay_out, tensor_bytes
from esper.errors import CheckpointCorrupt, CheckpointError


class Level(IntEnum):
    LOW = 1


def there_and_back(value: object) -> Any:
    encoded = encode(value)
    lay_out(encoded.tensors)  # refuses what a file could not hold
    return decode(from_json(to_json(encoded.tree)), {k: v.clone() for k, v in encoded.tensors.items()})


def is_same(a: object, b: object) -> bool:
    """Equal types, values, order and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bytes(_raw(a)) == bytes(_raw(b))
    if isinstance(a, np.ndarray | np.generic) and isinstance(b, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, complex) and isinstance(b, complex):
        return is_same(a.real, b.real) and is_same(a.imag, b.imag)
    if isinstance(a, dict) and isinstance(b, dict):
        return is_same(list(a.items()), list(b.items()))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(is_same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def _raw(tensor: torch.Tensor) -> memoryview:
    return tensor_bytes(torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 200), 1 << 200),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(exclude_categories=())),
    st.binary(),
)
keys = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=3,
)
tensors = st.builds(
    lambda shape, dtype, seed: (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(9).to(dtype)
    ),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64]),
    st.integers(0, 9),
)
arrays = st.builds(
    lambda shape, dtype: np.arange(int(np.prod(shape))).reshape(shape).astype(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(["<f4", ">f8", "u4", "i1", "?", "c16", "f2"]),
)
numbers = st.builds(
    lambda kind, x: np.dtype(kind).type(x), st.sampled_from(["f4", "f8", "i8", "?"]), st.integers(0, 9)
)
values = st.recursive(
    st.one_of(scalars, tensors, arrays, numbers),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(st.text(), inner, max_size=4).map(OrderedDict),
    ),
    max_leaves=12,
)


@given(values)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_nested_state_comes_back_bit_for_bit(value: object) -> None:
    assert is_same(there_and_back(value), value)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        struct.unpack(">d", bytes.fromhex("7ff8000000000123"))[0],
        float("-inf"),
        -0.0,
        5e-324,
        1 << 63,
        -(1 << 63),
        "\ud83d\ude00",
        "\ud83d" + "\ude00",
        torch.Size([2, 3]),
        torch.bfloat16,
        torch.device("cuda:1"),
        Counter({3: 2, 5: 0}),
        {True: 1, 2: 3, None: 4, (1, ("a", 2.5)): 5},
        {"dict": 1, "tensor": "x", "": {}},
        torch.tensor(float("nan")),
        torch.tensor(2 + 3j).conj(),
        np.array(3, "<f8"),
        np.float64("nan"),
        [],
        (),
        {},
    ],
    ids=repr,
)
def test_awkward_values_come_back(value: object) -> None:
    assert is_same(there_and_back(value), value)


def test_int_and_float_of_the_same_value_stay_apart() -> None:
    assert [type(x) for x in there_and_back([1, 1.0, True])] == [int, float, bool]


def test_tied_tensors_are_stored_once_and_tied_again() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 3))
    encoded = encode(
        {"encoder": {"weight": weight}, "decoder": {"weight": weight.detach()}, "other": weight.T}
    )
    assert set(encoded.tensors) == {"encoder.weight", "other"}
    back = decode(encoded.tree, encoded.tensors)
    assert back["encoder"]["weight"] is back["decoder"]["weight"]
    assert torch.equal(back["other"], weight.T)


def test_two_parts_of_one_storage_are_two_tensors() -> None:
    flat = torch.arange(6.0)
    back = there_and_back([flat[:3], flat[3:], flat[:3].view(torch.int32), flat[:0], flat[6:]])
    assert torch.equal(back[1], flat[3:])
    assert back[2].dtype == torch.int32


def test_tensors_keep_the_names_of_a_state_dict() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    assert set(encode(model.state_dict()).tensors) == set(model.state_dict())


def test_names_that_collide_are_told_apart() -> None:
    value = {
        "a.b": torch.zeros(1),
        "a": {"b": torch.ones(1)},
        "__metadata__": torch.ones(2),
        "": torch.ones(3),
    }
    encoded = encode({**value, "\ud800": torch.ones(4)})
    assert set(encoded.tensors) == {"a.b", "a.b~2", "__metadata__~2", "value", "?"}
    assert is_same(there_and_back(value), value)


def test_the_memory_format_comes_back_where_it_is_dense() -> None:
    image = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    back = there_and_back(
        {"image": image, "slice": image[:, :, ::2], "wide": torch.randn(1, 3).T, "one": image[:1]}
    )
    assert back["one"].stride() == image[:1].stride()
    assert back["image"].stride() == image.stride()
    assert torch.equal(back["image"], image)
    assert torch.equal(back["slice"], image[:, :, ::2])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"opt": [0, {"fn": len}]}, r"`opt\.1\.fn` cannot be stored: it is a builtins\.builtin_function"),
        (object(), r"The value cannot be stored: it is a builtins\.object"),
        ({"a": {1, 2}}, r"`a` cannot be stored: it is a builtins\.set"),
        ({"a": defaultdict(list)}, r"`a` .* collections\.defaultdict"),
        ({"a": {len: 1}}, r"`a` has a key that cannot be stored: <built-in"),
        ({"a": {(1, len): 1}}, r"`a` has a key"),
        ([torch.zeros(2, 2).to_sparse()], r"`0` cannot be stored: it is a torch.sparse_coo tensor"),
        ([torch.zeros(2, device="meta")], r"on meta"),
        ([np.array(["a"])], r"`0` cannot be stored: it is a NumPy array of type <U1"),
        ([np.array([None])], r"NumPy array of type object"),
        ([np.datetime64("2020-01-01")], r"numpy\.datetime64"),
        ({"level": Level.LOW}, r"`level` .*\.Level"),
    ],
)
def test_what_cannot_be_stored_is_named_by_its_path(value: object, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        encode(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(CheckpointError, match="contains itself"):
        encode(loop)


def test_deep_but_sane_nesting_is_stored() -> None:
    value: object = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert is_same(there_and_back(value), value)


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"pickle": "gASV"},
        {"tensor": "none"},
        {"tensor": ["a"]},
        {"pairs": [[1]], "kind": "dict"},
        {"pairs": [], "kind": "defaultdict"},
        {"pairs": [[[1], 2]], "kind": "dict"},
        {"pairs": 3, "kind": "dict"},
        {"tuple": 1},
        {"dict": []},
        {"int": "x"},
        {"float": "00"},
        {"text": "zz"},
        {"bytes": "?"},
        {"dtype": "load"},
        {"dtype": "nothing"},
        {"device": "moon"},
        {"scalar": "00", "dtype": "<f8"},
        {"array": "a", "dtype": "O", "shape": [1]},
        {"array": "a", "dtype": "<f4", "shape": [7]},
        {"size": ["x"]},
        {"complex": [1, 2, 3]},
    ],
    ids=str,
)
def test_a_tree_of_unknown_form_is_refused(tree: object) -> None:
    with pytest.raises(CheckpointCorrupt, match="state tree cannot be read"):
        decode(tree, {"a": torch.zeros(16, dtype=torch.uint8)})


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000])
def test_text_that_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(CheckpointCorrupt, match="no JSON"):
        from_json(text)


def test_a_tree_that_is_too_large_is_refused_both_ways() -> None:
    with pytest.raises(CheckpointError, match="Keep large data in tensors"):
        to_json("x" * MAX_JSON_BYTES)
    with pytest.raises(CheckpointCorrupt, match="larger than"):
        from_json(b" " * (MAX_JSON_BYTES + 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 3, 3]),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
        lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1),
        torch.optim.lr_scheduler.ReduceLROnPlateau,
        lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
            milestones=[2],
        ),
        lambda o: torch.optim.lr_scheduler.ChainedScheduler([torch.optim.lr_scheduler.ConstantLR(o)]),
        lambda o: torch.optim.swa_utils.SWALR(o, 0.05),
    ],
)
@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.filterwarnings("ignore:Detected call of")
def test_every_scheduler_of_torch_can_be_stored(make: Any) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], 0.1, momentum=0.9)
    state = make(optimizer).state_dict()
    assert is_same(there_and_back(state), state)


def test_every_json_object_in_a_tree_is_one_tagged_value() -> None:
    text = json.dumps(encode({"a": [1, (2,)], 3: torch.zeros(1)}).tree)
    assert text == ('{"pairs": [["a", [1, {"tuple": [2]}]], [3, {"tensor": "3"}]], "kind": "dict"}')
