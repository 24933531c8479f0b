"""Importance tracking during training: the one object that measures, remembers and saves."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.cost import stopwatch_for
from esper.errors import EsperError, EvidenceError
from esper.importance.elements import ELEMENTS, ElementTracking, elements_for, tracking_after_cut
from esper.importance.history import UnitHistory
from esper.importance.phases import TrainingPhase
from esper.importance.products import StepProducts
from esper.importance.settings import ImportanceSettings
from esper.importance.statistics import UnitStatistics
from esper.importance.tracker.governor import OverheadGovernor
from esper.importance.tracker.tracked import HISTORY, TrackedEvidence, part_of
from esper.leyline import Clock
from esper.nissa import LOGGER, Sink, events

_FORESEEN = (RuntimeError, ValueError, TypeError, LookupError, EsperError)
_SAMPLING = "sampling"


class ImportanceTracker:
    """Measures every unit's effect on the loss while the network trains, and remembers it over epochs.

    The sum over a unit's consumer columns of weight x gradient equals the sum over batch and positions of
    activation x gradient, so parameters and gradients are all that is read, before sampled optimizer steps,
    on the device and without waiting for it. Gradients are seen as the optimizer sees them: accumulated,
    clipped and unscaled. Steps with a gradient that is not finite are not counted. A unit with a parameter
    that this optimizer does not train is never measured. Under an optimizer that takes a closure, gradients
    are those of the step before.

    Tracking starts at once and ends with `detach`. If it fails it switches itself off, keeps the error in
    `failure` and tells it once; training goes on.

    Args:
        anatomy: The network's units.
        named_parameters: The network's parameters by name, as `dict(model.named_parameters())`.
        optimizer: The one whose steps are watched.
        settings: Sampling and what counts as measured.
        clock: Monotonic time in seconds, for the overhead governor.
        sink: Told if tracking fails.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        named_parameters: Mapping[str, Tensor],
        optimizer: Optimizer,
        settings: ImportanceSettings | None = None,
        clock: Clock = time.perf_counter,
        sink: Sink = LOGGER,
    ) -> None:
        self._settings = settings or ImportanceSettings()
        self._optimizer = optimizer
        self._sink = sink
        self._hook: RemovableHandle | None = None
        self._failure: Exception | None = None
        self._anatomy = anatomy
        self._products = StepProducts(anatomy, named_parameters, optimizer)
        self._statistics = UnitStatistics.empty(anatomy.num_units, self._products.device)
        self._elements = elements_for(self._products, self._settings)
        self.history = UnitHistory(
            anatomy.num_units, self._settings.history_epochs, self._settings.history_momentum
        )
        self._stopwatch = stopwatch_for(self._products.device, clock)
        self._governor = OverheadGovernor(
            self._settings.overhead_fraction, clock, self._settings.max_stride, self._settings.stride
        )
        if self._settings.is_enabled:
            self.attach()

    @property
    def failure(self) -> Exception | None:
        """The error that ended tracking, or None."""
        return self._failure

    @property
    def num_units(self) -> int:
        """Units of the network that is tracked."""
        return self._anatomy.num_units

    @property
    def stride(self) -> int:
        """One step in this many is sampled at present."""
        return self._governor.stride

    @property
    def overhead_share(self) -> float:
        """The measured share of the training time that tracking took so far; NaN before the second step."""
        return self._governor.share

    @property
    def elements(self) -> ElementTracking | None:
        """Scores of single elements, where `importance.backend` asks for them."""
        return self._elements

    @property
    def memory_bytes(self) -> int:
        """What is held for statistics, history and elements together."""
        elements = 0 if self._elements is None else self._elements.memory_bytes
        return self._statistics.memory_bytes + self.history.memory_bytes + elements

    def attach(self) -> None:
        """Watches the optimizer again after `detach`; twice is once."""
        if self._hook is None and self._failure is None:
            self._governor.pause()
            self._hook = self._optimizer.register_step_pre_hook(self._before_step)

    def detach(self) -> None:
        """Stops watching the optimizer; what was measured stays. Twice is once."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def taylor(self) -> FloatArray:
        """Root mean square of the loss's change without each unit, to first order: shape [units], or NaN."""
        return self._statistics.taylor(*self._limits)

    def fisher(self) -> FloatArray:
        """Mean of (weight x gradient)^2 summed over each unit's producers: shape [units], NaN unmeasured.

        What the second moments of an optimizer give at no cost, for optimizers that keep none.
        """
        return self._statistics.fisher(*self._limits)

    def end_epoch(self, epoch: int, keep: BoolArray | None = None) -> None:
        """Adds what is known at the end of an epoch to the history.

        Args:
            epoch: Its number.
            keep: Units that are left, shape [units]; masked ones are remembered as unmeasured.
        """
        known = self.fisher()
        self.history.add(epoch, known if keep is None else np.where(keep, known, np.nan))

    def evidence(self, phase: TrainingPhase) -> TrackedEvidence:
        """What is known now, for an analysis elsewhere, with the weights of the signals in this phase."""
        return TrackedEvidence.of(self._statistics, self.history, self._settings, phase)

    def state(self) -> dict[str, Tensor]:
        """Everything that tracking goes on from, as plain tensors for a checkpoint."""
        parts = {HISTORY: self.history.state()}
        if self._elements is not None:
            parts[ELEMENTS] = self._elements.state()
        named = {prefix + name: t for prefix, part in parts.items() for name, t in part.items()}
        return {**self._statistics.state(), **named, _SAMPLING: self._governor.state()}

    def check(self, state: Mapping[str, Tensor]) -> None:
        """Refuses what `load` could not go on from; what is known stays.

        Raises:
            EvidenceError: It belongs to another network or other settings.
        """
        self._read(state)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from `state`; sampling too goes on where it was.

        Raises:
            EvidenceError: See `check`; what is known stays.
        """
        # Everything is read before anything is replaced: a refusal leaves the tracker as it was.
        read = self._read(state)
        self._governor.load_state(state[_SAMPLING])
        self._statistics, self.history, self._elements = read

    def _read(
        self, state: Mapping[str, Tensor]
    ) -> tuple[UnitStatistics, UnitHistory, ElementTracking | None]:
        if _SAMPLING not in state:
            raise EvidenceError(
                f"This is no state of an importance tracker: it holds {sorted(state)} and no {_SAMPLING!r}. "
                "Start a new tracker; units stay unmeasured until it has seen enough."
            )
        statistics = UnitStatistics.from_state(state, self.num_units, self._products.device)
        history = UnitHistory(self.num_units, self._settings.history_epochs, self._settings.history_momentum)
        history.load_state(part_of(state, HISTORY))
        elements = elements_for(self._products, self._settings)
        if elements is not None:
            elements.load_state(part_of(state, ELEMENTS))
        return statistics, history, elements

    def rebind(self, anatomy: Anatomy, named_parameters: Mapping[str, Tensor], survivors: IntArray) -> None:
        """Follows the network through a cut, and keeps what is known of the units that are left.

        Args:
            anatomy: Of the cut network.
            named_parameters: Of the cut network, in the same optimizer.
            survivors: For every old unit its new number, or -1: shape [old units].
        """
        # All parts are carried over before the first is kept: a failure in between leaves the tracker whole.
        statistics = self._statistics.select(survivors, anatomy.num_units)
        history = self.history.select(survivors, anatomy.num_units)
        products = StepProducts(anatomy, named_parameters, self._optimizer)
        elements = tracking_after_cut(self._elements, self._anatomy, survivors, products)
        self._anatomy, self._products = anatomy, products
        self._statistics, self.history, self._elements = statistics, history, elements

    @property
    def _limits(self) -> tuple[float, int, int]:
        settings = self._settings
        return settings.momentum, settings.min_importance_samples, settings.min_sampled_steps

    def _before_step(self, *_: object) -> None:
        # The one place where tracking may fail: evidence is lost, and missing evidence only ever keeps
        # units alive. It must not cost the user's training, so the error becomes a value here instead of
        # leaving `optimizer.step`.
        try:
            if self._governor.is_due():
                self._stopwatch.start()
                self._sample()
                self._stopwatch.stop()
                for seconds in self._stopwatch.finished_seconds():
                    self._governor.charge(seconds)
        except _FORESEEN as error:
            self._fail(error)

    @torch.no_grad()
    def _sample(self) -> None:
        sums = self._products.sums()
        if sums is None:
            return
        self._statistics.update(sums, self._settings.momentum, self._governor.stride)
        if self._elements is not None:
            self._elements.sample(self._products.part, sums.is_taken)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self.detach()
        self._sink.emit(events.TrackingFailed(f"{type(error).__name__}: {error}"))
