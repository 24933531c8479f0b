"""What is told of the metric that decides, and of a network that makes no numbers."""

from __future__ import annotations

from dataclasses import dataclass

from esper.nissa.event import Event, Moment, Severity


@dataclass(frozen=True)
class MetricNotYet(Event):
    """Epochs have reported a loss, and what masks are judged by was not among it."""

    severity = Severity.PROBLEM
    says = (
        "{epochs} epochs have reported a loss and no {metric}, and nothing is masked before that is "
        "measured. Give it to end_epoch, or say by what to judge: attach(metric=..., higher_is_better=...)."
    )
    epochs: int
    metric: str


@dataclass(frozen=True)
class NotFinite(Moment):
    """The metric was nan or infinite, and so is the network."""

    severity = Severity.PROBLEM
    says = (
        "{metric} is {value}; nothing is pruned on that. Training goes on, and the last checkpoint from "
        "before is kept."
    )
    metric: str
    value: float


@dataclass(frozen=True)
class WeightsNotFinite(Event):
    """The network has diverged, whatever the metric says."""

    severity = Severity.PROBLEM
    says = (
        "{name} holds nan or infinite values, so the network is broken, and nothing is pruned. Training goes "
        "on, and the last checkpoint from before is kept: session.rollback(step) goes back to it. A smaller "
        "learning rate, or gradients that are clipped, keep it from happening again."
    )
    name: str


@dataclass(frozen=True)
class TakenAsUnmeasured(Event):
    """The metric was nan, and the network is sound."""

    severity = Severity.PROBLEM
    says = (
        "{metric} was nan while the network makes numbers of held-out data, so it is taken as not measured: "
        "decisions wait for an epoch in which it is. `end_epoch({metric}=None)` says so without a warning."
    )
    metric: str
