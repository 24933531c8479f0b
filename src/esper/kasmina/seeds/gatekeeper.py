"""Measures what the gates ask, on the live network: nothing is different in it afterwards."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn

from esper.arrays import FloatArray
from esper.checkpoint import drawn_apart
from esper.errors import ConfigError, UnknownPathError
from esper.kasmina.seeds import gates
from esper.kasmina.seeds.evidence import Probe, dead_share, moments
from esper.kasmina.seeds.gates import GateResult
from esper.kasmina.seeds.isolation import GradientIsolationMonitor, at_rest
from esper.kasmina.seeds.layer import KasminaLayer
from esper.kasmina.seeds.owners import Owners
from esper.kasmina.seeds.place import Place
from esper.kasmina.seeds.places import places_in
from esper.kasmina.seeds.settings import GrowthSettings
from esper.kasmina.seeds.slot import Slot
from esper.leyline import SeedLifecycleStage as Stage

_LOUD = 0.1
"""Spread of the weights that a seed is given instead of zeros, to see what it reads."""


class Gatekeeper:
    """Asks the gates about the seeds of one network.

    Args:
        model: the network.
        probe: held-out batches.
        monitor: watches isolation.
        settings: the limits.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Probe,
        monitor: GradientIsolationMonitor,
        settings: GrowthSettings,
    ) -> None:
        self._model, self._probe = model, probe
        self._monitor, self._settings = monitor, settings
        self._ask: dict[Stage, Callable[[Slot], GateResult]] = {
            Stage.TRAINING: self._trained,
            Stage.BLENDING: self._blended,
            Stage.SHADOWING: self._shadowed,
            Stage.PROBATIONARY: self._proved,
        }

    def is_due(self, slot: Slot) -> bool:
        """Whether a seed has been in its stage for long enough to be asked."""
        track, settings = slot.track, self._settings
        return {
            Stage.TRAINING: slot.learner is not None and slot.learner.steps >= settings.train_steps,
            Stage.BLENDING: track.position >= settings.ramp_steps,
            Stage.SHADOWING: track.in_stage >= settings.shadow_steps,
            Stage.PROBATIONARY: track.epochs >= settings.probation_epochs,
        }.get(slot.stage, False)

    def places(self, pattern: str) -> list[str]:
        """Paths of modules that could have a seed; see `places_in`."""

        def counts(path: str) -> bool:
            with suppress(UnknownPathError):  # a part of what has grown is no place
                return self._probe.calls_of(Place(self._model, path)) > 0
            return False

        return places_in(self._model, self._probe.output, pattern, counts)

    def look(self, slot: Slot) -> tuple[list[Tensor], int]:
        """What the module at a place makes of held-out batches, and how often it is called in a pass.

        Raises:
            ConfigError: it is never called, passed by in evaluation, or stands in several places.
        """
        module = slot.place.module
        seen, calls = self._probe.seen_at(module)
        uses = sum(other is module for _, other in self._model.named_modules(remove_duplicate=False))
        if not seen or uses > 1:
            raise ConfigError(
                f"The module {slot.path!r} is called {calls} time(s) in a pass and stands in {uses} "
                "place(s) of the network; a seed needs one that is called once. Nothing was changed."
            )
        if not self._probe.calls_of(slot.place):
            raise ConfigError(
                f"The module {slot.path!r} is called in training, and passed by where the network is "
                "evaluated without gradients, as nn.TransformerEncoderLayer does with its inner modules: a "
                "seed there would learn, and never count. Nothing was changed. Grow on the layer around it."
            )
        return seen, calls

    def ask(self, slot: Slot) -> GateResult:
        """The gate at the end of the stage that a seed is in."""
        return self._ask[slot.stage](slot)

    def sanity(self, slot: Slot, seen: list[Tensor], calls: int, owners: Owners) -> GateResult:
        """G0 of a seed that was made and is not in the network.

        Args:
            slot: holds it.
            seen: what the module at its place makes of the held-out batches.
            calls: how often it is called in a pass.
            owners: to compare sizes with.

        Raises:
            ConfigError: it cannot compute at all.
        """
        like, own = seen[0].clone(), slot.own()
        try:
            with drawn_apart(slot.track.number), torch.no_grad(), at_rest(self._model):
                answer = slot.seed.seed(like)
        except Exception as error:
            raise ConfigError(
                f"The seed that {slot.track.blueprint!r} made fails for activations {list(like.shape)}: "
                f"{type(error).__name__}: {error}. Nothing was changed."
            ) from error
        is_fitting = isinstance(answer, Tensor) and _alike(answer, like)
        leaves_input = torch.equal(like, seen[0])
        is_apart = is_identity = keeps_order = None
        if is_fitting and leaves_input:  # else it cannot even be tried in its place
            plain = self._probe.output()
            with slot.grafted():
                is_identity = torch.equal(plain, self._probe.output())
            keeps_order = self._keeps_order(slot)
            is_apart = own.isdisjoint(owners.of_all()) and self.is_isolated(slot)
            if slot.seed.problem:
                raise ConfigError(
                    f"The seed that {slot.track.blueprint!r} made fails in the network: {slot.seed.problem}. "
                    "Nothing was changed."
                )
        planted = gates.Planted(
            calls,
            is_identity,
            is_finite=all(bool(t.isfinite().all()) for t in (answer, *own)) if is_fitting else None,
            keeps_shape=is_fitting,
            leaves_input=leaves_input,
            is_isolated=is_apart,
            can_learn=any(p.requires_grad and p.numel() for p in own),
            parameters=sum(p.numel() for p in own)
            / max(sum(p.numel() for p in owners.of_host().values()), 1),
            dead=dead_share(seen),
            keeps_order=keeps_order,
        )
        return gates.sanity(planted, self._settings)

    def _keeps_order(self, slot: Slot) -> bool:
        """Whether no position reads a later one through the seed, where those of the network never do."""
        if self._settings.reads_later or not (directions := self._probe.directions()):
            return True
        silent = [p for p in slot.own() if not p.any()]  # at birth it adds nothing, and shows nothing
        try:
            with torch.no_grad(), drawn_apart(slot.track.number):
                for parameter in silent:
                    parameter.normal_(std=_LOUD)
            with slot.grafted():
                return all(map(self._probe.keeps, directions))
        finally:
            with torch.no_grad():
                for parameter in silent:
                    parameter.zero_()

    def reset(self, slot: Slot, owners: Owners) -> GateResult:
        """G5 of a slot whose seed was culled."""
        gc.collect()
        return gates.reset(
            is_plain=not isinstance(slot.place.module, KasminaLayer),
            is_unknown=not owners.of(slot.path),
            is_untrained=slot.learner is None,
            is_free=slot.is_free,
        )

    def is_isolated(self, slot: Slot) -> bool:
        """Whether the graphs behind the seed's output and its loss lead to no parameter but its own."""
        answers: list[Tensor] = []
        hook = slot.seed.seed.register_forward_hook(lambda _, __, output: answers.append(output))
        batch, number = self._probe.batches[0], slot.track.number
        try:
            # Its output is looked at while host parameters may want gradients, its loss as it will be made.
            with drawn_apart(number), at_rest(self._model, freeze=False), slot.grafted():
                self._probe.loss_of(batch)
            with drawn_apart(number), at_rest(self._model, slot.apart()), slot.grafted():
                loss = self._probe.loss_of(batch)
        finally:
            hook.remove()
        if not answers:  # it failed, which is counted
            return False
        return self._monitor.check_structure(slot.path, [answers[0], loss], slot.own())

    def _gains(self, slot: Slot) -> FloatArray:
        """Fall of the held-out loss by the seed with its full share, chunk by chunk."""
        with slot.absent():
            without = self._probe.losses()
        with slot.grafted():
            return without - self._probe.losses()

    def _trained(self, slot: Slot) -> GateResult:
        learner = slot.learner
        with slot.grafted():
            answers, _ = self._probe.seen_at(slot.seed.seed)
        zeros = sum(int((a == 0).sum()) for a in answers) / max(sum(a.numel() for a in answers), 1)
        self.is_isolated(slot)
        trained = gates.Trained(
            steps=learner.steps if learner else 0,
            faults=(int(learner.faults) if learner else 0) + int(slot.seed.faults),
            norm=_number(learner.norm if learner else None),
            host_norm=_number(slot.host_norm),
            zeros=zeros,
            gains=self._gains(slot),
            violations=self._monitor.violations.get(slot.path, 0),
        )
        looks = self._settings.patience_epochs * slot.track.rivals
        return gates.gradient_health(trained, self._settings, looks)

    def _blended(self, slot: Slot) -> GateResult:
        before, since = ([float(value) for value in window] for window in (slot.before, slot.since))
        return gates.stability(slot.share, before, since, int(slot.seed.faults), self._settings)

    def _shadowed(self, slot: Slot) -> GateResult:
        with slot.absent():
            plain, _ = self._probe.seen_at(slot.place.module)
        with slot.grafted():
            grown, _ = self._probe.seen_at(slot.place.module)
        (mean, spread), (shifted, widened) = moments(plain), moments(grown)
        shadowed = gates.Shadowed(
            keeps_shape=all(map(_alike, plain, grown)),
            shift=abs(shifted - mean) / spread if spread else None,
            ratio=widened / spread if spread else None,
            gains=self._gains(slot),
            is_isolated=self.is_isolated(slot),
        )
        return gates.interface(shadowed, self._settings)

    def _proved(self, slot: Slot) -> GateResult:
        host, layer = slot.seed.host, slot.seed
        here = slot.place.module

        def without() -> None:
            slot.place.module = host

        def grown() -> None:
            slot.place.module = layer

        off, on = self._probe.seconds(without, grown)
        slot.place.module = here
        live = np.array([float(gain) for gain in slot.gains])
        proved = gates.Proved(
            epochs=slot.track.epochs,
            gains=self._gains(slot),
            live=live,
            latency=on / off,
            faults=int(layer.faults),
            is_isolated=self.is_isolated(slot),
        )
        return gates.system_impact(proved, self._settings, self._settings.patience_epochs)


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _number(value: Tensor | None) -> float | None:
    """What was measured; None where nothing was, or no number."""
    return None if value is None or not math.isfinite(float(value)) else float(value)
