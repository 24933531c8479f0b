"""A network that holds nan: named, not pruned, and taken back to before the mask that is on trial."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from esper.nissa import ListSink, given_events, metric_events
from esper.session.saving import LAST_FINITE
from esper.session.soundness import rebuilt
from tests.session.runs import EPOCHS, Training, small_network


def break_(training: Training, value: float) -> None:
    with torch.no_grad():
        training.model.get_parameter("0.weight")[0, 0] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_named_once_and_nothing_is_pruned_whatever_the_metric_says(
    tmp_path: Path, value: float
) -> None:
    training = Training(tmp_path)
    heard = ListSink()
    training.session.log.telling.sinks.append(heard)
    training.epoch(lambda _: 0.5)
    last = training.session.step
    for _ in range(EPOCHS - 1):
        training.train_epoch()
        break_(training, value)
        training.session.end_epoch(accuracy=0.5)
    assert training.marks() == []
    assert [event for event in heard.events if isinstance(event, metric_events.WeightsNotFinite)] == [
        metric_events.WeightsNotFinite("0.weight")
    ]
    pins = training.session.parts.saving.store.pins()
    assert [step for step, labels in pins.items() if LAST_FINITE in labels] == [last]
    assert "because 0.weight holds nan or infinite values" in training.session.finish(latency=False).why


@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_loop_that_loads_the_mean_of_clients_is_told_how_an_optimizer_makes_the_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_loaded: bool
) -> None:
    training = Training(tmp_path)
    if is_loaded:
        mean = {name: value + 1 for name, value in training.model.state_dict().items()}
        training.model.load_state_dict(mean)
    training.session.end_epoch(accuracy=0.5)
    said = [record.message for record in caplog.records if "was not called since" in record.message]
    assert len(said) == 1
    assert ("mean of federated clients" in said[0]) is is_loaded
    training.session.detach()


def test_a_resumed_run_analyzes_no_network_that_is_broken(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.epoch(lambda _: 0.5)
    training.train_epoch()
    break_(training, float("nan"))
    training.session.end_epoch(accuracy=0.5)
    training.session.detach()
    again = Training(tmp_path)
    assert again.session.parts.network.not_numbers() == "0.weight"
    assert not again.session.parts.runner.is_running
    again.session.detach()


def test_what_was_kept_goes_when_the_network_is_whole_again(tmp_path: Path) -> None:
    training = Training(tmp_path, pruning={"target": None})
    training.epoch(lambda _: 0.5)
    last = training.session.step
    training.train_epoch()
    break_(training, float("nan"))
    training.session.end_epoch(accuracy=0.5)
    assert training.session.parts.saving.is_held(LAST_FINITE)
    training.session.rollback(last)
    training.epoch(lambda _: 0.5)
    assert not training.session.parts.saving.is_held(LAST_FINITE)
    training.session.detach()


def test_a_mask_on_trial_goes_with_the_weights_that_broke(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.until_masked()
    base = training.session.parts.trial.base_step
    training.train_epoch()
    break_(training, float("nan"))
    training.session.end_epoch(accuracy=0.5)
    assert training.session.step == base
    assert "0.weight holds nan" in training.session.log.marks[-1].text
    assert not training.session.parts.network.not_numbers()
    training.session.detach()


def rebuild(training: Training) -> None:
    """A head for more classes, as in a curriculum."""
    model = training.model
    assert isinstance(model, nn.Sequential)
    model[5] = nn.Linear(32, 6)
    training.session.optimizer.add_param_group({"params": list(model[5].parameters())})


def test_a_network_that_is_rebuilt_under_a_mask_is_told_once_and_trains_on(tmp_path: Path) -> None:
    training = Training(tmp_path)
    heard = ListSink()
    training.session.log.telling.sinks.append(heard)
    training.until_masked()
    rebuild(training)
    for accuracy in (0.5, 0.0, 0.0, 0.0):  # so low that the mask would be taken back
        training.train_epoch()
        training.session.end_epoch(accuracy=accuracy)
    told = [event for event in heard.events if isinstance(event, given_events.NetworkRebuilt)]
    assert told == [given_events.NetworkRebuilt("5.weight", "(4, 32)", "(6, 32)")]
    assert "because 5.weight was rebuilt" in training.session.finish(latency=False).why


def test_what_is_taken_back_of_a_layer_that_is_gone_is_left_out(tmp_path: Path) -> None:
    training = Training(tmp_path)
    rebuild(training)
    network = training.session.parts.network
    before = training.model.get_parameter("5.bias").clone()
    network.adjust({"5.bias": torch.ones(4), "0.bias": torch.ones(32)})
    assert torch.equal(training.model.get_parameter("5.bias"), before)
    assert rebuilt(network) == ("5.weight", "(4, 32)", "(6, 32)")
    training.session.detach()


def test_a_weight_that_is_parametrized_is_told_to_be_gone(tmp_path: Path) -> None:
    training = Training(tmp_path)
    weight_norm(training.model.get_submodule("3"))
    training.session.end_epoch(accuracy=0.5)
    assert rebuilt(training.session.parts.network) == ("3.weight", "(32, 32)", "gone")
    assert any(note.startswith("3.weight is gone, and was (32, 32)") for note in training.session.log.notes)
    training.session.detach()


class _Causal(Training):
    @staticmethod
    def build() -> nn.Module:
        model = small_network()
        model.register_buffer("unseen", torch.tensor([0.0, -torch.inf]))
        model.register_buffer("small", torch.ones(2).to(torch.float8_e4m3fn))
        return model


def test_a_buffer_may_be_infinite_but_not_nan(tmp_path: Path) -> None:
    training = _Causal(tmp_path)
    network = training.session.parts.network
    assert network.not_numbers() == ""
    network.model.get_buffer("unseen")[0] = torch.nan
    assert network.not_numbers() == "unseen"
    training.session.detach()


@pytest.mark.parametrize(("reports", "is_told"), [(["loss", "loss"], True), (["loss", "accuracy"], False)])
def test_a_loss_instead_of_the_metric_is_noticed_after_the_second_epoch(
    tmp_path: Path, reports: list[str], is_told: bool
) -> None:
    class Said(Training):
        metric = "accuracy"

    training = Said(tmp_path)
    heard = ListSink()
    training.session.log.telling.sinks.append(heard)
    for name in [*reports, "loss"]:
        training.train_epoch()
        training.session.end_epoch(**{name: 0.5})
    told = [event for event in heard.events if isinstance(event, metric_events.MetricNotYet)]
    assert told == [metric_events.MetricNotYet(2, "accuracy")] * is_told
    training.session.detach()
