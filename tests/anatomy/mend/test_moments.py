"""Sums over input vectors, and how much they are trusted."""

from __future__ import annotations

import torch

from esper.anatomy.mend.moments import RIDGES, Moments, best_ridge


def halves(rows: torch.Tensor) -> tuple[Moments, Moments]:
    middle = len(rows) // 2
    return Moments.of(rows[:middle]), Moments.of(rows[middle:])


def test_parts_add_up_to_the_moments_of_all() -> None:
    torch.manual_seed(0)
    rows = torch.randn(100, 5) + 2.0
    first, second = halves(rows)
    both = first + second
    assert both.count == 100
    assert torch.allclose(both.mean, rows.mean(0).double(), atol=1e-6)
    assert torch.allclose(both.spread(both.mean), torch.cov(rows.T.double(), correction=0), atol=1e-5)
    assert torch.allclose(both.spread(None), (rows.T @ rows / 100).double(), atol=1e-5)


def test_inputs_that_follow_from_each_other_need_little_and_noise_in_few_vectors_needs_much() -> None:
    torch.manual_seed(0)
    mixed = torch.randn(4000, 4) @ torch.randn(4, 12)
    assert best_ridge(halves(mixed), torch.ones(3, 12), is_centered=True) == RIDGES[0]
    noise = torch.randn(60, 40)
    assert best_ridge(halves(noise), torch.ones(3, 40), is_centered=False) >= 1.0


def test_inputs_that_are_all_zero_get_a_ridge_too() -> None:
    assert best_ridge(halves(torch.zeros(8, 3)), torch.ones(2, 3), is_centered=True) in RIDGES


def test_a_half_without_vectors_leaves_the_number_of_inputs_per_vector() -> None:
    rows = torch.randn(10, 5)
    assert best_ridge((Moments.of(rows[:0]), Moments.of(rows)), torch.ones(2, 5), is_centered=False) > 0.5
