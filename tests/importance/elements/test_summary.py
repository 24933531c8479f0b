"""What is read of the scores of single elements, held against the values themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from esper.errors import EvidenceError
from esper.importance.elements import ELEMENTS, stored_elements, summaries
from esper.importance.elements.element_sketch import SketchedElements
from esper.importance.elements.elements import ElementScores, Form
from esper.importance.elements.sketch_size import SketchSize

VALUES = {"a": torch.rand(70_000, generator=torch.Generator().manual_seed(0)).exp2() ** 9, "b": torch.ones(4)}
SIZES = {name: values.numel() for name, values in VALUES.items()}


def products(name: str, first: int, last: int) -> Tensor:
    return VALUES[name][first:last]


def state_of(store: ElementScores | SketchedElements) -> dict[str, Tensor]:
    """The state of a tracker that keeps this store, after one step."""
    store.sample(products, torch.ones(()))
    return {"samples": torch.zeros(1), **{ELEMENTS + name: t for name, t in store.state().items()}}


@pytest.mark.parametrize("form", ["exact", "bfloat16", "log8"])
def test_scores_of_a_checkpoint_are_within_the_bound_that_stands_beside_them(form: Form) -> None:
    stored = stored_elements(state_of(ElementScores(SIZES, form, window=1)))
    assert stored is not None
    for name, values in VALUES.items():
        bound = stored.error(name)
        off = ((stored.of(name) - values).abs() / values).max()
        assert off <= bound.relative + 1e-6
        assert (bound.relative == 0.0) == (form == "exact" or (form == "log8" and name == "b"))
        assert bound.relative < 0.05


def test_a_sketch_is_above_the_truth_by_no_more_than_it_says() -> None:
    stored = stored_elements(state_of(SketchedElements(SIZES, SketchSize(20_000, 7))))
    assert stored is not None
    bound = stored.error("a")
    above = stored.of("a") - VALUES["a"]
    assert above.min() > -1e-3
    assert (above <= bound.absolute).double().mean() >= bound.confidence
    assert 0.9 < bound.confidence < 1.0


def test_a_tensor_is_told_by_its_extremes_and_the_share_of_small_elements() -> None:
    values = torch.tensor([0.0, 5.0, 1.0, 100.0, 0.01, 2.0])
    store = ElementScores({"w": 6, "unseen": 2}, "exact", window=1)
    seen = {"w": values}
    store.sample(lambda name, first, last: seen[name][first:last] if name in seen else None, torch.ones(()))
    one, other = summaries(store, {"w": (2, 3), "unseen": (2,)})
    assert [index for index, _ in one.least[:2]] == [(0, 0), (1, 1)]
    assert [score for _, score in one.least[:2]] == pytest.approx([0.0, 0.01])
    assert one.most[:2] == (((1, 0), 100.0), ((0, 1), 5.0))
    scale = float(values.square().mean().sqrt())
    assert one.below == {part: float((values < part * scale).double().mean()) for part in (0.001, 0.01, 0.1)}
    assert (one.measured, one.median) == (6, 1.0)
    assert (other.size, other.measured, other.least) == (2, 0, ())


def test_a_state_without_elements_has_none_and_one_that_does_not_name_them_is_refused() -> None:
    assert stored_elements({"samples": torch.zeros(1)}) is None
    state = state_of(ElementScores(SIZES, "log8", window=1))
    del state[ELEMENTS + "sizes"]
    with pytest.raises(EvidenceError, match="not whose they are"):
        stored_elements(state)
