"""What Esper takes for granted because nobody said it, each with the word that says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from esper.nissa.event import Event, Severity


@dataclass(frozen=True)
class LengthTaken(Event):
    """Nobody said how long the run is: its learning-rate schedule says it, or `epochs` are assumed."""

    says = "Pruning is planned for {epochs} {unit}, {source}; attach({keyword}=...) says otherwise."
    epochs: int
    source: str
    unit: str = "epochs"
    keyword: str = "epochs"


@dataclass(frozen=True)
class NoTarget(Event):
    """Nobody asked for pruning: there is no target, and stages are off."""

    says = (
        "Nothing is pruned: no target was given, and without one no unit goes. Training is saved and "
        "reported all the same. attach(target=0.5) removes half of the FLOPs; "
        "attach(config=dict(pruning=dict(staged=True))) follows the default stages, in small steps."
    )


@dataclass(frozen=True)
class DirectionTaken(Event):
    """Nobody said which way the metric goes: its name says that less is better, or says nothing."""

    says = "{which} {metric} counts as better, {why}; attach(higher_is_better={other}) says otherwise."
    metric: str
    which: str = "Less"
    why: str = "as the name says"
    other: bool = True

    @classmethod
    def of(cls, metric: str, *, is_named: bool) -> DirectionTaken:
        """What is taken, for a name that says that less is better, or for one that says nothing."""
        return (
            cls(metric) if is_named else cls(metric, "More", "as the name does not say that less is", False)
        )


@dataclass(frozen=True)
class MetricTaken(Event):
    """Nobody said by what changes are judged, and one metric is reported."""

    says = (
        "What is changed is judged by {metric}, {which} of which counts as better: it is what end_epoch "
        "reports, and attach named no metric=."
    )
    metric: str
    which: str


@dataclass(frozen=True)
class MetricUnclear(Event):
    """Nobody said by what masks are judged, and several metrics are reported."""

    severity = Severity.PROBLEM
    says = (
        "end_epoch is told {names}, and nobody said which of them masks are judged by: "
        "attach(metric=..., higher_is_better=...) does. Until then it is the loss on the probe."
    )
    names: str


@dataclass(frozen=True)
class ProbeDecides(Event):
    """Nobody said by what masks are judged, nor measured it until a mask was decided on."""

    says = (
        "Masks are judged by the loss on the probe from now on, as until epoch {epoch} nobody measured "
        "{metric}. To judge by something else, report it to end_epoch and name it, attach(metric=...)."
    )
    epoch: int
    metric: str
