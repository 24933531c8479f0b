"""Sums over input vectors, and how much they are trusted."""

from __future__ import annotations

import pytest
import torch

from esper.anatomy.mend.moments import RIDGES, Moments, best_ridge, factored


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


@pytest.mark.parametrize("is_centered", [False, True])
def test_few_vectors_tell_the_same_as_the_sums_of_their_products(is_centered: bool) -> None:
    torch.manual_seed(0)
    rows = torch.relu(torch.randn(40, 5) @ torch.randn(5, 90) + 0.3 * torch.randn(40, 90)).double()
    few = halves(rows)
    summed = tuple(Moments(part.count, part.total, None, part.products) for part in few)
    weight = torch.randn(7, 90)
    ridge = best_ridge(few, weight, is_centered=is_centered)
    assert ridge == best_ridge((summed[0], summed[1]), weight, is_centered=is_centered)
    kept, gone = torch.arange(20, 90), torch.arange(20)
    images = [
        both.image(kept, gone, ridge, is_centered=is_centered)
        for both in (few[0] + few[1], summed[0] + summed[1])
    ]
    assert (few[0] + few[1]).vectors is not None
    torch.testing.assert_close(images[0], images[1])
    assert float(images[0].abs().max()) > 0.01


def test_as_many_vectors_as_inputs_are_summed_and_few_are_held() -> None:
    rows = torch.randn(6, 4)
    parts = [Moments.of(rows[start : start + 2]) for start in (0, 2, 4)]
    assert [part.vectors is None for part in parts] == [False] * 3
    assert (parts[0] + parts[1]).vectors is None
    whole = parts[0] + parts[1] + parts[2]
    torch.testing.assert_close(whole.products, Moments.of(rows).products)


@pytest.mark.parametrize("count", [3, 30])
def test_nothing_is_told_from_zeros_or_from_nothing(count: int) -> None:
    rows = torch.zeros(count, 8)
    rows[:, 7] = 1.0
    none, zeros, gone = torch.arange(0), torch.arange(7), torch.tensor([7])
    for kept in (none, zeros):
        image = Moments.of(rows).image(kept, gone, 0.1, is_centered=False)
        assert image.shape == (len(kept), 1)
        assert not image.any()


@pytest.mark.parametrize("count", [3, 30])
def test_moments_of_what_is_no_number_say_so(count: int) -> None:
    rows = torch.ones(count, 8)
    assert Moments.of(rows).is_finite
    rows[1, 2] = torch.nan
    assert not Moments.of(rows).is_finite
    assert not (Moments.of(rows) + Moments.of(torch.ones(30, 8))).is_finite


def test_the_ridge_of_a_wide_layer_is_tried_on_some_of_its_inputs() -> None:
    torch.manual_seed(0)
    mixed = torch.randn(1500, 4) @ torch.randn(4, 700)
    assert best_ridge(halves(mixed), torch.ones(3, 700), is_centered=True) == RIDGES[0]


def test_sums_of_halves_are_taken_in_more_digits() -> None:
    torch.manual_seed(0)
    rows = torch.randn(3000, 40).bfloat16()
    exact = rows.double()
    moments = Moments.of(rows)
    assert torch.allclose(moments.products, exact.T @ exact, rtol=1e-4, atol=1e-2)
    assert torch.allclose(moments.mean, exact.mean(0), atol=1e-6)


def test_a_ridge_that_rounding_outweighs_grows_until_it_holds() -> None:
    torch.manual_seed(0)
    near = torch.randn(6, 6).double()
    singular = near @ near.T - 2.0 * torch.eye(6)  # as an unlucky rounding leaves it
    before = singular.clone()
    root = factored(singular, 1e-6)
    added = root @ root.T - before
    assert torch.allclose(added, torch.eye(6).double() * added[0, 0], atol=1e-9)
    assert added[0, 0] > -torch.linalg.eigvalsh(before)[0]
    with pytest.raises(RuntimeError, match="cholesky"):
        factored(torch.full((2, 2), float("nan")), 1.0)
