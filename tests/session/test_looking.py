"""Whether cuts keep to what a network's configuration can say."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import esper

X, Y = torch.randn(32, 6), torch.randint(3, (32,))


class Sized(nn.Module):
    """Built from a configuration, which has one number for what is in the middle."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.up, self.down = nn.Linear(6, config.middle), nn.Linear(config.middle, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.relu(self.up(x)))
        return out

    def save_pretrained(self, directory: Path) -> None:
        """Is never called."""


class Odd(Sized):
    """Wants more than its configuration to be built."""

    def __init__(self, config: Any, more: int) -> None:
        super().__init__(config)
        self.more = more


def configuration() -> Any:
    found = SimpleNamespace(middle=24)
    found.to_dict = lambda: {"middle": found.middle}
    return found


def attached(run: Path, model: nn.Module, configurable: Any) -> esper.Session:
    return esper.attach(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        loss=F.cross_entropy,
        sample=(X, Y),
        probe=[(X, Y)] * 2,
        run_dir=run,
        epochs=4,
        config={"pruning": {"target": {"flops": 0.5}, "plan": {"configurable": configurable}}},
    )


@pytest.mark.parametrize("configurable", [True, "if_possible"])
def test_cuts_keep_to_a_configuration_that_can_say_them(tmp_path: Path, configurable: Any) -> None:
    session = attached(tmp_path / "run", Sized(configuration()), configurable)
    assert session.parts.network.refused == {}
    assert session.parts.terms.config.pruning.plan.configurable is True
    assert not any("can say no cut" in note for note in session.log.notes)
    session.detach()


def test_a_configuration_that_can_say_nothing_holds_nothing_back_and_that_is_told(tmp_path: Path) -> None:
    session = attached(tmp_path / "run", Odd(configuration(), 1), "if_possible")
    assert session.parts.network.refused == {}
    assert session.parts.terms.config.pruning.plan.configurable is False
    (told,) = [note for note in session.log.notes if "can say no cut" in note]
    assert "The configuration of Odd" in told
    assert "TypeError" in told
    session.detach()


def test_who_insists_on_it_is_obeyed(tmp_path: Path) -> None:
    session = attached(tmp_path / "run", Odd(configuration(), 1), True)
    assert list(session.parts.network.refused) == ["up"]
    session.detach()


@pytest.mark.parametrize(
    ("sample", "probe", "words"),
    [
        (torch.float64, torch.float32, "`.to(torch.float32)` where `sample` is made"),
        (torch.float32, torch.float64, "`.to(torch.float32)` where held-out data is made"),
    ],
)
def test_the_batch_of_another_dtype_than_the_network_is_the_one_to_change(
    tmp_path: Path, sample: torch.dtype, probe: torch.dtype, words: str
) -> None:
    model = nn.Linear(6, 3)
    with pytest.raises(esper.errors.ConfigError, match=re.escape(words)):
        esper.attach(
            model,
            torch.optim.SGD(model.parameters(), 0.1),
            loss=F.cross_entropy,
            sample=(X.to(sample), Y),
            probe=[(X.to(probe), Y)] * 2,
            run_dir=tmp_path / "run",
        )
