"""Brings seeds into a network: made where they are wanted, asked G0, planted, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from torch import Tensor

from esper.checkpoint import drawn_apart
from esper.errors import ConfigError
from esper.kasmina.seeds.asked import AskedGates
from esper.kasmina.seeds.bed import SeedBed
from esper.kasmina.seeds.gates import GateResult, failed, refusal
from esper.kasmina.seeds.isolation import GradientIsolationMonitor
from esper.kasmina.seeds.lifecycle import SeedEvent, departure
from esper.kasmina.seeds.programs import ProgramCount
from esper.kasmina.seeds.recipe import Recipe
from esper.kasmina.seeds.settings import GrowthSettings, Isolation, check_wish
from esper.kasmina.seeds.slot import Slot
from esper.kasmina.seeds.world import World
from esper.leyline import SeedLifecycleStage as Stage
from esper.nissa import seed_events
from esper.tezzeret import NoKernel


class Sowing:
    """Sows seeds in the bed of one network.

    Args:
        bed: holds them.
        gates: asks about them.
        monitor: watches their isolation.
        settings: pace and limits.
        obstacle: why nothing may germinate just now; '' if something may.
        programs: what a compiler makes while seeds are on their way.
        admits: why the network, as it stands when this is asked, cannot be taken for what it would be with a
            seed as its part; '' if it can.
        world: the processes that train the network.
    """

    def __init__(
        self,
        bed: SeedBed,
        gates: AskedGates,
        monitor: GradientIsolationMonitor,
        settings: GrowthSettings,
        obstacle: Callable[[], str],
        programs: ProgramCount,
        admits: Callable[[], str],
        world: World,
    ) -> None:
        self._bed, self._gates, self._monitor, self._settings = bed, gates, monitor, settings
        self._obstacle, self._programs, self._admits, self._world = obstacle, programs, admits, world

    def sow(
        self,
        path: str,
        blueprint: str,
        options: Mapping[str, Any],
        *,
        isolation: Isolation | None,
        lr: float | None,
        contest: int = 0,
    ) -> GateResult:
        """Makes a seed and asks G0; arguments as for `Growth.germinate`."""
        check_wish(isolation, lr)
        slot = self._bed.slot_at(path)
        departure(slot.stage, SeedEvent.GERMINATE, path)
        self._bed.nursery.check(blueprint)  # a name that nobody knows must not come into any checkpoint
        if obstacle := self._obstacle():
            return self.refuse(path, blueprint, obstacle)
        if not self._bed.is_under_way:
            self._programs.skip()
        seen, calls = self._gates.look(slot)
        like, isolation = seen[0], isolation or self._settings.isolation
        options = self._sized(self._recipe(slot, blueprint, options, like))
        slot.track.sow(blueprint, options, like.shape, like.dtype, isolation, lr, contest)
        seed = self._bed.nursery.obtain(slot.track.recipe, slot.place.device, self._bed.epoch)
        if isinstance(seed, NoKernel):
            return self._refuse_for(seed, path, blueprint)
        try:
            self._bed.build(slot, seed)
            result = self._gates.sanity(slot, seen, calls, self._bed.owners)
            if result.passed and (problem := self._try_as_part(slot)):
                result = refusal(problem)
            slot.track.evidence = str(result)
            if result.passed:
                self._bed.plant(slot, str(result))
        except BaseException:
            slot.remove()
            raise
        if not result.passed:
            slot.remove()
            self._monitor.forget(path)
            self._tell_refusal(path, blueprint, result)
        return result

    def places(self, pattern: str) -> list[str]:
        """Places that a pattern names and that are free."""
        with self._bed.hidden():
            return [path for path in self._gates.places(pattern) if self._bed.is_free(path)]

    def contest(
        self,
        paths: Iterable[str],
        blueprint: str,
        options: Mapping[str, Any],
        *,
        isolation: Isolation | None,
        lr: float | None,
    ) -> dict[str, GateResult]:
        """Makes seeds at several places, of which one goes on at most; G0 of each by its path."""
        check_wish(isolation, lr)
        paths = list(paths)
        with suppress(ConfigError):  # each place says so for itself
            self.expect(paths, blueprint, options)
        number = 1 + max((slot.track.contest for slot in self._bed.slots.values()), default=0)
        results: dict[str, GateResult] = {}
        for path in paths:
            try:
                results[path] = self.sow(path, blueprint, options, isolation=isolation, lr=lr, contest=number)
            except ConfigError as error:  # there are others
                results[path] = self.refuse(path, blueprint, str(error))
        entered = [path for path, result in results.items() if result.passed]
        for path in entered:
            self._bed.slots[path].track.rivals = len(entered)
        return results

    def refuse(self, path: str, blueprint: str, why: str) -> GateResult:
        """Tells that nothing is germinated, for a reason that only the caller knows."""
        result = refusal(why)
        self._tell_refusal(path, blueprint, result)
        return result

    def refuse_taken(self, pattern: str, blueprint: str) -> dict[str, GateResult]:
        """Tells of every place that a pattern names why nothing may germinate there."""
        with self._bed.hidden():
            paths = self._gates.places(pattern)
        return {path: self.refuse(path, blueprint, self._bed.why_taken(path)) for path in paths}

    def expect(self, paths: Iterable[str], blueprint: str, options: Mapping[str, Any]) -> None:
        """Seeds will be wanted at these places: their kernels are made meanwhile."""
        for path in paths:
            slot = self._bed.slot_at(path)
            recipe = self._recipe(slot, blueprint, options, self._gates.look(slot)[0][0])
            self._bed.nursery.expect(replace(recipe, options=self._sized(recipe)), slot.place.device)

    def _recipe(self, slot: Slot, blueprint: str, options: Mapping[str, Any], like: Tensor) -> Recipe:
        """The next seed of a slot."""
        dtype, number = str(like.dtype).removeprefix("torch."), slot.track.generation + 1
        return Recipe(slot.track.path, number, blueprint, dict(options), tuple(like.shape), dtype)

    def _sized(self, recipe: Recipe) -> dict[str, Any]:
        host = sum(parameter.numel() for parameter in self._bed.owners.of_host().values())
        return self._bed.nursery.sized(recipe, self._settings.max_parameters * max(host, 1))

    def _refuse_for(self, missing: NoKernel, path: str, blueprint: str) -> GateResult:
        """G0 of a seed whose kernel is not to be had."""
        result = failed(missing.failed) if missing.failed else refusal(missing.why)
        self._tell_refusal(path, blueprint, result)
        return result

    def _tell_refusal(self, path: str, blueprint: str, result: GateResult) -> None:
        stage = Stage.DORMANT.name
        self._bed.tell(seed_events.SeedRefused(self._bed.epoch, path, blueprint, stage, stage, str(result)))

    def _try_as_part(self, slot: Slot) -> str:
        """Why whoever looks after the network could not take the seed for a part of it; '' if he can."""

        def tried() -> str:
            with drawn_apart(0), self._bed.hidden(), slot.as_part():
                return self._admits()

        return self._world.answer(str, tried)
