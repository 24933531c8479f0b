"""What can happen to the kernels of seeds, one value for each, with the sentence that people read."""

from __future__ import annotations

from dataclasses import dataclass

from esper.nissa.event import Event, Moment, Severity


@dataclass(frozen=True)
class KernelMadeHere(Event):
    """A blueprint that no worker can be told of.

    Attributes:
        blueprint: its name.
        why: half a sentence.
    """

    severity, by = Severity.PROBLEM, "tezzeret"
    says = (
        "Seeds of {blueprint} are made in the training process, without deadline and memory cap: {why}. A "
        "function at the top of a module that can be imported goes to a worker."
    )
    blueprint: str
    why: str


@dataclass(frozen=True)
class KernelRejected(Moment):
    """A stored kernel was not believed."""

    severity, by = Severity.PROBLEM, "tezzeret"
    says = "The stored kernel for {slot} was set aside and not used: {why}. It is made again."
    slot: str
    why: str


@dataclass(frozen=True)
class KernelsStopped(Moment):
    """Kernels could not be had again and again: the breaker of kernels is open."""

    severity, by = Severity.PROBLEM, "kasmina"
    says = (
        "No kernel could be had {failures} times in a row, so none is asked for in the next {seconds:g} s "
        "and nothing germinates. The last one: {why}"
    )
    failures: int
    seconds: float
    why: str


@dataclass(frozen=True)
class CompiledAsAWhole(Event):
    """What seeds cost where one program holds the whole network."""

    severity, by = Severity.PROBLEM, "kasmina"
    says = (
        "The network is compiled as a whole, so that torch compiles all of it again for a seed that is "
        "blended in, one that joins the network, and one that becomes a plain part of it; after so many "
        "programs as torch._dynamo.config.recompile_limit says it runs uncompiled. Compile its blocks "
        "instead (`for block in model.blocks: block.compile()`): then seeds compile nothing."
    )


@dataclass(frozen=True)
class ProgramsCounted(Moment):
    """What `torch.compile` has made while seeds were in the network, or learned beside it: here nothing.

    Attributes:
        count: of programs, for seeds or for the network itself.
    """

    severity, is_noted, is_recorded, by = Severity.DETAIL, False, False, "kasmina"
    says = "torch.compile made nothing in an epoch with a seed on its way."
    count: int


@dataclass(frozen=True)
class ProgramsMade(ProgramsCounted):
    """Training has waited for a compiler while a seed was on its way."""

    severity = Severity.NEWS
    says = "torch.compile made {count} program(s) in an epoch with a seed on its way."
