"""Nothing is compiled for seeds where the blocks of a network are compiled, whatever stage they are in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from esper.kasmina.seeds.layer import Grown
from esper.nissa import kernel_events, seed_events
from tests.kasmina.seeds.networks import LENIENT, PLACE, Loop, loop, perceptron

SLOTS = 16
GRAD_IS_READ = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
"""By dynamo itself, when it looks at what comes into a block."""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.map(x))


class Compiled(nn.Module):
    """A seed that compiles itself."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(like.shape[-1]))
        self.compile(backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * self.scale


def blocks() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), *(Block() for _ in range(SLOTS)), nn.Linear(6, 3))


def programs() -> int:
    """How many there are: dynamo counts what it hands to a backend."""
    return int(counters["stats"]["unique_graphs"])


def counted(training: Loop) -> list[int]:
    """Programs, as they were told when an epoch had ended."""
    return [one.count for one in training.told.events if isinstance(one, kernel_events.ProgramsCounted)]


@pytest.fixture
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()
    counters.clear()


@GRAD_IS_READ
@pytest.mark.usefixtures("fresh")
def test_sixteen_seeds_go_through_all_their_stages_and_nothing_is_compiled() -> None:
    quick = {"train_steps": 2, "ramp_steps": 2, "shadow_steps": 1, "probation_epochs": 2}
    settings = {**quick, "check_every": 999, "embargo_epochs": 99}
    training = loop({**LENIENT, **settings}, blocks)
    for block in training.model.children():
        if isinstance(block, Block):
            block.compile(backend="aot_eager")
    training.steps(2)
    before = programs()
    assert before > 0
    paths = [str(number) for number in range(2, 2 + SLOTS)]
    for path in paths:
        assert training.grown.germinate(path, "low_rank", rank=1, lr=1e-5).passed
    for _ in range(8):
        training.steps(2)
        training.grown.end_epoch()
        for path in paths[::4]:  # the way of a few ends there
            if training.grown.slots[path].stage.name == "PROBATIONARY":
                training.grown.cull(path)
    moved = [event for event in training.told.events if isinstance(event, seed_events.OfSeed)]
    assert {event.after for event in moved} >= {
        *("TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED", "CULLED", "EMBARGOED")
    }
    assert sum(event.after == "BLENDING" for event in moved) == SLOTS
    assert any(isinstance(module, Grown) for module in training.model.children())
    assert programs() == before
    assert counted(training) == [0] * 8
    training.close()


@GRAD_IS_READ
@pytest.mark.usefixtures("fresh")
def test_a_network_that_is_compiled_as_a_whole_is_told_what_that_costs() -> None:
    training = Loop(torch.compile(perceptron(), backend="eager"), LENIENT)  # type: ignore[arg-type]
    assert any(isinstance(event, kernel_events.CompiledAsAWhole) for event in training.told.events)
    training.steps(1)
    before = programs()
    assert training.grown.germinate(PLACE, "low_rank", rank=1, lr=1e-5).passed
    training.until("PROBATIONARY")
    training.grown.end_epoch()
    made = programs() - before
    assert made > 0
    assert sum(counted(training)) == made
    assert f"torch.compile made {made} program(s)" in str(training.grown)
    training.close()
    plain = loop(LENIENT, perceptron)
    assert not plain.told.events
    plain.close()


@GRAD_IS_READ
@pytest.mark.usefixtures("fresh")
def test_a_blueprint_that_compiles_itself_does_so_in_training_steps_only() -> None:
    training = loop(LENIENT, perceptron, blueprints={"compiled": Compiled})
    assert training.grown.germinate(PLACE, "compiled", lr=1e-5).passed
    training.until("BLENDING")
    assert not programs()
    training.until("FOSSILIZED")
    training.steps(5)
    training.grown.end_epoch()
    assert programs() == sum(counted(training)) > 0
    training.close()
