"""What a session was given and can use in part, or not at all."""

from __future__ import annotations

from dataclasses import dataclass

from esper.nissa.event import Event, Severity

_SHOWN = 4
"""How many changes one sentence names."""


@dataclass(frozen=True)
class NoStepHeard(Event):
    """Epochs have ended, and the optimizer has made no step that counts as one."""

    severity = Severity.PROBLEM
    optimizer: str
    inner: str
    """The attribute that holds an optimizer of its own, and its class; '' if there is none."""
    has_changed: bool = False
    """Whether the weights have changed all the same, as where a loop loads the mean of several clients."""

    @property
    def text(self) -> str:
        way = "Give esper.attach the optimizer whose step() the loop calls."
        if self.inner:
            way = f"It holds another one as {self.inner}: if the loop steps that one, give that instead."
        elif self.has_changed:
            way += (
                " Where the loop writes the weights itself, as with the mean of federated clients, let one "
                "do it: put `p - mean` into `p.grad` and call step() of an SGD with lr=1."
            )
        return (
            f"The step() of the given {self.optimizer} was not called since esper.attach, so nothing is "
            f"measured, saved or pruned. {way}"
        )


@dataclass(frozen=True)
class NetworkRebuilt(Event):
    """A script has put other layers into the network that a session holds."""

    severity = Severity.PROBLEM
    says = (
        "{name} is {now}, and was {then} when the network was looked at: it was rebuilt. Training goes on, "
        "and nothing is masked or cut any more. Build it before the run begins; or call finish() first, "
        "rebuild the network that it returns, and attach to that with another run_dir."
    )
    name: str
    then: str
    now: str
    """Its shape, or that it is gone."""


@dataclass(frozen=True)
class OptimizerReplaced(Event):
    """The optimizer that was given rests, and one that nobody gave trains the network."""

    severity = Severity.PROBLEM
    says = (
        "The given {given} rests, and another one ({other}) that was not given trains the network. Its steps "
        "count, and masks and cuts follow it; but its state is neither saved nor rolled back, and importance "
        "is what the steps of the given one have shown. Make both before the run begins, and give the later "
        "one as well, `scheduler=[...]`; or go on with the first, with other values in its `param_groups`."
    )
    given: str
    other: str


@dataclass(frozen=True)
class NothingSayable(Event):
    """The configuration of a network can say none of the cuts that are possible: they do not keep to it."""

    severity = Severity.PROBLEM
    says = (
        "The configuration of {model} can say no cut at all ({why}). So cuts do not keep to it: "
        "`from_pretrained` will not read the smaller network, and `esper.load(run_dir, model=fresh)` does. "
        "pruning.plan.configurable = true leaves everything whole instead."
    )
    model: str
    why: str


@dataclass(frozen=True)
class InNoOptimizer(Event):
    """Parameters of the network are trainable, and no optimizer that was given holds them."""

    severity = Severity.PROBLEM
    says = (
        "{count} trainable parameter(s) of the network (the first: {first}) are in no optimizer that was "
        "given. If nothing trains them, all is right. If another optimizer does, its state follows masks "
        "and cuts, but it is neither saved nor rolled back: give that one as well, `scheduler=[...]`."
    )
    count: int
    first: str


@dataclass(frozen=True)
class EarlierWeights(Event):
    """A script loads what it kept of the network, or its optimizer, from before a cut."""

    severity = Severity.PROBLEM
    says = (
        "load_state_dict was given what was kept before a cut ({name} is {then} there, {now} by now), so "
        "network and optimizer keep what they have. To end with the best weights, keep them anew after every "
        "mask and cut."
    )
    name: str
    then: str
    now: str


@dataclass(frozen=True)
class CopyNotGiven(Event):
    """A copy of the network is held by a module of the process that was not given."""

    severity = Severity.PROBLEM
    says = (
        "A module of this process ({holder}) holds a copy of the network, and is not among the given "
        "companions. If the loop only compares with it, all is right. If it averages into it or copies "
        "between the two, as with an EMA or a target network, give it as well, `companions=...`: else it "
        "keeps all its units, cuts wait for the end of the run, and a loop that begins with that after a "
        "cut fails."
    )
    holder: str


@dataclass(frozen=True)
class PlainCopyNotGiven(Event):
    """A list or dict of tensors that was not given is a copy of the network."""

    severity = Severity.PROBLEM
    says = (
        "A {what} of this process ({name}) holds tensors that are a copy of the network, and is not among "
        "the given companions. If the loop has only loaded from it, all is right. If it averages into it or "
        "computes with both, as for an EMA or a penalty on the distance, give it as well, `companions=...`: "
        "else it no longer fits after a cut, and the loop fails there or cuts wait for the end of the run."
    )
    what: str
    """`list` or `dict`."""
    name: str
    """What it is called, or how much it holds."""


@dataclass(frozen=True)
class TensorNotFollowed(Event):
    """A loop has put something into its copy of the network that is no part of a copy."""

    severity = Severity.PROBLEM
    says = (
        "In companion {number} the tensor {key!r} {why}. So masks and cuts do not reach it, and it need not "
        "fit the network after a cut. Training goes on. Keep there what was there when the run began: a "
        "tensor of its own, of the network's shape, for every name."
    )
    number: int
    key: str
    why: str


