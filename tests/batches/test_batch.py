"""One batch in all the shapes that data loaders give it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from esper.batches import (
    device_of,
    divided,
    first_batches,
    first_samples,
    on_device,
    samples,
    varying_axes,
)
from esper.elesh import AnalysisSettings


def test_parts_hold_every_sample_once_and_never_a_single_one() -> None:
    batch = torch.arange(9).unsqueeze(1), torch.arange(9)
    parts = divided(batch, 4)
    assert [samples(part) for part in parts] == [4, 5]
    assert torch.cat([y for _, y in parts]).tolist() == list(range(9))
    assert len(divided(batch, 4, can_split=False)) == 1
    assert len(divided((torch.zeros(4, 2), torch.zeros(3)), 2)) == 1


def test_the_first_samples_cut_the_last_batch_only_if_it_can_be_cut() -> None:
    batches = [(torch.zeros(4, 2), torch.zeros(4))] * 3
    assert [samples(batch) for batch in first_samples(batches, 6)] == [4, 2]
    assert [samples(batch) for batch in first_samples(batches, 6, can_split=False)] == [4, 4]


def test_a_copy_shares_nothing_with_the_batch() -> None:
    x = torch.zeros(2, 2, requires_grad=True)
    copy: Any = on_device({"x": x, "n": 3}, "cpu", copy=True)
    assert copy["n"] == 3
    assert not copy["x"].requires_grad
    assert copy["x"].data_ptr() != x.data_ptr()
    assert on_device(x, device_of(nn.Linear(2, 2))) is x


def test_axes_that_vary_are_found_beside_that_of_samples() -> None:
    def texts(count: int, length: int) -> Any:
        return {
            "ids": torch.zeros(count, length),
            "mask": torch.zeros(count, length),
            "labels": torch.zeros(count),
        }

    assert varying_axes(texts(4, 7), [texts(3, 7)], nn.Identity()) == frozenset()
    assert varying_axes(texts(4, 7), [texts(4, 7), texts(2, 9)], nn.Identity()) == {(0, 1), (1, 1)}
    of_images = (torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8))
    others = [[torch.zeros(2, 3, 8, 12), torch.zeros(2, 8, 12)], (torch.zeros(2), torch.zeros(2))]
    assert varying_axes(of_images, others, nn.Identity()) == {(0, 3), (1, 2)}


def test_the_first_batches_are_as_many_as_are_kept() -> None:
    given = iter([(torch.zeros(4, 1), torch.zeros(4)) for _ in range(9)])
    settings = AnalysisSettings(calibration_samples=6, held_out_samples=5, batch_samples=4)
    assert len(first_batches(given, settings)) == 3
    assert len(list(given)) == 6


def test_leaves_are_known_by_their_names_and_without_samples_the_first_axis_varies_too() -> None:
    one = {"a": torch.zeros(4, 7), "b": torch.zeros(4, 3), "labels": torch.zeros(4)}
    other = {"b": torch.zeros(4, 3), "a": torch.zeros(4, 9), "labels": torch.zeros(4)}
    assert varying_axes(one, [other], nn.Identity()) == {(0, 1)}
    graph = ((torch.zeros(5, 2), torch.zeros(8, 3)), torch.zeros(2))
    larger = ((torch.zeros(6, 2), torch.zeros(9, 3)), torch.zeros(2))
    assert varying_axes(graph, [larger], nn.Module()) == {(0, 0), (1, 0)}


def test_a_loader_that_fills_one_buffer_again_and_again_is_read() -> None:
    buffer = torch.zeros(4, 1)

    def loader() -> Any:
        for number in range(3):
            yield buffer.fill_(number), torch.zeros(4)

    settings = AnalysisSettings(calibration_samples=6, held_out_samples=6, batch_samples=4)
    assert [float(x[0]) for x, _ in first_batches(loader(), settings)] == [0.0, 1.0, 2.0]
