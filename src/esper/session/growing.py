"""The growing of a session: seeds on its network, beside what is pruned from it.

What a change costs, or gains, can only be told while nothing else changes. So there is one of the two at a
time: while a mask waits or is on trial nothing germinates, and while a seed is on its way nothing is
analyzed, masked or cut. A seed that has become a plain part of the network is a `Change` of it, as a cut is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from esper.anatomy.graph import is_compiled
from esper.batches import HeldOut
from esper.errors import ConfigError, LifecycleError, StructureError
from esper.importance.tracker import ImportanceTracker
from esper.kasmina import LiveNetwork, join
from esper.kasmina.seeds import (
    ALONE,
    GateResult,
    Growth,
    GrowthSettings,
    Isolation,
    Kernels,
    Recipe,
    Slot,
    World,
)
from esper.leyline import BreakerState, encode
from esper.nissa import seed_events
from esper.session.log import RunLog
from esper.tezzeret import check_options


def _nobody(_: str) -> None:
    """There is nobody to tell."""


class Growing:
    """The seeds of one session. Whatever they need is made when the first one is asked for.

    Args:
        network: of the session.
        tracker: follows its structure, if there is one.
        held_out: what gates are asked on; None: nothing can be grown.
        settings: pace and limits.
        log: of the run.
        scaler: the GradScaler, if there is one.
        kernels: has seeds made off the training path; None: they are made in this process.
        world: the processes that train the network.
    """

    def __init__(
        self,
        network: LiveNetwork,
        tracker: ImportanceTracker | None,
        held_out: HeldOut | None,
        settings: GrowthSettings,
        log: RunLog,
        scaler: Any,
        kernels: Kernels | None,
        world: World = ALONE,
    ) -> None:
        self._kernels, self._world = kernels, world
        self._network, self._tracker, self._held_out = network, tracker, held_out
        self._settings, self._log, self._scaler = settings, log, scaler
        self._growth: Growth | None = None
        self._is_over = False
        self.alarm: Callable[[str], None] = _nobody
        """Keeps the state, because a seed has reached the network too often."""
        self.make_way: Callable[[], str] = str
        """Makes the network whole before something germinates; says why it cannot."""

    @property
    def slots(self) -> Mapping[str, Slot]:
        """Every place where something was germinated, by its path."""
        return {} if self._growth is None else self._growth.slots

    @property
    def parameters(self) -> int:
        """Of the network, without seeds that are on their way."""
        return self._network.anatomy.parameters()

    @property
    def has_begun(self) -> bool:
        """Whether a seed was asked for, now or before."""
        return self._growth is not None

    @property
    def is_under_way(self) -> bool:
        """Whether there is a seed that is not a plain part of the network yet."""
        return self._growth is not None and self._growth.is_under_way

    @property
    def why_never(self) -> str:
        """Why nothing can ever be grown in this session; '' if it can."""
        plain = len(self._network.masks.plain_copies)
        if self._held_out is None:
            return (
                "Nothing can be grown: gates are asked on held-out data, and there is none. Give probe= (a "
                "loader of batches that training never sees)."
            )
        if plain:
            return (
                f"Nothing can be grown: {plain} companion(s) are plain tensors, and the loop that keeps them "
                "would not know of those that grow. Keep the average in a module, such as "
                "torch.optim.swa_utils.AveragedModel."
            )
        return ""

    def check_wish(self, pattern: str | None, blueprint: str, options: Mapping[str, Any]) -> None:
        """Refuses what could be tried nowhere in this network; nothing is kept of it.

        Args:
            pattern: of paths, as for `try_out`; None: it is not asked about.
            blueprint: what is to be tried there.
            options: of the blueprint.

        Raises:
            UnknownPathError: there is no module of such a path that could have a seed.
            ConfigError: there is no such blueprint, or it does not take these options.
        """
        check_options(blueprint, self._network.blueprints, options)
        if pattern is not None:
            was_there = self._growth is not None
            self._made().places(pattern)
            if not was_there:
                self.load(None)

    @property
    def breaker_state(self) -> BreakerState:
        """Whether anything may germinate, after how often seeds have reached the network."""
        return BreakerState.CLOSED if self._growth is None else self._growth.breaker.state

    def close_breaker(self) -> None:
        """The operator's word that seeds may germinate again."""
        if self._kernels is not None:
            self._kernels.close_breaker()
        if self._growth is not None:
            self._growth.breaker.close()

    def grow(
        self,
        path: str,
        blueprint: str = "auto",
        *,
        isolation: Isolation | None = None,
        lr: float | None = None,
        **options: Any,
    ) -> GateResult:
        """Germinates a seed, if nothing is in its way; see `Session.grow`."""
        growth, obstacle = self._ready()
        if obstacle:
            return growth.refuse(path, blueprint, obstacle)
        return growth.germinate(path, blueprint, isolation=isolation, lr=lr, **options)

    def try_out(
        self,
        pattern: str = "auto",
        blueprint: str = "auto",
        *,
        isolation: Isolation | None = None,
        lr: float | None = None,
        **options: Any,
    ) -> dict[str, GateResult]:
        """Germinates a seed at each of several places: of those that surely help, only the best goes on.

        All learn at once, each apart from the network and from the others, so that the network is what it
        was where none helps.

        Args:
            pattern: of paths (`layer*`), or `auto`: where one block ends and the next one begins.
            blueprint: what the seeds are.
            isolation: as for `Session.grow`.
            lr: as for `Session.grow`.
            options: of the blueprint.

        Returns:
            What G0 said, by path: of free places, or, where none is free, that the others are taken.

        Raises:
            UnknownPathError: there is no module of such a path that could have a seed.
            ConfigError: there is no such blueprint, or no held-out data.
            LifecycleError: the session has ended.
        """
        growth, obstacle = self._ready()
        paths = growth.places(pattern)
        if not paths:
            return growth.refuse_taken(pattern, blueprint)
        if obstacle:
            return {path: growth.refuse(path, blueprint, obstacle) for path in paths}
        return growth.try_out(paths, blueprint, isolation=isolation, lr=lr, **options)

    def prepare(self, pattern: str = "auto", blueprint: str = "auto", **options: Any) -> None:
        """Has kernels made meanwhile for seeds at the free places of a pattern, so that nobody waits later.

        Arguments as for `try_out`; a path is a pattern, too.

        Raises:
            UnknownPathError: there is no module of such a path that could have a seed.
            ConfigError: there is no such blueprint, or no held-out data.
        """
        growth = self._made()
        growth.prepare(growth.places(pattern), blueprint, **options)

    def places(self, pattern: str = "auto") -> list[str]:
        """Free places for a seed, as `try_out` takes them.

        Raises:
            UnknownPathError: there is no module of such a path that could have a seed.
        """
        return self._made().places(pattern)

    def _ready(self) -> tuple[Growth, str]:
        """The growth, and why nothing may germinate on this network now ('' if it may)."""
        growth = self._made()
        obstacle = self.obstacle()
        if not growth.is_under_way:
            growth.follow()  # it may have been cut since
        return growth, obstacle

    def obstacle(self) -> str:
        """Makes the network whole, and says why nothing may germinate on it now ('' if it may)."""
        return "" if self.is_under_way else self.make_way()

    def cull(self, path: str, why: str = "Culled by hand.") -> None:
        """Removes a seed; see `Growth.cull`.

        Raises:
            IllegalTransitionError: there is none that the host does not own.
        """
        self._made().cull(path, why)

    def pause(self, path: str) -> None:
        """The seed is the identity, and learns nothing, until `unpause`."""
        self._made().pause(path)

    def unpause(self, path: str) -> None:
        """The seed goes on where it was paused."""
        self._made().unpause(path)

    def teach(self, value: Tensor, target: Any, inputs: Any) -> None:
        """Gives seeds their lesson in one training step.

        Raises:
            ConfigError: there is a seed to teach, and nobody says what the network has seen.
        """
        if self._growth is None or not self._growth.is_under_way:
            return
        if inputs is None:
            raise ConfigError(
                "A seed is on its way, and it must see what the network saw: call session.loss(output, "
                "target, inputs). Nothing was computed."
            )
        self._growth.teach(value, target, inputs)

    def end_epoch(self, epochs_left: int | None) -> None:
        """Asks the gates; what has become a plain part of the network is one from now on."""
        if self._growth is not None:
            self._growth.end_epoch(epochs_left)
            self._settle(self._growth)

    def end_run(self) -> str:
        """What has proved itself is a part of the network, and all else is gone.

        Returns:
            That the network answers otherwise since, in words; '' if it does not.
        """
        if self._growth is None:
            return ""
        served = [path for path, slot in self.slots.items() if slot.is_served]
        self._growth.end()
        self._settle(self._growth)
        return f"Taken out since: the seed at {', '.join(served)}, unproved" if served else ""

    def detach(self) -> None:
        self._is_over = True
        if self._kernels is not None:
            self._kernels.close()
        if self._growth is not None:
            self._growth.detach()

    def __str__(self) -> str:
        if self._growth is None or not self.slots:
            return "Nothing has germinated."
        had = "" if self._kernels is None else f"\n{self._kernels.counts}"
        return self._log.says(f"{self._growth}{had}")

    def state(self) -> dict[str, Any] | None:
        """What growing remembers; None: nothing was ever asked for."""
        return None if self._growth is None else self._growth.state()

    def check(self, state: Mapping[str, Any] | None) -> None:
        """Refuses seeds that cannot be made here; changes nothing.

        Raises:
            CheckpointError, ConfigError: they say what is missing.
        """
        if state is not None:
            self._made().check(state, is_in_form=False)

    def stand(self) -> tuple[list[Any], dict[str, Tensor]]:
        """How far seeds are, and the weights, by name, of those that the host does not own."""
        slots = self.slots.values()
        tracks = [encode(replace(slot.track, evidence="", culled="")) for slot in slots]
        learning = [slot.parameters() for slot in slots if slot.learner is not None]
        return tracks, {name: weight for own in learning for name, weight in own.items()}

    def clear(self) -> None:
        """Takes out every seed that is under way."""
        if self._growth is not None:
            self._growth.clear()

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Brings the seeds of then back into a network that has the structure of then."""
        if state is not None:
            self._made().load(state)
        elif self._growth is not None:  # then nothing was ever asked for
            self._growth.detach()
            self._growth = None
        else:
            return
        self._world.follow()

    def _settle(self, growth: Growth) -> None:
        for recipe in growth.settle():
            self._join(growth, recipe)

    def _join(self, growth: Growth, recipe: Recipe) -> None:
        network = self._network
        try:
            with growth.hidden():
                change = join(network, recipe)
        except StructureError as error:  # whatever a blueprint does, it ends no training
            growth.tell(seed_events.SeedLost(self._log.epoch, recipe.path, str(error)))
            return
        before, after = change.before, network.anatomy
        if self._tracker is not None:
            self._tracker.rebind(after, network.named_parameters(), change.numbers)
        growth.tell(
            seed_events.SeedSettled(
                self._log.epoch,
                recipe.path,
                before.parameters(),
                after.parameters(),
                after.num_units - before.num_units,
            )
        )

    def require_possible(self) -> None:
        """Refuses where nothing can grow.

        Raises:
            ConfigError: the network cannot be grown.
            LifecycleError: the session has ended.
        """
        if self._is_over:
            raise LifecycleError(
                "This session has ended, and nothing grows in it any more. Nothing was changed. Attach again "
                "with another run_dir, or resume this one."
            )
        if self._growth is None and self.why_never:
            raise ConfigError(f"{self.why_never} Nothing was changed.")

    def _made(self) -> Growth:
        """The growth, made at the first call; raises what `require_possible` raises."""
        self.require_possible()
        if self._growth is not None:
            return self._growth
        network, held_out = self._network, self._held_out or HeldOut((), ())
        self._growth = Growth(
            network.given if is_compiled(network.given) else network.model,
            network.optimizer,
            loss=network.loss,
            probe=(*held_out.calibration, *held_out.validation),
            scaler=self._scaler if hasattr(self._scaler, "get_scale") else None,
            blueprints=network.blueprints,
            settings=self._settings,
            sink=self._log.telling,
            within=network,
            epoch=self._log.epoch,
            alarm=self.alarm,
            kernels=self._kernels,
            world=self._world,
        )
        return self._growth
