"""The tracker beside training: what it remembers, saves and carries over cuts, and that training goes on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from esper.errors import EvidenceError
from esper.importance.phases import TrainingPhase
from esper.importance.settings import ElementSettings, ImportanceSettings, PhaseWeights, ScoreWeights
from esper.importance.tracker.tracker import ImportanceTracker
from esper.nissa import ListSink, events
from tests.importance.networks import residual, two
from tests.importance.steps import EVERY_STEP, backward, loss, narrowed, sgd, step, tracker_of


def test_running_means_are_corrected_for_their_start() -> None:
    network, anatomy = two(width=2)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    sums = []
    for _ in range(4):
        optimizer.zero_grad()
        backward(loss(network, torch.randn(8, 3)))
        assert network.down.weight.grad is not None
        sums.append((network.down.weight * network.down.weight.grad).sum(0).detach().double())
        optimizer.step()
    weights = 0.99 ** torch.arange(3, -1, -1, dtype=torch.float64)
    means = (weights[:, None] * torch.stack(sums).square()).sum(0) / weights.sum()
    assert tracker.taylor().tolist() == pytest.approx(means.sqrt().tolist(), rel=1e-4)


def test_tracking_does_not_change_training_by_one_bit() -> None:
    tracked, anatomy = residual()
    plain, _ = residual()
    first, second = torch.optim.AdamW(tracked.parameters()), torch.optim.AdamW(plain.parameters())
    tracker_of(tracked, anatomy, first)
    for seed in range(5):
        inputs = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
        step(tracked, first, inputs)
        step(plain, second, inputs)
    assert all(torch.equal(a, b) for a, b in zip(tracked.parameters(), plain.parameters(), strict=True))


@pytest.fixture
def double() -> Iterator[None]:
    """What a script makes its default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("form", ["exact", "log8", "bfloat16"])
def test_scripts_that_compute_in_double_by_default_are_tracked_alike(
    form: str,
) -> None:
    network, anatomy = two(width=3)
    optimizer = sgd(network)
    elements = ElementSettings.model_validate({"form": form, "window_steps": 2})
    settings = EVERY_STEP.model_copy(update={"backend": "element", "elements": elements})
    tracker = tracker_of(network, anatomy, optimizer, settings)
    for _ in range(3):
        step(network, optimizer, torch.randn(4, 3))
    assert tracker.failure is None
    assert np.isfinite(tracker.taylor()).all()


def test_too_few_samples_are_no_measurement() -> None:
    network, anatomy = two(width=2)
    optimizer = sgd(network)
    settings = ImportanceSettings(stride=2, min_importance_samples=6, min_sampled_steps=2)
    tracker = tracker_of(network, anatomy, optimizer, settings)
    for _ in range(5):
        step(network, optimizer, torch.ones(4, 3))
    assert tracker.state()["steps"].tolist() == [4.0, 4.0]
    assert np.isnan(tracker.taylor()).all()
    step(network, optimizer, torch.ones(4, 3))
    assert np.isfinite(tracker.taylor()).all()


def test_a_long_stride_does_not_make_one_sample_a_measurement() -> None:
    network, anatomy = two(width=2)
    optimizer = sgd(network)
    settings = ImportanceSettings(stride=2, min_importance_samples=1, min_sampled_steps=2)
    tracker = tracker_of(network, anatomy, optimizer, settings)
    step(network, optimizer, torch.ones(4, 3))
    step(network, optimizer, torch.ones(4, 3))
    assert np.isnan(tracker.taylor()).all()


def test_after_detach_nothing_is_measured_and_attach_goes_on() -> None:
    network, anatomy = two(width=2)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    tracker.attach()  # twice is once
    step(network, optimizer, torch.ones(4, 3))
    tracker.detach()
    tracker.detach()
    step(network, optimizer, torch.ones(4, 3))
    assert tracker.state()["samples"].tolist() == [1.0, 1.0]
    tracker.attach()
    step(network, optimizer, torch.ones(4, 3))
    assert tracker.state()["samples"].tolist() == [2.0, 2.0]


