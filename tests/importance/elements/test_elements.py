"""Element scores: exact means over a window, rounded once, in one or two bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper.errors import EvidenceError
from esper.importance.elements.element_sketch import SketchedElements
from esper.importance.elements.elements import ElementScores, Form, from_log_codes, log_codes
from esper.importance.elements.sketch_size import SketchSize
from esper.importance.quality import ImportanceTrackingValidator

ONE = torch.ones(())
Sized = Mapping[str, Tensor]


def products(values: Sized) -> Callable[[str, int, int], Tensor | None]:
    return lambda name, first, last: values[name][first:last] if name in values else None


def sizes(values: Sized) -> dict[str, int]:
    return {name: tensor.numel() for name, tensor in values.items()}


def lognormal(count: int, seed: int, sigma: float = 1.0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).mul(sigma).exp()


def test_a_window_gives_the_root_mean_square() -> None:
    scores = ElementScores({"a": 3, "b": 2}, "bfloat16", window=2)
    assert scores.of("a").isnan().all()
    scores.sample(products({"a": torch.tensor([3.0, 0.0, 1.0]), "b": torch.tensor([1.0, 2.0])}), ONE)
    assert scores.of("a").isnan().all()
    scores.sample(products({"a": torch.tensor([-4.0, 0.0, 1.0])}), ONE)
    assert scores.of("a").tolist() == pytest.approx([12.5**0.5, 0.0, 1.0], rel=2**-8)
    assert scores.of("b").tolist() == pytest.approx([1.0, 2.0])  # over the one step in which it took part


@pytest.mark.parametrize("form", ["bfloat16", "log8"])
@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_accumulated_scores_rank_a_million_elements_like_the_exact_ones(form: Form, sigma: float) -> None:
    """The aim: tau 0.98, 3 % error, AUC 0.99 in about one or two bytes for each element."""
    values = {"w": lognormal(1_000_000, 0, sigma)}
    scores = ElementScores(sizes(values), form, window=2)
    noise = [lognormal(1_000_000, seed, 0.5) for seed in (1, 2)]
    for _ in range(scores.num_turns):
        for part in noise:
            scores.sample(products({"w": values["w"] * part}), ONE)
    exact = (values["w"] * ((noise[0].square() + noise[1].square()) / 2).sqrt()).double().numpy()
    found = scores.of("w").double().numpy()
    chosen = np.random.default_rng(0).choice(exact.size, 20_000, replace=False)
    quality = ImportanceTrackingValidator(prune_fraction=0.03, large_fraction=1.0).validate(
        found[chosen], exact[chosen]
    )
    assert quality.units == 20_000
    assert quality.kendall_tau >= 0.98
    assert quality.auc >= 0.99
    assert quality.mape <= 0.03
    per_element = {"log8": 1, "bfloat16": 2}[form]
    assert scores.memory_bytes <= per_element * 1_000_000 + 4 * 4 * 65_536 + 1_000


def test_large_networks_take_little_beside_the_codes() -> None:
    assert ElementScores({"w": 100_000_000}, "log8").memory_bytes < 1.07e8
    assert ElementScores({"w": 100_000_000}, "bfloat16").memory_bytes < 2.07e8


@given(st.lists(st.floats(0, 2.0**50, width=32, allow_subnormal=False), min_size=1, max_size=50))
def test_a_code_is_off_by_at_most_half_a_step_and_zero_is_exact(values: list[float]) -> None:
    given_values = torch.tensor(values)
    codes, span = log_codes(given_values)
    found = from_log_codes(codes, span)
    half = 2 ** (float(span[1] - span[0]) / 508) * (1 + 1e-4)
    for true, code in zip(values, found.tolist(), strict=True):
        assert (code == 0) == (true == 0)
        if true:
            assert 1 / half <= code / true <= half


@given(st.lists(st.floats(2.0**-60, 2.0**50, width=32), min_size=2, max_size=50))
def test_codes_keep_the_order(values: list[float]) -> None:
    ordered = torch.tensor(values).sort().values
    codes, _ = log_codes(ordered)
    assert (codes.int().diff() >= 0).all()


def test_a_step_that_does_not_count_leaves_no_trace() -> None:
    scores = ElementScores({"a": 2}, "bfloat16", window=2)
    scores.sample(products({"a": torch.tensor([1.0, 2.0])}), ONE)
    scores.sample(products({"a": torch.tensor([torch.inf, torch.nan])}), torch.zeros(()))
    assert scores.of("a").tolist() == [1.0, 2.0]


def test_a_window_without_steps_or_with_overflow_keeps_what_was_known() -> None:
    scores = ElementScores({"a": 2}, "log8", window=1)
    scores.sample(products({"a": torch.tensor([1.0, 2.0])}), ONE)
    before = scores.of("a").tolist()
    scores.sample(products({}), ONE)
    scores.sample(products({"a": torch.tensor([1.0, 2.0])}), torch.zeros(()))
    scores.sample(products({"a": torch.tensor([1e30, 2.0])}), ONE)
    assert scores.of("a").tolist() == before == pytest.approx([1.0, 2.0], rel=1e-3)


@pytest.mark.parametrize("form", ["bfloat16", "log8"])
def test_state_in_the_middle_of_a_window_goes_on_bit_for_bit(form: Form) -> None:
    values = [{"a": lognormal(70_000, seed), "b": lognormal(300_000, seed + 9)} for seed in range(9)]
    whole, first = (ElementScores(sizes(values[0]), form, window=2) for _ in range(2))
    assert whole.num_turns == 2
    for each in values:
        whole.sample(products(each), ONE)
    for each in values[:5]:
        first.sample(products(each), ONE)
    second = ElementScores(sizes(values[0]), form, window=2)
    second.load_state(first.state())
    for each in values[5:]:
        second.sample(products(each), ONE)
    for name in ("a", "b"):
        assert torch.equal(second.of(name), whole.of(name))
        assert whole.of(name).isfinite().all()


def test_after_a_cut_survivors_keep_their_scores() -> None:
    scores = ElementScores({"w": 6, "gone": 2, "other": 1}, "bfloat16", window=1)
    every = {"w": torch.arange(6.0), "gone": torch.ones(2), "other": torch.ones(1)}
    scores.sample(products(every), ONE)

    def chosen(name: str, values: Tensor) -> Tensor | None:
        return values.reshape(2, 3)[:, [0, 2]].flatten() if name == "w" else None

    left = scores.select({"w": 4, "other": 1, "new": 3}, chosen)
    assert left.of("w").tolist() == [0.0, 2.0, 3.0, 5.0]
    assert left.of("other").isnan().all()
    assert left.of("new").isnan().all()


def test_the_state_of_other_parameters_is_refused_and_nothing_is_taken() -> None:
    scores = ElementScores({"a": 2}, "bfloat16", window=1)
    scores.sample(products({"a": torch.tensor([1.0, 2.0])}), ONE)
    for other in (ElementScores({"a": 3}, "bfloat16"), ElementScores({"a": 2}, "log8")):
        with pytest.raises(EvidenceError, match="codes"):
            scores.load_state(other.state())
    assert scores.of("a").tolist() == [1.0, 2.0]
    with pytest.raises(EvidenceError, match="No elements of 'b'"):
        scores.of("b")


def test_sketched_elements_never_under_estimate_and_find_the_heavy_ones() -> None:
    values = {"w": lognormal(20_000, 0, 3.0)}
    sketched = SketchedElements(sizes(values), SketchSize(2_000, 4))
    for _ in range(3):
        sketched.sample(products(values), ONE)
    sketched.sample(products({"w": torch.full((20_000,), torch.nan)}), torch.zeros(()))
    found = sketched.of("w")
    assert (found >= values["w"] * (1 - 1e-6)).all()
    heavy = values["w"].topk(10).indices
    assert set(found.topk(10).indices.tolist()) == set(heavy.tolist())
    assert sketched.memory_bytes == 2_000 * 4 * 8
    assert not sketched.stats().is_exact


def test_a_sketch_goes_through_its_state_and_starts_anew_after_a_cut() -> None:
    values = {"w": lognormal(500, 0)}
    sketched, again = (SketchedElements(sizes(values), SketchSize(40, 3)) for _ in range(2))
    sketched.sample(products(values), ONE)
    again.load_state(sketched.state())
    for each in (sketched, again):
        each.sample(products(values), ONE)
    assert torch.equal(again.of("w"), sketched.of("w"))
    assert sketched.select({"w": 100}, lambda name, old: old[:100]).of("w").isnan().all()
    with pytest.raises(EvidenceError, match="cannot go on as one of 41 x 3"):
        SketchedElements({"w": 500}, SketchSize(41, 3)).load_state(sketched.state())
    with pytest.raises(EvidenceError, match="No elements"):
        sketched.of("v")
