"""The tracker on real optimizers: what it measures, what must not poison it, and that training goes on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.anatomy.structure import Anatomy
from esper.errors import EvidenceError
from esper.importance import (
    ElementScores,
    ElementSettings,
    ImportanceSettings,
    ImportanceTracker,
    PhaseWeights,
    ScoreWeights,
    SketchedElements,
    TrainingPhase,
)
from tests.importance.networks import Two, residual, two

EVERY_STEP = ImportanceSettings(stride=1, min_importance_samples=1, min_sampled_steps=1)
MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


def loss(network: nn.Module, inputs: Tensor) -> Tensor:
    out: Tensor = network(inputs)
    return out.square().mean()


def backward(value: Tensor) -> None:
    torch.autograd.backward(value)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
    optimizer.zero_grad()
    backward(loss(network, inputs))
    optimizer.step()


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.01)


def tracker_of(
    network: nn.Module,
    anatomy: Anatomy,
    optimizer: torch.optim.Optimizer,
    settings: ImportanceSettings = EVERY_STEP,
) -> ImportanceTracker:
    return ImportanceTracker(anatomy, dict(network.named_parameters()), optimizer, settings)


def test_one_step_measures_activation_times_gradient() -> None:
    network, anatomy = two(width=4)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    inputs = torch.randn(16, 3)
    hidden = network.hidden(inputs)
    hidden.retain_grad()
    backward(network.down(hidden).square().mean())
    assert hidden.grad is not None
    expected = (hidden * hidden.grad).sum(0).abs().detach()
    optimizer.step()
    assert tracker.taylor().tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert tracker.absolute_taylor().tolist() == pytest.approx(expected.tolist(), rel=1e-4)


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


@pytest.mark.parametrize(
    "make",
    [
        lambda n: torch.optim.AdamW(n.parameters(), foreach=True),
        lambda n: torch.optim.AdamW(n.parameters(), fused=True),
        lambda n: torch.optim.AdamW(n.parameters(), foreach=False),
        lambda n: torch.optim.SGD(n.parameters(), lr=0.01, fused=True),
        lambda n: torch.optim.SGD([{"params": [p]} for p in n.parameters()], lr=0.01, momentum=0.9),
    ],
)
def test_every_kind_of_step_is_measured_alike(make: MakeOptimizer) -> None:
    network, anatomy = residual()
    reference, _ = residual()
    inputs = torch.randn(2, 1, 6, 6)
    optimizer, plain = make(network), sgd(reference)
    tracker, expected = tracker_of(network, anatomy, optimizer), tracker_of(reference, anatomy, plain)
    step(network, optimizer, inputs)
    step(reference, plain, inputs)
    assert tracker.failure is None
    assert tracker.taylor().tolist() == expected.taylor().tolist()


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


def test_accumulated_gradients_are_seen_whole_and_once() -> None:
    network, anatomy = two()
    whole, _ = two()
    optimizer, other = sgd(network), sgd(whole)
    tracker, expected = tracker_of(network, anatomy, optimizer), tracker_of(whole, anatomy, other)
    inputs = torch.randn(8, 3)
    for half in inputs.chunk(2):
        backward(loss(network, half) / 2)
    optimizer.step()
    step(whole, other, inputs)
    assert tracker.taylor().tolist() == pytest.approx(expected.taylor().tolist(), rel=1e-4)


def test_a_gradient_that_is_not_finite_counts_for_nothing() -> None:
    network, anatomy = two(width=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    tracker = tracker_of(network, anatomy, optimizer)
    step(network, optimizer, torch.ones(4, 3))
    before = tracker.taylor()
    for poison in (torch.inf, torch.nan):
        optimizer.zero_grad()
        backward(loss(network, torch.ones(4, 3)))
        assert network.down.weight.grad is not None
        network.down.weight.grad[0, 0] = poison
        optimizer.step()
    assert tracker.state()["samples"].tolist() == [1.0, 1.0, 1.0]
    assert tracker.taylor().tolist() == before.tolist()


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_grad_scaler_skips_is_not_counted(fused: bool) -> None:
    network, anatomy = two(width=3)
    plain, _ = two(width=3)
    optimizer, other = torch.optim.SGD(network.parameters(), lr=0.01, fused=fused), sgd(plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    tracker, expected = tracker_of(network, anatomy, optimizer), tracker_of(plain, anatomy, other)
    backward(scaler.scale(loss(network, torch.ones(4, 3))))
    scaler.step(optimizer)
    scaler.update()
    step(plain, other, torch.ones(4, 3))
    assert tracker.taylor().tolist() == pytest.approx(expected.taylor().tolist(), rel=1e-4)  # unscaled

    optimizer.zero_grad()
    backward(scaler.scale(loss(network, torch.ones(4, 3))))
    assert network.up.bias.grad is not None
    network.up.bias.grad[0] = torch.inf  # not even a consumer: the whole step is skipped
    before = network.down.weight.clone()
    scaler.step(optimizer)
    assert torch.equal(network.down.weight, before)
    assert tracker.state()["samples"].tolist() == [1.0, 1.0, 1.0]


def test_half_precision_parameters_are_measured() -> None:
    network, anatomy = two(width=3)
    network.to(torch.bfloat16)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    step(network, optimizer, torch.ones(4, 3, dtype=torch.bfloat16))
    assert (tracker.taylor() > 0).all()


def test_a_step_without_gradients_is_not_counted() -> None:
    network, anatomy = two(width=3)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    optimizer.step()
    assert np.isnan(tracker.taylor()).all()
    assert tracker.failure is None


def test_units_without_gradient_at_a_step_are_not_counted_at_that_step() -> None:
    network, anatomy = residual()
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    optimizer.zero_grad()
    backward(loss(network, torch.randn(2, 1, 6, 6)))
    network.conv2.weight.grad = None  # the inner group's only consumer
    optimizer.step()
    assert tracker.state()["samples"].tolist() == [1.0] * 4 + [0.0] * 3


@pytest.mark.parametrize("how", ["frozen", "left out"])
def test_a_unit_whose_consumer_is_not_trained_is_unmeasured(how: str) -> None:
    network, anatomy = residual()
    if how == "frozen":
        network.head.requires_grad_(False)
        optimizer = sgd(network)
    else:
        optimizer = torch.optim.SGD([p for n, p in network.named_parameters() if "head" not in n], lr=0.1)
    tracker = tracker_of(network, anatomy, optimizer)
    step(network, optimizer, torch.randn(2, 1, 6, 6))
    assert np.isnan(tracker.taylor()).tolist() == [True] * 4 + [False] * 3


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


def test_a_failure_switches_tracking_off_is_reported_once_and_training_goes_on() -> None:
    network, anatomy = two(width=3)
    optimizer = sgd(network)
    reports: list[str] = []
    tracker = ImportanceTracker(
        anatomy, dict(network.named_parameters()), optimizer, EVERY_STEP, report=reports.append
    )
    network.down.weight.data = torch.randn(2, 4)  # somebody changed the network and did not tell
    network.up.weight.data, network.up.bias.data = torch.randn(4, 3), torch.randn(4)
    before = network.up.weight.clone()
    for _ in range(3):
        step(network, optimizer, torch.randn(4, 3))
    assert not torch.equal(network.up.weight, before)
    assert len(reports) == 1
    assert "down.weight" in reports[0]
    assert "Training goes on" in reports[0]
    assert tracker.failure is not None
    tracker.attach()  # what failed stays off
    step(network, optimizer, torch.randn(4, 3))
    assert len(reports) == 1


def test_state_goes_through_a_checkpoint_unchanged() -> None:
    network, anatomy = two()
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    step(network, optimizer, torch.randn(4, 3))
    saved = tracker.state()
    other = tracker_of(network, anatomy, sgd(network))
    other.load_state(saved)
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
        tracker.load_state(tracker_of(smaller, small_anatomy, sgd(smaller)).state())
    with pytest.raises(EvidenceError, match="missing"):
        tracker.load_state({"square": torch.zeros(5)})
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
    tracker.load_state(state)
    after = tracker.taylor()
    assert np.isnan(after).tolist() == [False, True, False]
    assert after[[0, 2]].tolist() == before[[0, 2]].tolist()


def narrowed(network: Two, keep: list[int]) -> None:
    network.up.weight.data = network.up.weight.data[keep]
    network.up.bias.data = network.up.bias.data[keep]
    network.down.weight.data = network.down.weight.data[:, keep]
    for parameter in network.parameters():
        parameter.grad = None


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


def test_one_step_measures_the_squares_over_the_producers() -> None:
    network, anatomy = two(width=4)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    optimizer.zero_grad()
    backward(loss(network, torch.randn(16, 3)))
    assert network.up.weight.grad is not None
    assert network.up.bias.grad is not None
    expected = (network.up.weight * network.up.weight.grad).square().sum(1)
    expected += (network.up.bias * network.up.bias.grad).square()
    expected = expected.detach()
    optimizer.step()
    assert tracker.fisher().tolist() == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize("frozen", ["up", "down"])
def test_each_signal_needs_only_the_parameters_that_it_reads(frozen: str) -> None:
    network, anatomy = two(width=3)
    getattr(network, frozen).requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    tracker = tracker_of(network, anatomy, optimizer)
    step(network, optimizer, torch.randn(4, 3))
    assert np.isfinite(tracker.taylor()).all() == (frozen == "up")
    assert np.isfinite(tracker.fisher()).all() == (frozen == "down")


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
    late = ScoreWeights(taylor=1.0, magnitude=0.0, activation_frequency=0.0, history=0.5)
    settings = EVERY_STEP.model_copy(update={"weights": PhaseWeights(late=late), "twin_samples": 7})
    tracker = tracker_of(network, anatomy, optimizer, settings)
    step(network, optimizer, torch.randn(4, 3))
    tracker.end_epoch(1)
    told = tracker.evidence(TrainingPhase.LATE)
    assert told.fisher.tolist() == tracker.fisher().tolist()
    assert told.history.tolist() == tracker.history.expected().tolist()
    assert told.weights == {"taylor": 1.0, "magnitude": 0.0, "activation_frequency": 0.0, "history": 0.5}
    assert told.twin_samples == 7
    assert tracker.evidence(TrainingPhase.EARLY).weights == ScoreWeights().model_dump()


@pytest.mark.parametrize("form", ["off", "log8", "bfloat16", "sketch"])
def test_a_resumed_run_measures_what_the_whole_run_measures_bit_for_bit(form: str) -> None:
    elements = ElementSettings.model_validate({"form": form, "window_steps": 2, "sketch_width": 50})
    settings = ImportanceSettings(stride=3, min_importance_samples=1, min_sampled_steps=1, elements=elements)

    def run(epochs: int, saved: tuple[dict[str, Tensor], dict[str, Tensor]] | None) -> ImportanceTracker:
        network, anatomy = two(width=4)
        optimizer = sgd(network)
        tracker = tracker_of(network, anatomy, optimizer, settings)
        if saved is not None:
            network.load_state_dict(saved[0])
            tracker.load_state(saved[1])
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
    settings = EVERY_STEP.model_copy(update={"elements": ElementSettings(form="log8", window_steps=1)})
    tracker = tracker_of(network, anatomy, sgd(network), settings)
    other = tracker_of(network, anatomy, optimizer := sgd(network), settings)
    step(network, optimizer, torch.ones(4, 3))
    other.end_epoch(1)
    with pytest.raises(EvidenceError):
        tracker.load_state({name: t for name, t in other.state().items() if name != missing})
    assert np.isnan(tracker.taylor()).all()
    assert tracker.history.num_epochs == 0


@pytest.mark.parametrize(("form", "kind"), [("log8", ElementScores), ("sketch", SketchedElements)])
def test_elements_are_scored_where_that_is_asked_for(form: str, kind: type) -> None:
    network, anatomy = two(width=3)
    optimizer = sgd(network)
    elements = ElementSettings.model_validate({"form": form, "window_steps": 1})
    tracker = tracker_of(network, anatomy, optimizer, EVERY_STEP.model_copy(update={"elements": elements}))
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
    elements = ElementSettings(form="bfloat16", window_steps=1)
    tracker = tracker_of(network, anatomy, optimizer, EVERY_STEP.model_copy(update={"elements": elements}))
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
    elements = ElementSettings(form="bfloat16", window_steps=1)
    tracker = tracker_of(network, anatomy, optimizer, EVERY_STEP.model_copy(update={"elements": elements}))
    step(network, optimizer, torch.ones(4, 3))
    assert tracker.elements is not None
    before = tracker.elements.of("down.weight").tolist()
    optimizer.zero_grad()
    backward(loss(network, torch.ones(4, 3)))
    assert network.down.weight.grad is not None
    network.down.weight.grad[0, 0] = torch.nan
    optimizer.step()
    assert tracker.elements.of("down.weight").tolist() == before