@dataclass(frozen=True)
class CompanionAtRest(Event):
    """The network was trained, and a copy of plain tensors is what it was."""

    severity = Severity.PROBLEM
    says = (
        "The network was trained, and the tensors that were given as companion {number} are what they were. "
        "If the loop does not average yet, or only compares with them, all is right. If it makes a new dict "
        "or list in every step (`ema = dict(...)`), that one is not followed, and does not fit after a cut: "
        "change the one that was given, `ema.update(...)` or `ema[:] = ...`."
    )
    number: int


@dataclass(frozen=True)
class CutWaits(Event):
    """A copy of the network that was not given follows it, and would not fit after a cut."""

    severity, by = Severity.PROBLEM, "kasmina"
    says = (
        "What is masked is cut when the run ends, and not before: a module of this process ({follower}) "
        "follows the network and is not among the given companions, so the loop would fail where it averages "
        "or copies between the two. Give it, `companions=...`, and it is masked and cut as well."
    )
    follower: str


@dataclass(frozen=True)
class CutWaitsForTensors(Event):
    """A loop computes with tensors that belong to the parameters, and they would not fit after a cut."""

    severity, by = Severity.PROBLEM, "kasmina"
    says = (
        "What is masked is cut when the run ends, and not before: a {what} of this process ({name}) holds "
        "tensors of the parameters' shapes, as for masks, an average of gradients or a penalty on a "
        "distance, and is not among the given companions, so the loop would fail where it computes with "
        "both. Give it, `companions=...`, made before the run begins, and it is masked and cut as well."
    )
    what: str
    """`list` or `dict`."""
    name: str
    """What it is called, or how much it holds."""


@dataclass(frozen=True)
class CutWaitsForRow(Event):
    """A loop computes with all parameters in one row, and that would not fit after a cut."""

    severity, by = Severity.PROBLEM, "kasmina"
    says = (
        "What is masked is cut when the run ends, and not before: a tensor of this process ({name}) holds as "
        "many numbers as all parameters together, and the loop computes with it, as with an average in one "
        "vector, so it would fail after a cut. Keep them as a list or dict of tensors and give that, "
        "`companions=...`, and it is masked and cut as well."
    )
    name: str
    """What it is called, or how much it holds."""


@dataclass(frozen=True)
class CutWaitsForHook(Event):
    """A hook on a gradient uses a tensor of the parameter's shape, and that would not fit after a cut."""

    severity, by = Severity.PROBLEM, "kasmina"
    says = (
        "What is masked is cut when the run ends, and not before: a hook on the gradient of {parameter} uses "
        "a tensor of its shape ({name}), which no cut reaches, so the backward pass would fail. Make that a "
        "buffer of the network and let `forward` multiply the weight by it, and it is cut as well."
    )
    parameter: str
    name: str
    """What the hook calls the tensor."""


@dataclass(frozen=True)
class ProbePartlyUsed(Event):
    """Held-out batches have sizes that the network cannot be asked with."""

    severity = Severity.PROBLEM
    says = (
        "{left_out} of the {given} held-out batches that were read have another size than `sample` along an "
        "axis that the code fixes, and are left out. Pad or crop them, or write the code for any size."
    )
    left_out: int
    given: int


@dataclass(frozen=True)
class TargetOutOfReach(Event):
    """More is asked for than the network's structure, its code and the settings let go."""

    severity = Severity.PROBLEM
    says = (
        "{target:.1%} of the {cost} are asked for, and at most {most:.1%} can go. {holds} Lower the target "
        "(pruning.target), or change what holds the rest; training goes on, and prunes what can go."
    )
    cost: str
    target: float
    most: float
    holds: str


@dataclass(frozen=True)
class BuiltOtherwise(Event):
    """A script that resumes a run builds optimizer or schedulers with other settings than it began with."""

    severity = Severity.PROBLEM
    changes: tuple[str, ...]
    """What is otherwise, in words."""

    @property
    def text(self) -> str:
        more = f" and {len(self.changes) - _SHOWN} more" if len(self.changes) > _SHOWN else ""
        return (
            f"Since the run began the script has changed what it builds: {', '.join(self.changes[:_SHOWN])}"
            f"{more}. That has no effect: the run goes on with what its checkpoint holds. To change it, set "
            "it after esper.attach, as in optimizer.param_groups[0]['lr'] (with scheduler.base_lrs) or "
            "scheduler.T_max."
        )


@dataclass(frozen=True)
class TargetLeftOut(Event):
    """The settings that a run is resumed with ask for no pruning, and those that it began with did."""

    severity = Severity.PROBLEM
    says = (
        "Nothing more is masked: the settings that were given ask for no pruning, and they take the place of "
        "all that the run began with, also of its target or stages. Say those in them as well, or give none."
    )


@dataclass(frozen=True)
class BeyondPlan(Event):
    """More epochs are trained than were said to be, as by a resumed loop that begins at 0 again."""

    severity = Severity.PROBLEM
    says = (
        "More epochs are trained than the {planned} that were planned, in which pruning has its time. A loop "
        "that resumes a run goes on where that stands, `while session.epoch < {planned}`, not at 0 again. If "
        "the training shall be longer, attach(epochs=...) says so."
    )
    planned: int
