"""What a training script reports: checked, and kept until the period ends in which it was measured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from esper.errors import ConfigError
from esper.nissa import Event, assumed
from esper.session.log import RunLog
from esper.session.metric_names import deciding_one, direction_of
from esper.session.terms import Terms

Metric = float | Callable[[], float] | None
"""What a metric is, or a function that measures it when it is asked for; None: nobody measured it."""

FROM_PROBE = "probe_loss"
"""The loss on the held-out batches that a run was given: measured here, wherever decisions are made by it."""

_USUAL = "accuracy"
"""What decides where nobody says it, if it is reported."""


class Metrics:
    """The metrics of the period that has not ended yet, and which of them decides where nobody said it.

    Args:
        terms: of the run.
        log: what was reported until now, and who is told.
        probe_loss: measures the network on its held-out batches; None: it has none, or another rank does it.
        chosen: is called when a metric has been chosen.
    """

    def __init__(
        self,
        terms: Terms,
        log: RunLog,
        probe_loss: Callable[[], float] | None = None,
        chosen: Callable[[], None] = lambda: None,
    ) -> None:
        self._terms, self._log = terms, log
        self._probe_loss, self._chosen = probe_loss, chosen
        self._numbers: dict[str, float] = {}
        self._step = -1

    def report(self, metrics: Mapping[str, Metric], step: int, *, is_over: bool) -> None:
        """Takes what was measured at `step`; what was reported before under the same names counts no more.

        Args:
            metrics: by name.
            step: optimizer steps made.
            is_over: whether the period ends; otherwise functions are not asked.

        Raises:
            ConfigError: something is no number, or what decisions are made by, as was said, is missing beside
                others.
        """
        self._choose({name for name, metric in metrics.items() if metric is not None})
        numbers = self._checked({n: m for n, m in metrics.items() if is_over or not callable(m)})
        if numbers:
            self._numbers |= numbers
            self._step = step

    def take(self, step: int, *, is_awaited: bool) -> tuple[dict[str, float], int | None]:
        """What was reported for the period that ends at `step`, and at which step unless at this one.

        Args:
            step: optimizer steps made.
            is_awaited: whether a mask is, or will soon be, there that is judged by a metric. If nobody has
                said or measured one until then, it is the loss on the probe.
        """
        numbers, measured = self._numbers, self._step
        self.forget()
        if self._probe_loss is not None:
            if is_awaited and self._is_open and self._terms.metric not in numbers:
                self._take(FROM_PROBE, assumed.ProbeDecides(self._log.epoch, self._terms.metric))
            if self._terms.metric == FROM_PROBE:
                numbers[FROM_PROBE] = self._probe_loss()
        return numbers, measured if 0 <= measured < step else None

    def forget(self) -> None:
        """Training goes on elsewhere."""
        self._numbers, self._step = {}, -1

    def state(self) -> dict[str, Any]:
        return {"numbers": dict(self._numbers), "step": self._step}

    def check(self, state: Mapping[str, Any]) -> None:
        """Whatever was measured then was measured."""

    def load(self, state: Mapping[str, Any]) -> None:
        self._numbers, self._step = dict(state["numbers"]), state["step"]

    @property
    def is_empty(self) -> bool:
        return not self._numbers

    @property
    def _is_open(self) -> bool:
        """Whether nobody has said what decisions are made by, nor measured what they are made by now."""
        name = self._terms.metric
        return not self._terms.is_metric_said and not any(name in row.metrics for row in self._log.epochs)

    def _choose(self, reported: Collection[str]) -> None:
        """Lets decisions be made by what is reported, where nothing else was said or measured."""
        if not self._is_open or self._terms.metric in reported:
            return
        if one := deciding_one(reported):
            self._take(one, assumed.MetricTaken(one, "less" if direction_of(one) is False else "more"))
        elif one is None and self._probe_loss is not None and self._terms.config.pruning.is_enabled:
            self._log.tell(assumed.MetricUnclear(", ".join(sorted(reported))))

    def _take(self, metric: str, why: Event) -> None:
        self._terms.metric, self._terms.higher_is_better = metric, direction_of(metric) is not False
        self._chosen()
        self._log.tell(why)

    def _checked(self, metrics: Mapping[str, Metric]) -> dict[str, float]:
        name, others = self._terms.metric, ", ".join(metrics.keys() - {"loss"})
        says = self._terms.pace.says
        if others and name not in metrics and self._terms.is_metric_said:
            text = (
                f"end_epoch was told {others}, and attach(metric={name!r}) says that decisions are made by "
                f"{name}. Call session.end_epoch({name}=...), or {name}=None in an epoch in which nobody "
                "measures it. Nothing was changed."
            )
            raise ConfigError(says(text))
        values = {key: value() if callable(value) else value for key, value in metrics.items()}
        try:
            return {key: float(value) for key, value in values.items() if value is not None}
        except (TypeError, ValueError, RuntimeError) as error:
            text = (
                f"end_epoch was told something that is no single number: {error}. Give every metric as one "
                "number, such as its mean. Nothing was changed."
            )
            raise ConfigError(says(text)) from error


def check_direction(given: object) -> None:
    """What `higher_is_better` may be.

    Raises:
        ConfigError: it is neither True nor False nor None.
    """
    if given is not None and not isinstance(given, bool):
        raise ConfigError(
            f"higher_is_better={given!r} is neither True nor False. Nothing was changed. Give True where "
            "more of the metric is better, False where less is, or leave it out where its name says so."
        )


def decided_by(metric: str | None, higher_is_better: bool | None) -> tuple[str, bool, bool]:
    """What decides by what a script has said of it: its name, whether more is better, whether it was said."""
    name, is_said = metric or _USUAL, metric is not None or higher_is_better is not None
    return name, (direction_of(name) if higher_is_better is None else higher_is_better) is not False, is_said