def test_a_failure_switches_tracking_off_is_told_once_and_training_goes_on() -> None:
    network, anatomy = two(width=3)
    optimizer = sgd(network)
    heard = ListSink()
    tracker = ImportanceTracker(anatomy, dict(network.named_parameters()), optimizer, EVERY_STEP, sink=heard)
    network.down.weight.data = torch.randn(2, 4)  # somebody changed the network and did not tell
    network.up.weight.data, network.up.bias.data = torch.randn(4, 3), torch.randn(4)
    before = network.up.weight.clone()
    for _ in range(3):
        step(network, optimizer, torch.randn(4, 3))
    assert not torch.equal(network.up.weight, before)
    (event,) = heard.events
    assert isinstance(event, events.TrackingFailed)
    assert "down.weight" in event.error
    assert "Training goes on" in event.text
    assert tracker.failure is not None
    tracker.attach()  # what failed stays off
    step(network, optimizer, torch.randn(4, 3))
    assert heard.events == [event]


def test_state_goes_through_a_checkpoint_unchanged() -> None:
    network, anatomy = two()
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    step(network, optimizer, torch.randn(4, 3))
    saved = tracker.state()
    other = tracker_of(network, anatomy, sgd(network))
    other.load(saved)
    assert other.taylor().tolist() == tracker.taylor().tolist()
    step(network, optimizer, torch.randn(4, 3))
    assert other.taylor().tolist() != tracker.taylor().tolist()  # a copy, not a view


def test_the_state_of_another_network_is_refused_and_nothing_is_taken() -> None:
    network, anatomy = two(width=5)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    step(network, optimizer, torch.randn(4, 3))
    before = tracker.taylor()
    smaller, small_anatomy = two(width=4)
    with pytest.raises(EvidenceError, match="5 units"):
        tracker.load(tracker_of(smaller, small_anatomy, sgd(smaller)).state())
    with pytest.raises(EvidenceError, match="'missing'"):
        tracker.load({"square": torch.zeros(5), "sampling": torch.tensor([0, 1])})
    assert tracker.taylor().tolist() == before.tolist()


@pytest.mark.parametrize("damage", [torch.nan, torch.inf, -1.0])
def test_a_damaged_unit_is_unmeasured_and_the_others_stay(damage: float) -> None:
    network, anatomy = two(width=3)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    step(network, optimizer, torch.randn(4, 3))
    before = tracker.taylor()
    state = tracker.state()
    state["samples"][1] = damage
    tracker.load(state)
    after = tracker.taylor()
    assert np.isnan(after).tolist() == [False, True, False]
    assert after[[0, 2]].tolist() == before[[0, 2]].tolist()


def test_after_a_cut_survivors_keep_their_statistics() -> None:
    network, anatomy = two(width=5)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    step(network, optimizer, torch.randn(4, 3))
    before = tracker.taylor()
    narrowed(network, [0, 2, 3])
    _, smaller = two(width=3)
    tracker.rebind(smaller, dict(network.named_parameters()), np.array([0, -1, 1, 2, -1]))
    assert tracker.taylor().tolist() == before[[0, 2, 3]].tolist()
    step(network, optimizer, torch.randn(4, 3))
    assert tracker.failure is None
    assert tracker.state()["samples"].tolist() == [2.0, 2.0, 2.0]


def test_a_map_that_does_not_fit_is_refused_and_the_tracker_stays() -> None:
    network, anatomy = two(width=5)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    _, smaller = two(width=3)
    with pytest.raises(EvidenceError, match="5 units"):
        tracker.rebind(smaller, dict(network.named_parameters()), np.array([0, -1, 1]))
    step(network, optimizer, torch.randn(4, 3))
    assert tracker.failure is None


def test_the_tracker_reports_its_own_share() -> None:
    network, anatomy = two()
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    for _ in range(3):
        step(network, optimizer, torch.randn(4, 3))
    assert 0 < tracker.overhead_share < 1
    assert tracker.stride == 1


def test_what_is_switched_off_measures_nothing_until_it_is_attached() -> None:
    network, anatomy = two(width=2)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer, EVERY_STEP.model_copy(update={"is_enabled": False}))
    step(network, optimizer, torch.ones(4, 3))
    assert np.isnan(tracker.taylor()).all()


