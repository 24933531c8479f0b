"""Scores of single elements beside those of units: in training, through a cut, and after a skipped step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from esper.importance.elements.element_sketch import SketchedElements
from esper.importance.elements.elements import ElementScores
from esper.importance.settings import ElementSettings, ImportanceSettings
from tests.importance.networks import two
from tests.importance.steps import EVERY_STEP, backward, loss, narrowed, sgd, step, tracker_of


def keeping(form: str) -> ImportanceSettings:
    """Settings that keep the scores of single elements, measured at every step."""
    backend = {"off": "unit", "sketch": "sketch"}.get(form, "element")
    elements = {"window_steps": 1} | ({"form": form} if backend == "element" else {})
    update = {"backend": backend, "elements": ElementSettings.model_validate(elements)}
    return EVERY_STEP.model_copy(update=update)


@pytest.mark.parametrize(
    ("form", "kind"), [("exact", ElementScores), ("log8", ElementScores), ("sketch", SketchedElements)]
)
def test_elements_are_scored_where_that_is_asked_for(form: str, kind: type) -> None:
    network, anatomy = two(width=3)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer, keeping(form))
    optimizer.zero_grad()
    backward(loss(network, torch.randn(4, 3)))
    assert network.up.weight.grad is not None
    expected = (network.up.weight * network.up.weight.grad).abs().flatten().detach()
    optimizer.step()
    assert tracker.elements is not None
    assert isinstance(tracker.elements, kind)
    assert tracker.elements.of("up.weight").tolist() == pytest.approx(expected.tolist(), rel=0.05)
    assert tracker.memory_bytes > tracker.elements.memory_bytes > 0


def test_elements_follow_a_cut_along_every_axis() -> None:
    network, anatomy = two(width=5)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer, keeping("bfloat16"))
    step(network, optimizer, torch.randn(4, 3))
    assert tracker.elements is not None
    up, down = (
        tracker.elements.of("up.weight").reshape(5, 3),
        tracker.elements.of("down.weight").reshape(2, 5),
    )
    narrowed(network, [0, 2, 3])
    _, smaller = two(width=3)
    tracker.rebind(smaller, dict(network.named_parameters()), np.array([0, -1, 1, 2, -1]))
    assert tracker.elements.of("up.weight").tolist() == up[[0, 2, 3]].flatten().tolist()
    assert tracker.elements.of("down.weight").tolist() == down[:, [0, 2, 3]].flatten().tolist()
    step(network, optimizer, torch.randn(4, 3))
    assert tracker.failure is None


def test_a_skipped_step_leaves_no_trace_in_elements() -> None:
    network, anatomy = two(width=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    tracker = tracker_of(network, anatomy, optimizer, keeping("bfloat16"))
    step(network, optimizer, torch.ones(4, 3))
    assert tracker.elements is not None
    before = tracker.elements.of("down.weight").tolist()
    optimizer.zero_grad()
    backward(loss(network, torch.ones(4, 3)))
    assert network.down.weight.grad is not None
    network.down.weight.grad[0, 0] = torch.nan
    optimizer.step()
    assert tracker.elements.of("down.weight").tolist() == before
