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
class DirectionTaken(Event):
    """Nobody said which way the metric goes, and its name says that less is better."""

    says = "Less {metric} counts as better, as the name says; attach(higher_is_better=True) says otherwise."
    metric: str
