"""Seeds that become plain parts of a network at the same moment are parts one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import esper
from esper.errors import LifecycleError
from tests.session.growers import GrowingTraining


def nested() -> nn.Sequential:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12))
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), inner, nn.Tanh(), nn.Linear(12, 4))


class Together(GrowingTraining):
    """Grows at several places in epoch 1."""

    build = staticmethod(nested)
    plan = {}  # noqa: RUF012
    places: tuple[str, ...] = ()

    def act(self) -> None:
        if self.session.epoch == 1 and not self.session.growing.slots:
            for place in self.places:
                assert self.session.grow(place, "mlp", width=4).passed


@pytest.mark.parametrize("places", [("2.0", "2.2"), ("2", "2.2"), ("2.2", "2")])
def test_seeds_that_settle_together_are_resumed_taken_back_and_loaded(
    places: tuple[str, ...], tmp_path: Path
) -> None:
    Together.places = places
    training = Together(tmp_path)
    training.go(10)
    assert set(training.stages().values()) == {"FOSSILIZED"}
    assert not training.session.growing.is_under_way
    sizes = [change.before.parameters() for change in training.session.parts.network.changes]
    assert sizes[1] - sizes[0] == 12 * 4 + 4 + 4 * 12 + 12  # each is a part of its own
    original = training.session.parts.network.original
    assert original is not None
    assert sum(p.numel() for p in original.parameters()) == sizes[0]
    training.epoch()
    before = training.fingerprint()
    training.session.detach()
    training = Together(tmp_path)
    assert training.fingerprint() == before
    result, x = training.session.finish(latency=False), training.held_out[0]
    assert result.grown == places
    assert f"Seeds: 2 stayed ({', '.join(places)})." in str(result)
    fresh = esper.load(tmp_path, model=nested()).eval()
    torch.testing.assert_close(fresh(x), result.model.eval()(x))
    training = Together(tmp_path)  # a finished run goes on, too
    training.session.rollback(0)
    assert training.session.parts.network.anatomy.parameters() == sizes[0]
    result = training.session.finish(latency=False)
    assert result.grown == ()
    assert "what has grown" not in str(result)
    assert f"Seeds: 2 taken out again ({', '.join(places)})." in str(result)


def test_seeds_whose_ramps_the_end_of_the_run_cuts_short_are_loaded(tmp_path: Path) -> None:
    Together.places = ("2.0", "2.2")
    training = Together(tmp_path)
    training.until(lambda: set(training.stages().values()) == {"FOSSILIZED"})
    assert training.session.growing.is_under_way
    result, x = training.session.finish(latency=False), training.held_out[0]
    fresh = esper.load(tmp_path, model=nested()).eval()
    torch.testing.assert_close(fresh(x), result.model.eval()(x))


def test_places_that_are_all_taken_are_told_and_so_is_a_session_that_has_ended(tmp_path: Path) -> None:
    training = Together(tmp_path)
    growing = training.session.growing
    assert growing.try_out("2.0", "mlp")["2.0"].passed
    again = growing.try_out("2.0", "mlp")
    assert "the place is taken: its slot is GERMINATED" in str(again["2.0"])
    both = growing.try_out("2.*", "mlp")
    assert all(both.values())  # 2.0 is none of them
    assert "2.0" not in both
    training.session.finish(latency=False)
    for ask in (growing.try_out, growing.prepare, growing.places, growing.grow, growing.cull):
        with pytest.raises(LifecycleError, match="This session has ended"):
            ask("2.0")
