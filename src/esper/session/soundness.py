"""Whether training goes on soundly: steps are heard, the network is of numbers, and nobody rebuilt it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from esper.anatomy.graph import is_foreign, named_tensors, sums_of_bits
from esper.kasmina import LiveNetwork
from esper.nissa import given_events, metric_events
from esper.session.acting import Acting
from esper.session.admission import inner_optimizer
from esper.session.log import RunLog
from esper.session.saving import LAST_FINITE, Saving
from esper.session.terms import Terms

_EARLY = 2
"""Epochs after which a metric that nobody has given is asked for."""


class Soundness:
    """Looks at the metric, at the weights, and for a step of the optimizer, when a period ends.

    Attributes:
        is_whole: whether both were numbers then, and the layers those that are known; else nothing is
            pruned.
    """

    def __init__(
        self, network: LiveNetwork, acting: Acting, saving: Saving, terms: Terms, log: RunLog
    ) -> None:
        self.is_whole = True
        self._network = network
        self._acting = acting
        self._saving = saving
        self._terms = terms
        self._log = log
        self._begun = _bits(network)

    def measured(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The same without a metric that is nan although the network is sound: nobody measured it then."""
        name = self._terms.metric
        if not math.isnan(numbers.get(name, 0.0)) or not self._acting.is_sound():
            return dict(numbers)
        self._log.tell(metric_events.TakenAsUnmeasured(name))
        return {key: value for key, value in numbers.items() if key != name}

    def end_epoch(self, numbers: Mapping[str, float]) -> bool:
        """Looks; returns whether the metric was measured, and means something."""
        if not self._log.progress.step:
            optimizer, has_changed = self._network.optimizer, self._begun != _bits(self._network)
            inner = inner_optimizer(optimizer)
            self._log.tell(given_events.NoStepHeard(type(optimizer).__name__, inner, has_changed))
        metric, rows = self._terms.metric, self._log.epochs
        value, has_other = numbers.get(metric), all(row.metrics.keys() == {"loss"} for row in rows)
        is_expected = self._terms.config.pruning.is_enabled and self._terms.is_metric_said
        if is_expected and value is None and len(rows) == _EARLY and has_other:
            self._log.tell(metric_events.MetricNotYet(_EARLY, metric))
        self.is_whole = True
        if value is not None and not math.isfinite(value):
            self.is_whole = False
            self._log.tell(metric_events.NotFinite(self._log.epoch, metric, value))
        elif broken := self._network.not_numbers():
            self.is_whole = False
            self._log.tell(metric_events.WeightsNotFinite(broken))
        elif other := rebuilt(self._network):
            self.is_whole = False
            self._log.tell(given_events.NetworkRebuilt(*other))
        return value is not None and self.is_whole

    def keep(self) -> None:
        """While something is no number, the last checkpoint from before stays, however many follow."""
        held = self._saving.is_held(LAST_FINITE)
        if self.is_whole and held:
            self._saving.release(LAST_FINITE)
        elif not self.is_whole and not held:
            self._saving.hold(LAST_FINITE)


def rebuilt(network: LiveNetwork) -> tuple[str, str, str] | None:
    """A parameter that a script has put another one in the place of: its name, its shape, and what is now."""
    own, seen = named_tensors(network.model), [info for info in network.anatomy.tensors if info.is_parameter]
    for name, shape in ((info.name, info.shape) for info in seen if not is_foreign(info.name)):
        now = tuple(own[name].shape) if name in own else "gone"
        if now != shape:
            return name, str(shape), str(now)
    return None


def _bits(network: LiveNetwork) -> list[int]:
    """Of every weight a number that is another one when the weight changes."""
    return sums_of_bits(network.model.parameters())
