"""Kernels are cached within their limits, and left alone for a while where they fail again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from esper.kasmina.seeds.kernels import Kernels
from esper.kasmina.seeds.nursery import seed_of
from esper.leyline import BreakerState, ManualClock
from esper.nissa import Event, kernel_events
from esper.tezzeret import Kernel, KernelSettings, NoKernel
from tests.tezzeret.makers import MAKERS
from tests.tezzeret.shelves import order, smith


class Watched(Kernels):
    """With what was told; there is no worker process."""

    def __init__(self, run: Path, **settings: Any) -> None:
        self.time = ManualClock()
        super().__init__(smith(run), KernelSettings(**settings), is_apart=False, clock=self.time)
        self.told: list[Event] = []

    def ask(self, name: str = "sound", generation: int = 1) -> Kernel | NoKernel:
        return self.get(order(name, generation=generation), 3, self.told.append)


def state(kernels: Kernels) -> str:
    return kernels.breaker_state.value


def test_a_kernel_is_made_once_then_it_is_in_memory_and_in_the_run_directory(tmp_path: Path) -> None:
    kernels = Watched(tmp_path)
    first = kernels.ask()
    assert isinstance(first, Kernel)
    assert kernels.ask() is first
    assert (kernels.counts.made, kernels.counts.hits, kernels.counts.loaded) == (1, 1, 0)
    later = Watched(tmp_path)
    assert isinstance(later.ask(), Kernel)
    assert (later.counts.made, later.counts.loaded) == (0, 1)
    assert not later.told


@pytest.mark.parametrize(
    ("settings", "wait"),
    [({"ttl_seconds": 10.0}, 11.0), ({"cache_kernels": 1}, 0.0), ({"cache_bytes": 700}, 0.0)],
)
def test_what_was_not_asked_for_in_long_or_does_not_fit_leaves_the_memory(
    tmp_path: Path, settings: dict[str, Any], wait: float
) -> None:
    kernels = Watched(tmp_path, **settings)
    first = kernels.ask()
    assert isinstance(first, Kernel)
    assert first.size_bytes < 700 < 2 * first.size_bytes
    kernels.ask(generation=2)
    kernels.time.advance(wait)
    kernels.ask(generation=1)
    had = "2 made, 1 out of the run directory, 0 out of memory, 0 not to be had; 2 dropped from memory."
    assert str(kernels.counts) == f"Kernels: {had}"


def test_a_kernel_that_is_asked_for_stays_longer(tmp_path: Path) -> None:
    kernels = Watched(tmp_path, ttl_seconds=10.0)
    for _ in range(3):
        kernels.ask()
        kernels.time.advance(6.0)
    assert (kernels.counts.hits, kernels.counts.dropped) == (2, 0)


def test_one_that_is_larger_than_the_cache_is_used_and_not_kept(tmp_path: Path) -> None:
    kernels = Watched(tmp_path, cache_bytes=100)
    assert isinstance(kernels.ask(), Kernel)
    assert isinstance(kernels.ask(), Kernel)
    assert kernels.counts.hits == 0


def test_the_breaker_opens_rests_and_is_closed_by_a_kernel_that_can_be_had(tmp_path: Path) -> None:
    kernels = Watched(tmp_path, max_failures=2, cooldown_seconds=30.0)
    blocked = tmp_path / "kernels"
    blocked.write_text("in the way")
    for _ in range(2):
        assert "could not be stored" in str(kernels.ask())
    assert state(kernels) == "open"
    (told,) = kernels.told
    assert isinstance(told, kernel_events.KernelsStopped)
    blocked.unlink()
    kernels.time.advance(12.0)
    refused = kernels.ask()
    assert isinstance(refused, NoKernel)
    assert "open for 18 s more, after 2 failures" in refused.why
    kernels.time.advance(18.0)
    assert state(kernels) == "half-open"
    assert isinstance(kernels.ask(), Kernel)
    assert state(kernels) == "closed"


def test_a_failed_try_opens_it_again_and_a_person_can_close_it(tmp_path: Path) -> None:
    kernels = Watched(tmp_path, max_failures=1, cooldown_seconds=5.0)
    (tmp_path / "kernels").write_text("in the way")
    kernels.ask()
    kernels.time.advance(5.0)
    kernels.ask()
    assert kernels.breaker_state is BreakerState.OPEN
    (tmp_path / "kernels").unlink()
    kernels.close_breaker()
    assert isinstance(kernels.ask(), Kernel)


def test_blueprints_that_are_no_good_do_not_open_it(tmp_path: Path) -> None:
    kernels = Watched(tmp_path, max_failures=1)
    for name in ("failing", "shrinking", "doubling"):
        assert isinstance(kernels.ask(name), NoKernel)
    assert kernels.breaker_state is BreakerState.CLOSED
    assert kernels.counts.refused == 3


def test_a_stored_kernel_that_nobody_vouches_for_is_told_and_made_again(tmp_path: Path) -> None:
    Watched(tmp_path).ask()
    (tmp_path / "kernels" / order("sound").name / "artifact.pb").write_bytes(b"")
    kernels = Watched(tmp_path)
    assert isinstance(kernels.ask(), Kernel)
    (told,) = kernels.told
    assert isinstance(told, kernel_events.KernelRejected)
    assert "artifact.pb has 0 bytes" in told.text


def test_seeds_of_one_kernel_share_nothing(tmp_path: Path) -> None:
    kernel = Watched(tmp_path).ask()
    assert isinstance(kernel, Kernel)
    one, other = (seed_of(kernel, torch.device("cpu"), MAKERS) for _ in range(2))
    assert one is not None
    assert other is not None
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(1.0)
    for name, tensor in other.named_parameters():
        assert torch.equal(tensor, kernel.tensors[name])
