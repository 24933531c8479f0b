"""The algebra of the sketch: what holds for every stream of keys."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper.errors import ConfigError, EvidenceError
from esper.importance.elements.sketch import CountMinSketch
from esper.importance.elements.sketch_size import SketchSize

Stream = list[tuple[int, float]]
STREAMS = st.lists(
    st.tuples(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 40), st.floats(0, 1e6)), max_size=60
)
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 5))


def tensors(stream: Stream) -> tuple[Tensor, Tensor]:
    keys = torch.tensor([key for key, _ in stream], dtype=torch.int64)
    return keys, torch.tensor([value for _, value in stream], dtype=torch.float64)


def sketch_of(size: tuple[int, int], *streams: Stream) -> CountMinSketch:
    sketch = CountMinSketch(*size)
    for stream in streams:
        sketch.update(*tensors(stream))
    return sketch


def truth(stream: Stream) -> dict[int, float]:
    sums: dict[int, float] = {}
    for key, value in stream:
        sums[key] = sums.get(key, 0.0) + value
    return sums


def asked(sketch: CountMinSketch, keys: list[int]) -> list[float]:
    found: list[float] = sketch.estimate(torch.tensor(keys, dtype=torch.int64)).tolist()
    return found


def nearly(values: list[float]) -> object:
    return pytest.approx(values, rel=1e-9, abs=1e-9, nan_ok=True)


@given(STREAMS, SIZES)
def test_it_never_under_estimates(stream: Stream, size: tuple[int, int]) -> None:
    sums = truth(stream)
    for (_, true), found in zip(sums.items(), asked(sketch_of(size, stream), list(sums)), strict=True):
        assert found >= true * (1 - 1e-12) or (true == 0 and math.isnan(found))


@given(STREAMS, SIZES)
def test_it_is_exact_while_the_keys_fit(stream: Stream, size: tuple[int, int]) -> None:
    sketch, sums = sketch_of(size, stream), truth(stream)
    assert sketch.is_exact == (len(sums) <= sketch.exact_keys)
    if sketch.is_exact:
        assert asked(sketch, list(sums)) == nearly(list(sums.values()))
        assert math.isnan(asked(sketch, [next(n for n in range(100) if n not in sums)])[0])


@given(STREAMS, STREAMS, SIZES)
def test_merged_equals_joint(first: Stream, second: Stream, size: tuple[int, int]) -> None:
    merged, joint = sketch_of(size, first), sketch_of(size, first, second)
    merged.merge(sketch_of(size, second))
    keys = [key for key, _ in first + second] or [0]
    assert merged.is_exact == joint.is_exact
    assert asked(merged, keys) == nearly(asked(joint, keys))
    assert merged.stats().total == pytest.approx(joint.stats().total)
    assert merged.stats().num_updates == joint.stats().num_updates == len(first) + len(second)


@given(STREAMS, STREAMS, SIZES)
def test_the_order_of_a_merge_does_not_matter(first: Stream, second: Stream, size: tuple[int, int]) -> None:
    one, other = sketch_of(size, first), sketch_of(size, second)
    one.merge(sketch_of(size, second))
    other.merge(sketch_of(size, first))
    keys = [key for key, _ in first + second] or [0]
    assert asked(one, keys) == nearly(asked(other, keys))


@given(STREAMS, SIZES)
def test_a_batch_equals_one_after_the_other(stream: Stream, size: tuple[int, int]) -> None:
    batch, singly = sketch_of(size, stream), sketch_of(size, *([pair] for pair in stream))
    keys = [key for key, _ in stream] or [0]
    assert batch.is_exact == singly.is_exact
    assert asked(batch, keys) == nearly(asked(singly, keys))


@given(STREAMS, SIZES)
def test_accumulating_without_looking_equals_a_sketch_that_is_full(
    stream: Stream, size: tuple[int, int]
) -> None:
    sketch = CountMinSketch(*size)
    sketch.accumulate(*tensors(stream))
    keys = list(truth(stream)) or [0]
    assert not sketch.is_exact
    for true, found in zip(truth(stream).values(), asked(sketch, keys), strict=False):
        assert found >= true * (1 - 1e-12) or (true == 0 and math.isnan(found))
    assert sketch.stats().total == pytest.approx(sum(value for _, value in stream))


@given(STREAMS, STREAMS, SIZES)
def test_state_goes_through_a_file_and_on(
    tmp_path_factory: pytest.TempPathFactory, first: Stream, second: Stream, size: tuple[int, int]
) -> None:
    sketch = sketch_of(size, first)
    file = tmp_path_factory.mktemp("sketch") / "state.safetensors"
    safetensors.torch.save_file(sketch.state(), file)
    again = CountMinSketch.from_state(safetensors.torch.load_file(file))
    for each in (sketch, again):
        each.update(*tensors(second))
    keys = [key for key, _ in first + second] or [0]
    assert asked(again, keys) == pytest.approx(asked(sketch, keys), rel=0, abs=0, nan_ok=True)
    assert again.stats() == sketch.stats()


def test_the_computed_bound_holds_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(2**62, (20_000,), generator=generator)
    values = torch.rand(20_000, generator=generator, dtype=torch.float64)
    sketch = CountMinSketch(500, 4)
    sketch.update(keys, values)
    stats = sketch.stats()
    assert not stats.is_exact
    assert stats.num_keys is None
    assert stats.confidence == pytest.approx(1 - math.exp(-4))
    assert stats.error_bound == pytest.approx(math.e / 500 * float(values.sum()))
    assert stats.occupied_fraction == pytest.approx(1.0)
    assert stats.memory_bytes == 500 * 4 * 8
    is_within = sketch.estimate(keys) - values <= stats.error_bound
    assert is_within.double().mean() >= stats.confidence


def test_what_is_exact_says_so_and_how_much_memory_it_takes() -> None:
    sketch = sketch_of((100, 4), [(1, 2.0), (5, 1.0), (1, 1.0)])
    stats = sketch.stats()
    assert (stats.is_exact, stats.num_keys, stats.error_bound, stats.confidence) == (True, 2, 0.0, 1.0)
    assert stats.memory_bytes == 32
    assert sketch.exact_keys * 16 == 100 * 4 * 8  # the keys may take what the table would


def test_sizes_follow_the_formulas() -> None:
    assert SketchSize.for_training(1_000) == SketchSize(10_000, 7)
    assert SketchSize.for_training(50_000_001, error_rate=1e-4) == SketchSize(50_001, 10)
    with pytest.raises(ConfigError, match="error rate"):
        SketchSize.for_training(1_000, error_rate=0.0)


def test_clear_forgets_everything() -> None:
    sketch = sketch_of((2, 1), [(key, 1.0) for key in range(10)])
    assert not sketch.is_exact
    sketch.clear()
    assert sketch.stats() == CountMinSketch(2, 1).stats()


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        (torch.tensor([1]), torch.tensor([-1.0]), "negative"),
        (torch.tensor([1]), torch.tensor([math.nan]), "no numbers"),
        (torch.tensor([1]), torch.tensor([math.inf]), "no numbers"),
        (torch.tensor([1, 2]), torch.tensor([1.0]), "one int64 key"),
        (torch.tensor([1.0]), torch.tensor([1.0]), "int64"),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_changes(
    keys: Tensor, values: Tensor, message: str
) -> None:
    sketch = sketch_of((3, 2), [(1, 2.0)])
    with pytest.raises(EvidenceError, match=message):
        sketch.update(keys, values)
    assert sketch.stats() == sketch_of((3, 2), [(1, 2.0)]).stats()


def test_sketches_that_hash_differently_are_not_merged() -> None:
    with pytest.raises(EvidenceError, match="same size and seed"):
        CountMinSketch(10, 2).merge(CountMinSketch(10, 2, seed=1))
    with pytest.raises(EvidenceError, match="same size and seed"):
        CountMinSketch(10, 2).merge(CountMinSketch(11, 2))


@pytest.mark.parametrize("size", [(0, 1), (1, 0), (1 << 31, 1)])
def test_an_impossible_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="width"):
        CountMinSketch(*size)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("shape", torch.tensor([0, 1, 0])),
        ("shape", torch.tensor([7, 3, 0])),
        ("total", torch.tensor(math.nan, dtype=torch.float64)),
        ("table", torch.zeros(2, 3, dtype=torch.float64) - 1),
        ("table", torch.zeros(2, 3)),
        ("keys", torch.tensor([3])),
        ("sums", torch.tensor([1.0], dtype=torch.float64)),
    ],
)
def test_a_damaged_state_is_refused(part: str, value: Tensor) -> None:
    state = sketch_of((3, 2), [(key, 1.0) for key in range(20)]).state()
    with pytest.raises(EvidenceError, match="not the state of a sketch"):
        CountMinSketch.from_state({**state, part: value})
    with pytest.raises(EvidenceError, match=f"{part} missing"):
        CountMinSketch.from_state({name: tensor for name, tensor in state.items() if name != part})


def test_exact_keys_that_are_not_ascending_are_refused() -> None:
    state = sketch_of((30, 2), [(1, 1.0), (2, 1.0)]).state()
    with pytest.raises(EvidenceError, match="ascending"):
        CountMinSketch.from_state({**state, "keys": torch.tensor([2, 1])})


def test_the_recorded_sketch_reads_as_it_was_written(tmp_path: Path) -> None:
    """What a sketch of these keys answered when it was recorded; another answer would misread old states."""
    sketch = CountMinSketch(8, 2, seed=3)
    sketch.update(torch.arange(20), torch.arange(20, dtype=torch.float64))
    assert asked(sketch, list(range(6))) == RECORDED


RECORDED = [20.0, 11.0, 25.0, 3.0, 20.0, 20.0]
