"""Held-out batches: split in two parts that share nothing, or refused in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper.batches import first_batches, hold_out, merged, resized, samples
from esper.elesh import AnalysisSettings
from esper.errors import ConfigError


def numbered(sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Batches whose samples are all different."""
    x = torch.arange(sum(sizes)).split(sizes)
    return [(part.float().unsqueeze(1), part) for part in x]


def numbers(batches: Any) -> list[int]:
    return [int(n) for _, y in batches for n in y]


SMALL = AnalysisSettings(calibration_samples=8, held_out_samples=12, batch_samples=4)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_no_sample_is_in_both_parts_and_inputs_stay_with_their_targets(sizes: list[int]) -> None:
    try:
        kept = hold_out(numbered(sizes), SMALL)
    except ConfigError:
        assert sum(-(-size // 4) - (size % 4 == 1) for size in sizes) < 2
        return
    one, other = numbers(kept.calibration), numbers(kept.validation)
    assert one
    assert other
    assert len({*one, *other}) == len(one) + len(other)
    for x, y in (*kept.calibration, *kept.validation):
        assert torch.equal(x[:, 0], y.float())
        assert 2 <= len(y) <= 4
    assert len(one) <= 8
    assert len(one) + len(other) < 8 + 12 + 4


def test_one_batch_is_split() -> None:
    kept = hold_out(numbered([64]), SMALL)
    assert numbers(kept.calibration) == list(range(8))
    assert numbers(kept.validation) == list(range(8, 20))


def test_no_more_is_kept_than_is_wanted() -> None:
    assert len(numbers(hold_out(numbered([10_000]), SMALL).validation)) == 12


def test_the_loader_is_not_read_further_than_needed() -> None:
    read: list[int] = []

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(numbered([8] * 100)):
            read.append(number)
            yield batch

    hold_out(loader(), SMALL)
    assert read == [0, 1, 2]


def test_a_last_single_sample_is_left_out() -> None:
    kept = hold_out(numbered([9]), SMALL)
    assert numbers((*kept.calibration, *kept.validation)) == list(range(8))


@pytest.mark.parametrize("sizes", [[], [0], [1], [4], [1, 1, 1], [0, 5]])
def test_too_few_samples_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"too few.* 20 samples are used"):
        hold_out(numbered(sizes), SMALL)


def test_dictionaries_and_lists_are_batches_too() -> None:
    x, mask = torch.randn(10, 3), torch.ones(10, 3)
    by_name = hold_out([{"x": x, "mask": mask, "use_cache": False, "labels": torch.arange(10)}], SMALL)
    first = by_name.calibration[0]
    assert (first["x"].shape, first["mask"].shape, first["use_cache"]) == ((4, 3), (4, 3), False)
    listed = hold_out([[x, torch.arange(10)]], SMALL)
    assert isinstance(listed.calibration[0], tuple)


def test_what_is_kept_does_not_change_with_the_loaders_buffers() -> None:
    x, y = numbered([16])[0]
    kept = hold_out([(x, y)], SMALL)
    x.zero_()
    assert kept.validation[0][0].count_nonzero()


def test_batches_without_a_common_axis_stay_whole() -> None:
    graph = (torch.randn(5, 3), torch.randn(7, 2))
    kept = hold_out([graph, graph], SMALL)
    assert kept.calibration[0][0].shape == (5, 3)


def test_of_one_graph_another_one_is_asked_for() -> None:
    graph = (torch.randn(6, 4), torch.randint(6, (2, 9))), torch.randint(3, (6,))
    with pytest.raises(ConfigError, match=r"yields 1 batch.*same graph with labels that are masked"):
        hold_out([graph], SMALL)


def test_merging_joins_only_what_is_alike() -> None:
    joined = merged(numbered([4, 4, 4, 3]), 8)
    assert [samples(b) for b in joined] == [8, 7]
    assert numbers(joined) == list(range(15))
    ragged = [(torch.zeros(4, 5), torch.zeros(4)), (torch.zeros(4, 6), torch.zeros(4))]
    assert [b[0].shape for b in merged(ragged, 100)] == [(4, 5), (4, 6)]
    flagged = [{"x": torch.zeros(2, 1), "causal": c} for c in (True, True, False)]
    assert [len(b["x"]) for b in merged(flagged, 100)] == [4, 2]
    scaled = [(torch.zeros(2, 1), torch.tensor(s)) for s in (1.0, 1.0, 2.0)]
    assert [len(b[0]) for b in merged(scaled, 100)] == [4, 2]


def test_resizing_gives_batches_of_one_size_and_leaves_out_the_rest() -> None:
    for size in (3, 5, 8):
        batches = resized(numbered([4, 4, 4, 3]), size)
        assert {samples(b) for b in batches} == {size}
        assert numbers(batches) == list(range(15 // size * size))
    assert resized(numbered([4]), 5) == []
    same = numbered([4, 4])
    assert resized(same, 4) == same


def test_a_batch_without_tensors_counts_as_one_sample() -> None:
    assert samples(("text", 3)) == 1


def test_batches_whose_samples_meet_stay_whole_and_there_must_be_two() -> None:
    kept = hold_out(numbered([6, 7, 5, 9]), SMALL, whole=True)
    assert [samples(batch) for batch in (*kept.calibration, *kept.validation)] == [6, 7, 5, 9]
    assert len(kept.calibration) == 2  # of 6 samples each, as many as make 8
    with pytest.raises(ConfigError, match=r"yields 1 batch\(es\), and two are needed"):
        hold_out(numbered([50]), SMALL, whole=True)


def test_of_large_batches_that_stay_whole_two_are_kept() -> None:
    kept = hold_out(numbered([500, 400, 300]), SMALL, whole=True)
    assert [samples(batch) for batch in (*kept.calibration, *kept.validation)] == [500, 400]
    assert [len(y) for _, y in first_batches(numbered([500, 400, 300]), SMALL)] == [500, 400]
