"""What a run tells of the promises that Esper makes about itself."""

from __future__ import annotations

from dataclasses import dataclass

from esper.nissa.event import Moment, Severity


@dataclass(frozen=True)
class PromiseBroken(Moment):
    """Something that Esper promises of itself is not kept: told once, until it is kept again.

    Attributes:
        promise: its name (`esper.report.Promise`).
        measured: what the run has measured, in the unit of `limit`.
        sentence: the number, the limit and what to do.
    """

    severity, is_recorded = Severity.PROBLEM, False
    says = "{sentence} Training goes on."
    promise: str
    measured: float
    limit: float
    sentence: str


@dataclass(frozen=True)
class PromiseKept(Moment):
    """A promise that was broken is kept again, and has been for some epochs."""

    is_recorded = False
    says = "Kept again: {sentence}"
    promise: str
    measured: float
    limit: float
    sentence: str