def test_epochs_are_remembered_without_what_is_masked() -> None:
    network, anatomy = two(width=3)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    tracker.end_epoch(1)
    step(network, optimizer, torch.randn(4, 3))
    tracker.end_epoch(2, np.array([True, False, True]))
    assert tracker.history.num_epochs == 2
    assert np.isnan(tracker.history.average()).tolist() == [False, True, False]
    assert tracker.history.trend().num_epochs.tolist() == [1, 0, 1]


def test_an_analysis_gets_what_is_known_with_the_weights_of_the_phase() -> None:
    network, anatomy = two(width=3)
    optimizer = sgd(network)
    late = ScoreWeights(taylor=1.0, twin=0.0, magnitude=0.0, activation_frequency=0.0, history=0.5)
    settings = EVERY_STEP.model_copy(update={"weights": PhaseWeights(late=late), "twin_samples": 7})
    tracker = tracker_of(network, anatomy, optimizer, settings)
    step(network, optimizer, torch.randn(4, 3))
    tracker.end_epoch(1)
    told = tracker.evidence(TrainingPhase.LATE)
    assert told.fisher.tolist() == tracker.fisher().tolist()
    assert told.history.tolist() == tracker.history.expected().tolist()
    assert told.weights == {
        "taylor": 1.0,
        "twin": 0.0,
        "magnitude": 0.0,
        "activation_frequency": 0.0,
        "history": 0.5,
    }
    assert told.twin_samples == 7
    assert tracker.evidence(TrainingPhase.EARLY).weights == ScoreWeights().model_dump()


@pytest.mark.parametrize("form", ["off", "exact", "log8", "bfloat16", "sketch"])
def test_a_resumed_run_measures_what_the_whole_run_measures_bit_for_bit(form: str) -> None:
    elements: dict[str, object] = {"window_steps": 2, "sketch_width": 50}
    backend = {"off": "unit", "sketch": "sketch"}.get(form, "element")
    if backend == "element":
        elements["form"] = form
    settings = ImportanceSettings.model_validate(
        {
            "stride": 3,
            "min_importance_samples": 1,
            "min_sampled_steps": 1,
            "backend": backend,
            "elements": elements,
        }
    )

    def run(epochs: int, saved: tuple[dict[str, Tensor], dict[str, Tensor]] | None) -> ImportanceTracker:
        network, anatomy = two(width=4)
        optimizer = sgd(network)
        tracker = tracker_of(network, anatomy, optimizer, settings)
        if saved is not None:
            network.load_state_dict(saved[0])
            tracker.load(saved[1])
        first = 1 if saved is None else 3
        for epoch in range(first, epochs + 1):
            for seed in range(4):  # sampling goes on in the middle of a stride
                generator = torch.Generator().manual_seed(10 * epoch + seed)
                step(network, optimizer, torch.randn(4, 3, generator=generator))
            tracker.end_epoch(epoch)
        weights[epochs] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        return tracker

    weights: dict[int, dict[str, Tensor]] = {}
    half = run(2, None)
    state = {name: tensor.clone() for name, tensor in half.state().items()}
    whole, resumed = run(5, None), run(5, (weights[2], state))
    assert whole.state().keys() == resumed.state().keys()
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, resumed.state()[name]), name
    assert np.isfinite(whole.fisher()).all()


@pytest.mark.parametrize("missing", ["history.ranks", "elements.codes", "sampling", "elementwise"])
def test_a_state_that_lacks_a_part_is_refused_whole(missing: str) -> None:
    network, anatomy = two(width=3)
    settings = EVERY_STEP.model_copy(
        update={"backend": "element", "elements": ElementSettings(window_steps=1)}
    )
    tracker = tracker_of(network, anatomy, sgd(network), settings)
    other = tracker_of(network, anatomy, optimizer := sgd(network), settings)
    step(network, optimizer, torch.ones(4, 3))
    other.end_epoch(1)
    with pytest.raises(EvidenceError):
        tracker.load({name: t for name, t in other.state().items() if name != missing})
    assert np.isnan(tracker.taylor()).all()
    assert tracker.history.num_epochs == 0
