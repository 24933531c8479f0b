"""The door: seeds are germinated, led through their stages, kept as a part of the network, or gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import esper
from esper.errors import ConfigError, IllegalTransitionError, LifecycleError, UnknownPathError
from esper.kasmina.seeds.growth import Growth
from esper.kasmina.seeds.layer import Grown, KasminaLayer
from esper.nissa import seed_events
from tests.kasmina.seeds.networks import LENIENT, PLACE, Loop, convolutions, data, loop


@pytest.fixture
def training() -> Iterator[Loop]:
    training = loop()
    yield training
    training.close()


def names(training: Loop) -> list[str]:
    return [name for name, _ in training.model.named_modules()]


def test_a_seed_goes_through_all_stages_and_becomes_a_part_of_the_network(training: Loop) -> None:
    plain = names(training)
    training.steps(2)
    assert training.grown.germinate(PLACE, "conv").passed
    assert names(training) == plain  # while it learns the network is what it was
    training.until("FOSSILIZED")
    slot = training.grown.slots[PLACE]
    moved = [event for event in training.told.events if isinstance(event, seed_events.SeedMoved)]
    assert [event.after for event in moved] == [
        *("GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED")
    ]
    assert all(event.evidence for event in moved if event.after != "TRAINING")
    assert isinstance(slot.place.module, KasminaLayer)
    training.steps(4)
    grown = slot.place.module
    assert isinstance(grown, Grown)
    weight = grown.seed[0].weight  # type: ignore[index]
    assert training.grown.owners.of("HOST")["2.seed.0.weight"] is weight
    before = weight.detach().clone()
    training.steps(1)
    assert not torch.equal(weight, before)
    assert weight in training.optimizer.state
    assert training.grown.finish() is training.model
    assert slot.stage.name == "TERMINATED"
    assert training.told.events[-1].text.endswith("what has become a part of the network stays.")


def test_a_cull_on_probation_fades_out_and_leaves_nothing_and_the_place_opens_again(training: Loop) -> None:
    plain, size = names(training), sum(len(g["params"]) for g in training.optimizer.param_groups)
    training.grown.germinate(PLACE, "conv")
    slot = training.until("PROBATIONARY")
    assert slot.share == 1.0
    training.grown.cull(PLACE, "Enough.")
    shares = []
    while slot.stage.name == "CULLED":
        shares.append(slot.share)
        training.steps(1)
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 4
    assert names(training) == plain
    with pytest.raises(IllegalTransitionError, match="EMBARGOED"):
        training.grown.germinate(PLACE, "conv")
    training.grown.end_epoch()
    assert slot.stage.name == "RESETTING"
    training.grown.end_epoch()
    assert slot.stage.name == "DORMANT"
    assert training.grown.germinate(PLACE, "bottleneck").passed
    assert sum(len(g["params"]) for g in training.optimizer.param_groups) == size


def test_a_culled_seed_whose_memory_somebody_holds_keeps_the_place_closed(training: Loop) -> None:
    training.grown.germinate(PLACE, "conv")
    held = training.grown.slots[PLACE].own()
    training.grown.cull(PLACE)
    for _ in range(4):
        training.grown.end_epoch()
    slot = training.grown.slots[PLACE]
    assert slot.stage.name == "RESETTING"
    assert "its memory is free: no" in slot.track.evidence
    held.clear()
    training.grown.end_epoch()
    assert training.grown.slots[PLACE].stage.name == "DORMANT"


def test_optimizer_state_of_every_parameter_survives_all_that_happens(training: Loop) -> None:
    training.steps(3)
    kept = {p: state["exp_avg"] for p, state in training.optimizer.state.items()}
    training.grown.germinate(PLACE, "conv")
    training.grown.germinate("4", "bottleneck")
    training.until("PROBATIONARY")
    learner = training.grown.slots[PLACE].learner
    assert learner is not None
    seeds = {p: state["exp_avg"] for p, state in learner.optimizer.state.items()}
    training.grown.cull("4")
    training.until("FOSSILIZED")
    training.steps(4)
    state = training.optimizer.state
    assert all(state[parameter]["exp_avg"] is moment for parameter, moment in {**kept, **seeds}.items())
    assert len(state) == len(list(training.model.parameters()))


def test_a_seed_that_does_not_help_is_culled_when_patience_ends() -> None:
    training = loop({**LENIENT, "patience_epochs": 2, "min_gain": 1e6})
    training.grown.germinate(PLACE, "conv")
    training.until("EMBARGOED", epochs=4)
    waits = [e for e in training.told.events if isinstance(e, seed_events.SeedWaits)]
    culled = [e for e in training.told.events if isinstance(e, seed_events.SeedCulled)]
    assert len(waits) == 1
    assert "fall of the held-out loss" in culled[0].evidence
    training.close()


def test_a_paused_seed_neither_learns_nor_counts_nor_moves(training: Loop) -> None:
    training.grown.germinate(PLACE, "conv")
    slot = training.until("BLENDING")
    training.steps(2)
    share, weights = slot.share, [p.detach().clone() for p in slot.own()]
    training.grown.pause(PLACE)
    module = slot.place.module
    assert isinstance(module, KasminaLayer)
    training.model.eval()
    h = torch.randn(2, 4, 4, 4)
    assert torch.equal(module(h), module.host(h))
    training.model.train()
    training.steps(3)
    training.grown.end_epoch()
    assert slot.share == share
    assert all(torch.equal(old, new) for old, new in zip(weights, slot.own(), strict=True))
    assert "paused" in str(training.grown)
    training.grown.unpause(PLACE)
    training.steps(1)
    assert slot.share > share
    with pytest.raises(IllegalTransitionError, match="no seed to pause"):
        training.grown.pause("4")


class Wrong(nn.Module):
    def __init__(self, fault: str, like: Tensor) -> None:
        super().__init__()
        self.fault, self.weight = fault, nn.Parameter(torch.zeros(()))
        if fault == "large":
            self.more = nn.Parameter(torch.zeros(9999))
        if fault == "frozen":
            self.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "shape":
            return x[..., :1]
        if self.fault == "type":
            return x.double() * 0
        if self.fault == "nan":
            return x * torch.nan
        if self.fault == "changes":
            return x + 1
        if self.fault == "writes":
            return x.mul_(2) * 0
        if self.fault == "raises":
            raise ValueError("no way")
        return x * self.weight


@pytest.mark.parametrize(
    ("fault", "criterion"),
    [
        ("shape", "keeps shape, type and device: no"),
        ("type", "keeps shape, type and device: no"),
        ("nan", "everything is finite: no"),
        ("changes", "the network answers as before: no"),
        ("writes", "leaves its input as it is: no"),
        ("large", "parameters of the host's"),
        ("frozen", "has parameters to train: no"),
    ],
)
def test_a_seed_that_is_not_sane_is_refused_and_the_network_is_as_it_was(fault: str, criterion: str) -> None:
    settings = {**LENIENT, "max_parameters": 1.0}
    training = loop(settings, blueprints={"wrong": lambda like: Wrong(fault, like)})
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    result = training.grown.germinate(PLACE, "wrong")
    assert criterion in str(result)
    assert [type(event) for event in training.told.events] == [seed_events.SeedRefused]
    assert training.grown.germinate(PLACE, "conv").passed  # asked first: to compare is to compute with both
    assert all(torch.equal(before[name], tensor) for name, tensor in training.model.state_dict().items())
    training.close()


def test_a_blueprint_that_raises_is_told_with_its_own_words() -> None:
    def broken(like: Tensor, *, depth: int = 1) -> nn.Module:
        raise ZeroDivisionError("depth")

    training = loop(blueprints={"broken": broken, "raises": lambda like: Wrong("raises", like)})
    with pytest.raises(ConfigError, match=r"'broken' made nothing .*'depth': 3.*ZeroDivisionError: depth"):
        training.grown.germinate(PLACE, "broken", depth=3)
    with pytest.raises(ConfigError, match="ValueError: no way"):
        training.grown.germinate(PLACE, "raises")
    assert training.grown.germinate(PLACE, "conv").passed
    training.close()


def test_a_host_whose_units_are_dead_there_gets_no_seed(training: Loop) -> None:
    with torch.no_grad():
        training.model[4].bias.fill_(-99.0)  # type: ignore[index]
    assert "dead channels here" in str(training.grown.germinate("5", "conv"))


def test_places_that_cannot_have_a_seed_are_refused(training: Loop) -> None:
    for path in ("", "9", "0.weight"):
        with pytest.raises(UnknownPathError, match="no module"):
            training.grown.germinate(path, "conv")
    with pytest.raises(ConfigError, match="needs activations"):
        training.grown.germinate("7", "conv")
    with pytest.raises(IllegalTransitionError, match="nothing can cull, because there is no seed"):
        training.grown.cull(PLACE)
    with pytest.raises(IllegalTransitionError, match="there is no seed to unpause"):
        training.grown.unpause(PLACE)
    training.grown.germinate(PLACE, "conv")
    with pytest.raises(IllegalTransitionError, match="GERMINATED"):
        training.grown.germinate(PLACE, "conv")


def test_a_module_that_is_called_twice_or_never_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.idle, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.head(self.body(self.body(x.flatten(1))))
            return answer

    training = loop(make=Twice)
    assert "calls of the module in one pass 2" in str(training.grown.germinate("body", "mlp"))
    with pytest.raises(ConfigError, match="called 0 time"):
        training.grown.germinate("idle", "mlp")
    training.close()


def test_an_optimizer_that_holds_a_seed_makes_no_step(training: Loop) -> None:
    training.grown.germinate(PLACE, "conv")
    training.optimizer.add_param_group({"params": list(training.grown.slots[PLACE].own())})
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    with pytest.raises(LifecycleError, match=r"2\.seed\.\d\.\w+, which belongs to 2"):
        training.steps(1)
    parameters = dict(training.model.named_parameters())
    assert all(torch.equal(before[name], parameter) for name, parameter in parameters.items())


def test_a_loop_that_does_not_take_its_loss_from_the_growth_is_told_once(training: Loop) -> None:
    training.grown.germinate(PLACE, "conv")
    for _ in range(60):
        training.optimizer.step()
    told = [event for event in training.told.events if isinstance(event, seed_events.NothingLearned)]
    assert len(told) == 1


def test_the_loss_is_only_the_loss_where_nothing_grows_or_nobody_learns(training: Loop) -> None:
    x, y = data(8)
    training.model.eval()
    wanted = training.criterion(training.model(x), y)
    assert torch.equal(training.grown.loss(training.model(x), y, x), wanted)
    training.grown.germinate(PLACE, "conv")
    with torch.no_grad():
        assert torch.equal(training.grown.loss(training.model(x), y, x), wanted)
    assert training.grown.slots[PLACE].stage.name == "GERMINATED"


def test_several_losses_for_one_step_are_one_lesson(training: Loop) -> None:
    training.grown.germinate(PLACE, "conv")
    x, y = data(8)
    for _ in range(3):
        (training.grown.loss(training.model(x), y, x) / 3).backward()
    training.optimizer.step()
    learner = training.grown.slots[PLACE].learner
    assert learner is not None
    assert learner.steps == 1
    assert training.grown.slots[PLACE].track.passes == 3


def test_finish_keeps_what_has_proved_itself_and_nothing_else(training: Loop) -> None:
    training.grown.germinate(PLACE, "conv")
    training.until("FOSSILIZED")
    training.grown.germinate("4", "bottleneck")
    training.steps(2)
    model = training.grown.finish()
    assert isinstance(model[2], Grown)  # type: ignore[index]
    assert isinstance(model[4], nn.Conv2d)  # type: ignore[index]
    assert not [m for m in model.modules() if isinstance(m, KasminaLayer)]
    training.growth, over = None, training.grown
    training.steps(2)
    for again in (over.germinate, over.try_out, over.prepare):
        with pytest.raises(LifecycleError, match="This growth has ended"):
            again("4")


def test_a_place_grows_once_in_a_run(training: Loop) -> None:
    training.grown.germinate(PLACE, "conv")
    training.until("FOSSILIZED")
    training.steps(5)
    with pytest.raises(IllegalTransitionError, match="has grown there already, and a place"):
        training.grown.germinate(PLACE, "conv")
    for path in ("2.host", "2.seed", "2.seed.0"):
        with pytest.raises(UnknownPathError, match=f"'{path}' is a part of what has grown at"):
            training.grown.germinate(path, "conv")
    training.steps(20)  # to the end of the ramp
    assert "2" not in (free := training.grown.places("auto"))
    assert not any(path.startswith("2.") for path in free)
    assert "2" in training.grown.refuse_taken("auto", "conv")


def test_what_has_grown_is_pruned_like_the_rest(training: Loop) -> None:
    training.grown.germinate(PLACE, "conv", width=8)
    training.until("FOSSILIZED")
    model, batch = training.grown.finish(), data(8)
    result = esper.compact(model, sample=batch, loss=training.criterion, flops=0.6)
    shapes = {name: p.shape for name, p in result.model.named_parameters()}
    assert shapes["2.seed.0.weight"][1] == shapes["2.seed.2.weight"][0] == shapes["0.weight"][0]
    assert sum(shapes["2.seed.0.weight"][:2]) < 12


def test_a_network_is_held_by_one_growth_and_free_when_it_is_finished() -> None:
    training = loop()
    with pytest.raises(ConfigError, match="or a Growth holds this Sequential already"):
        Loop(training.model, LENIENT)
    training.grown.finish()
    Loop(training.model, LENIENT).close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probe": []}, "probe yields no batch"),
        ({"settings": {"ramp_stesp": 3}}, "settings: ramp_stesp: There is no such key; 'ramp_steps' is near"),
        ({"settings": [3]}, "settings: .*dictionary"),
        ({"blueprints": [3]}, "blueprints= is a list"),
        ({"blueprints": {"x": 3}}, "'x': int, and a blueprint is a name with a function"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments: dict[str, Any], message: str) -> None:
    model = convolutions()
    usual = {"loss": nn.CrossEntropyLoss(), "probe": [data(8)]}
    with pytest.raises(ConfigError, match=message):
        Growth(model, torch.optim.SGD(model.parameters(), 0.1), **{**usual, **arguments})


def test_a_compiled_network_grows_and_meets_no_seed_before_it_is_blended_in() -> None:
    training = loop()
    graphs: list[int] = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    training.call = torch.compile(training.model, backend=count)
    training.steps(2)
    assert len(graphs) == 1
    training.grown.germinate(PLACE, "conv")
    slot = training.until("BLENDING")
    assert len(graphs) == 1
    training.steps(4)
    assert slot.share == 1.0
    assert len(graphs) == 2  # one for the seed, none for its share
    training.until("PROBATIONARY")
    training.steps(4)
    assert len(graphs) == 2
    training.close()
