"""What Esper takes for granted because nobody said it, each with the word that says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from esper.nissa.event import Event


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
