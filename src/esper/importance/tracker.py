"""Importance tracking during training: weight x gradient per unit, sampled before optimizer steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from esper.anatomy.structure import Anatomy, FloatArray, IntArray
from esper.errors import EsperError
from esper.importance.accumulate import UnitReducer, by_anatomy_name
from esper.importance.governor import OverheadGovernor
from esper.importance.settings import ImportanceSettings
from esper.importance.statistics import UnitStatistics
from esper.importance.stopwatch import stopwatch_for
from esper.leyline import Clock

_LOG = logging.getLogger(__name__)
_FORESEEN = (RuntimeError, ValueError, TypeError, LookupError, EsperError)


class ImportanceTracker:
    """Measures every unit's first-order effect on the loss while the network trains.

    The sum over a unit's consumer columns of weight x gradient equals the sum over batch and positions of
    activation x gradient, so parameters and gradients are all that is read, before sampled optimizer steps,
    on the device and without waiting for it. Gradients are seen as the optimizer sees them: accumulated,
    clipped and unscaled. Steps with a gradient that is not finite are not counted. A unit with a consumer
    that this optimizer does not train is never measured. Under an optimizer that takes a closure, gradients
    are those of the step before.

    Tracking starts at once and ends with `detach`. If it fails it switches itself off, keeps the error in
    `failure` and reports it once; training goes on.

    Args:
        anatomy: The network's units.
        named_parameters: The network's parameters by name, as `dict(model.named_parameters())`.
        optimizer: The one whose steps are watched.
        settings: Sampling and what counts as measured.
        clock: Monotonic time in seconds, for the overhead governor.
        report: Called with one paragraph if tracking fails.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        named_parameters: Mapping[str, Tensor],
        optimizer: Optimizer,
        settings: ImportanceSettings | None = None,
        clock: Clock = time.perf_counter,
        report: Callable[[str], None] = _LOG.warning,
    ) -> None:
        self._settings = settings or ImportanceSettings()
        self._optimizer = optimizer
        self._report = report
        self._hook: RemovableHandle | None = None
        self._failure: Exception | None = None
        self._bind(anatomy, named_parameters)
        self._statistics = UnitStatistics.empty(anatomy.num_units, self._device)
        self._stopwatch = stopwatch_for(self._device, clock)
        self._governor = OverheadGovernor(
            self._settings.overhead_fraction, clock, self._settings.max_stride, self._settings.stride
        )
        self.attach()

    @property
    def failure(self) -> Exception | None:
        """The error that ended tracking, or None."""
        return self._failure

    @property
    def num_units(self) -> int:
        """Units of the network that is tracked."""
        return self._num_units

    @property
    def stride(self) -> int:
        """One step in this many is sampled at present."""
        return self._governor.stride

    @property
    def overhead_share(self) -> float:
        """The measured share of the training time that tracking took so far; NaN before the second step."""
        return self._governor.share

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

    def absolute_taylor(self) -> FloatArray:
        """Mean absolute first-order change of the loss without each unit: shape [units], NaN unmeasured."""
        return self._statistics.absolute_taylor(*self._limits)

    def state(self) -> dict[str, Tensor]:
        """What was measured, as plain tensors for a checkpoint."""
        return self._statistics.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from `state`.

        Raises:
            EvidenceError: It belongs to another network; the present statistics stay.
        """
        self._statistics = UnitStatistics.from_state(state, self._num_units, self._device)

    def rebind(self, anatomy: Anatomy, named_parameters: Mapping[str, Tensor], survivors: IntArray) -> None:
        """Follows the network through a cut, and keeps what is known of the units that are left.

        Args:
            anatomy: Of the cut network.
            named_parameters: Of the cut network, in the same optimizer.
            survivors: For every old unit its new number, or -1: shape [old units].
        """
        statistics = self._statistics.select(survivors, anatomy.num_units)
        self._bind(anatomy, named_parameters)
        self._statistics = statistics

    @property
    def _limits(self) -> tuple[float, int, int]:
        settings = self._settings
        return settings.momentum, settings.min_importance_samples, settings.min_sampled_steps

    def _bind(self, anatomy: Anatomy, named_parameters: Mapping[str, Tensor]) -> None:
        trained = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        parameters = by_anatomy_name(anatomy, named_parameters)
        parameters = {n: p for n, p in parameters.items() if id(p) in trained and p.requires_grad}
        reducer = UnitReducer(anatomy, ("consumer",))
        self._num_units = anatomy.num_units
        self._reducer = reducer
        self._parameters = {name: parameters[name] for name in reducer.tensors if name in parameters}
        self._device = next((p.device for p in self._parameters.values()), torch.device("cpu"))
        self._is_trained = reducer.covered(self._parameters.keys())
        self._taking_part: dict[frozenset[str], Tensor] = {}

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

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self.detach()
        self._report(
            f"Importance tracking is off: {type(error).__name__}: {error} Training goes on. Units "
            "that were measured keep their scores; the others stay unmeasured, and nothing is pruned on that."
        )

    @torch.no_grad()
    def _sample(self) -> None:
        gradients = {n: p.grad for n, p in self._parameters.items() if p.grad is not None}
        if not gradients:
            return

        def product(name: str) -> Tensor | None:
            gradient = gradients.get(name)
            if gradient is None:
                return None
            dense = gradient.to_dense() if gradient.is_sparse else gradient
            weight = self._parameters[name].detach()
            return (
                weight * dense if weight.dtype in (torch.float32, torch.float64) else weight.float() * dense
            )

        sums = self._reducer.sum(product, self._device)
        scale, is_step = _scaler_state(self._optimizer, sums)
        self._statistics.update(
            sums * scale,
            self._units_taking_part(frozenset(gradients)),
            is_step,
            self._settings.momentum,
            self._governor.stride,
        )

    def _units_taking_part(self, names: frozenset[str]) -> Tensor:
        """1 for units whose consumers are all trained and not all without gradient: float32 [units]."""
        if names not in self._taking_part:
            if len(self._taking_part) >= 64:  # a mixture of experts can show a new pattern at every step
                self._taking_part.clear()
            units = self._is_trained & self._reducer.touched(names)
            self._taking_part[names] = torch.from_numpy(units).to(device=self._device, dtype=torch.float32)
        return self._taking_part[names]


def _scaler_state(optimizer: Optimizer, like: Tensor) -> tuple[Tensor, Tensor]:
    """What to multiply gradients by, and whether the step will be made: two scalars that stay on the device.

    Fused optimizers unscale inside their kernel and skip the step there; `GradScaler` leaves them the scale
    and the verdict as attributes for the time of the call. Others are only called with unscaled, finite
    gradients.
    """
    one = torch.ones((), dtype=like.dtype, device=like.device)
    scale, found_inf = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
    inverse = one if scale is None else scale.to(one).reciprocal()
    return inverse, one if found_inf is None else (found_inf.to(one) == 0).to(one.dtype).reshape(())
