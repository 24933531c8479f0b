"""What the kinds of events in a file mean to a report, for readers that have only their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from esper.nissa.event import Event, MarkKind, Moment, kind_of
from esper.nissa.seed_events import OfSeed


def _classes(above: type[Event] = Event) -> Iterator[type[Event]]:
    """Every event that can happen: the door of this part imports all of them before it imports this file."""
    for event in above.__subclasses__():
        yield event
        yield from _classes(event)


MARKS: Mapping[str, MarkKind] = {
    kind_of(event): event.kind for event in _classes() if issubclass(event, Moment) and event.kind is not None
}
"""The mark in the picture of a run that an event makes, by the name of its class in files."""

NOTED: frozenset[str] = frozenset(
    kind_of(event) for event in _classes() if event.is_noted and kind_of(event) not in MARKS
)
"""Those that make a note instead."""

OF_SEEDS: frozenset[str] = frozenset(kind_of(event) for event in _classes() if issubclass(event, OfSeed))
"""Those that are a step of a seed."""
