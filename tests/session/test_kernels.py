"""Seeds of a session come from a worker: the same bits, and what goes wrong there is a closed gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esper.kasmina.seeds import Recipe
from esper.nissa import ListSink, kernel_events, seed_events
from tests.session.growers import CULLED, KEPT, GrowingTraining
from tests.tezzeret.makers import MAKERS


class Kerneled(GrowingTraining):
    """Grows by hand."""

    plan: dict[int, tuple[str, str]] = {}  # noqa: RUF012

    def blueprints(self) -> Mapping[str, Callable[..., nn.Module]]:
        return {**MAKERS, "local": partial(MAKERS["sound"], width=2)}

    def __init__(self, run_dir: Path, **changes: Any) -> None:
        super().__init__(run_dir, **changes)
        self.heard = ListSink()
        self.session.log.telling.sinks.append(self.heard)

    def told(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.heard.events if isinstance(event, kind)]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kerneled]:
    training = Kerneled(
        tmp_path_factory.mktemp("run") / "run",
        analysis={"workers": 1},
        kernels={"memory_bytes": 1 << 28, "deadline_seconds": 20.0},
    )
    training.epoch()
    yield training
    training.session.detach()


def test_a_seed_from_a_worker_has_the_bits_that_this_process_would_have_given_it(training: Kerneled) -> None:
    session = training.session
    session.growing.prepare(KEPT, "sound", width=3)
    before = torch.get_rng_state()
    assert session.grow(KEPT, "sound", width=3).passed
    assert torch.equal(before, torch.get_rng_state())
    slot = session.growing.slots[KEPT]
    recipe = slot.track.recipe
    assert isinstance(recipe, Recipe)
    own = recipe.make(torch.device("cpu"), MAKERS)
    for (name, mine), theirs in zip(own.named_parameters(), slot.seed.seed.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    assert len(list((training.session.run_dir / "kernels").iterdir())) == 1
    session.growing.cull(KEPT)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shrinking", "its output is not of the shape"),
        ("undefined", "entries of its output are no numbers"),
        ("borrowing", "of its tensors are not its own"),
        ("failing", r"ValueError: no way for \["),
        ("huge", "it takes 57174604644352 bytes of 268435456"),
        ("dying", "the worker that made it died"),
    ],
)
def test_a_seed_that_is_no_good_closes_the_gate_and_training_goes_on(
    training: Kerneled, name: str, said: str
) -> None:
    before = training.fingerprint()
    result = training.session.grow(CULLED, name)
    assert not result.passed
    assert result.gate.name == "G0_SANITY"
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(str(result))
    assert training.fingerprint() == before
    refused = training.told(seed_events.SeedRefused)[-1]
    assert refused.evidence == str(result)


def test_a_blueprint_that_has_no_name_for_a_worker_is_made_here_and_that_is_said_once(
    training: Kerneled,
) -> None:
    for path in ("2", "3"):
        assert training.session.grow(path, "local").passed
    (told,) = training.told(kernel_events.KernelMadeHere)
    assert "Seeds of local are made in the training process" in told.text
    for path in ("2", "3"):
        training.session.growing.cull(path)


def test_many_places_are_tried_at_once(training: Kerneled) -> None:
    unknown = training.session.growing.try_out("[05]", "tree")
    assert all("There is no blueprint 'tree'" in str(result) for result in unknown.values())
    results = training.session.growing.try_out("[05]", "mlp", width=2)
    assert sorted(results) == ["0", "5"]
    assert all(result.passed for result in results.values())
