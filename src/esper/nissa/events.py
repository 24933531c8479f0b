"""What can happen in a run, one value for each, with the sentence that people read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esper.nissa.event import Event, Moment, Severity

# --- Telemetry itself ---


@dataclass(frozen=True)
class SinkFailed(Event):
    """A sink of telemetry does not take what it is told."""

    severity = Severity.PROBLEM
    says = (
        "Telemetry to {sink} fails: {why}. Training goes on, and what it does not take may be lost; "
        "this is said once."
    )
    sink: str
    why: str


# --- What becomes of masks ---


@dataclass(frozen=True)
class Cut(Moment):
    """Masked units were cut: `fewer` is the share of parameters that went, `error` is from the proof."""

    kind, by = "cut", "kasmina"
    units: int
    fewer: float
    error: float

    @property
    def text(self) -> str:
        units = "unit" if self.units == 1 else "units"
        equal = f"equal to the masked network within {self.error:.1e}"
        return f"Cut {self.units} {units}: {self.fewer:.1%} fewer parameters, {equal}."


@dataclass(frozen=True)
class Judged(Moment):
    """Held-out data judged the mask that was still on trial when the run ended."""

    kind, by = "judged", "urabrask"
    says = (
        "{metric} was not measured often enough since the mask of epoch {masked_in}, so held-out data judged "
        "it when the run ended: {verdict}"
    )
    metric: str
    masked_in: int
    verdict: str


@dataclass(frozen=True)
class Refused(Moment):
    """The validator said no to a plan."""

    kind, by = "no_go", "urabrask"
    says = "Nothing was masked, the plan was refused: {reason}"
    reason: str


@dataclass(frozen=True)
class RefusedLive(Moment):
    """The network as it is by now does not bear the plan that its checkpoint bore."""

    kind, by = "no_go", "urabrask"
    says = "Nothing was masked, the weights have moved on since the plan was made: {objection}"
    objection: str


@dataclass(frozen=True)
class Skipped(Moment):
    """A cycle failed or was late; nothing is pruned by it."""

    severity, kind, by = Severity.PROBLEM, "skipped", "emrakul"
    says = "{reason}"
    reason: str


@dataclass(frozen=True)
class Idle(Moment):
    """After an epoch nothing is pruned, or not even looked for, which is no news."""

    severity, by, is_noted, is_recorded = Severity.DETAIL, "emrakul", False, False
    says = "{reason}"
    reason: str


@dataclass(frozen=True)
class TooEarly(Moment):
    """The first mask waits, because the network has not learned anything to rank units by; told once."""

    by = "emrakul"
    says = "No mask yet. {reason} The first one waits for more, as long as several still fit into the run."
    reason: str


@dataclass(frozen=True)
class AnalysisLate(Event):
    """An analysis goes on beside the next epoch."""

    says = (
        "An analysis takes longer than an epoch and the time that its end waits (analysis.max_wait_seconds); "
        "what it finds comes later."
    )


@dataclass(frozen=True)
class MaskWaits(Event):
    """A mask cannot be applied in an epoch without the metric."""

    severity = Severity.PROBLEM
    says = "A mask waits for an epoch in which {metric} is measured and the network is whole."
    metric: str


@dataclass(frozen=True)
class WaitedInVain(Event):
    """The run ended before such an epoch came."""

    severity = Severity.PROBLEM
    says = "When the run ended a mask was still waiting for an epoch with a metric: it was dropped."


@dataclass(frozen=True)
class CommitLost(Event):
    """After a resume, the mask that was to be applied is not what was committed."""

    severity = Severity.PROBLEM
    says = "A mask was waiting to be applied, and its commit does not verify: it was dropped."


@dataclass(frozen=True)
class CutUnmeasured(Event):
    """A mask that nothing has judged was cut, because nobody wanted it judged."""

    severity = Severity.PROBLEM
    says = "The mask of epoch {masked_in} was cut unmeasured: validation is switched off."
    masked_in: int


@dataclass(frozen=True)
class StaysMasked(Event):
    """The network's own code refuses a cut: of everything, or of `units` units in `groups`."""

    severity, by = Severity.PROBLEM, "kasmina"
    epoch: int
    refusal: str
    units: int = 0
    groups: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        some = f"{self.units} masked unit(s) in {', '.join(self.groups)}"
        return f"{some if self.groups else 'The masks'} of epoch {self.epoch} stay masks: {self.refusal}"


# --- Going back ---


@dataclass(frozen=True)
class FellByItself(Moment):
    """The metric fell in one epoch, and held-out data does not blame the mask on trial."""

    says = (
        "{drop} Held-out data does not show it beside what it showed before the mask, so the mask stays for "
        "another epoch: {verdict}"
    )
    drop: str
    verdict: str


@dataclass(frozen=True)
class LimitsRead(Event):
    """The limits of a rollback are read otherwise than they stand."""

    severity = Severity.PROBLEM
    says = "{reading}"
    reading: str


@dataclass(frozen=True)
class RolledBack(Moment):
    """What an epoch showed leads back: to a checkpoint, or only without masks if `to_step` is None."""

    severity, kind, is_act = Severity.PROBLEM, "rollback", True
    reason: str
    to_step: int | None

    @property
    def text(self) -> str:
        if self.to_step is None:
            back = "the masks that had not proved themselves yet were taken back exactly"
        else:
            back = f"everything went back to the verified checkpoint of step {self.to_step}"
        return f"{self.reason} Therefore {back}."


@dataclass(frozen=True)
class PassedOver(Event):
    """A resume took an older checkpoint than the newest, which is `aside` now, or None: where it was."""

    severity = Severity.PROBLEM
    rejection: str
    aside: str | None

    @property
    def text(self) -> str:
        kept = f". Nothing of it was deleted; it was set aside as {self.aside}" if self.aside else ""
        return f"A newer checkpoint was passed over: {self.rejection}{kept}"


# --- Measuring ---


@dataclass(frozen=True)
class TrackingFailed(Event):
    """Importance is measured no longer."""

    severity, by = Severity.PROBLEM, "importance"
    says = (
        "Importance tracking is off: {error} Training goes on. Units that were measured keep their scores; "
        "the others stay unmeasured, and nothing is pruned on that."
    )
    error: str


# --- Other processes ---


@dataclass(frozen=True)
class EmergencySaved(Moment):
    """The state was kept beside the run, as it was when something was noticed."""

    severity = Severity.PROBLEM
    says = (
        "Emergency: {why} The state of step {step} is being kept in {place}, from where it can be resumed; "
        "the checkpoints of the run are what they were."
    )
    why: str
    place: str
    step: int


@dataclass(frozen=True)
class EmergencyLost(Moment):
    """The state could not be kept."""

    severity = Severity.PROBLEM
    says = "Emergency: {why} The state of then could not be kept: {error} Training goes on."
    why: str
    error: str


# --- The run and its target ---


@dataclass(frozen=True)
class PruningOff(Event):
    """Nothing will be pruned, although it was asked for."""

    severity = Severity.PROBLEM
    says = "{why}"
    why: str


@dataclass(frozen=True)
class TargetMissed(Event):
    """Less went than was asked for: how much, and why."""

    severity = Severity.PROBLEM
    says = "{why}"
    why: str


@dataclass(frozen=True)
class NothingWent(Event):
    """Nothing was pruned from the first epoch to the last."""

    severity = Severity.PROBLEM
    says = "The target was missed: nothing of the {cost} went. {why}"
    cost: str
    why: str


@dataclass(frozen=True)
class LeftWhole(Event):
    """A group of units that the network's code does not let go."""

    says = "{group} was left whole: {why}"
    group: str
    why: str
    others: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What happened, with the names of a few of those that share the reason."""
        shown = ", ".join(self.others[:3]) + (" ..." if self.others[3:] else "")
        return super().text + (f" (So were {len(self.others)} more: {shown})" if self.others else "")

    @classmethod
    def of(cls, refused: Mapping[str, str]) -> list[LeftWhole]:
        """One event for all groups that stay for the same reason, by the name of the first."""
        alike: dict[str, list[str]] = {}
        for group, why in refused.items():
            alike.setdefault(why, []).append(group)
        return [cls(names[0], why, tuple(names[1:])) for why, names in alike.items()]


@dataclass(frozen=True)
class NotFaster(Event):
    """Fewer operations take as long."""

    says = "The cut network is not faster on this machine; what it saves is memory and FLOPs."


@dataclass(frozen=True)
class FormUnknown(Event):
    """A fresh instance of the user's class cannot be brought into the form of the finished network."""

    says = "{refusal} esper.load({run!r}) works all the same."
    refusal: str
    run: str


# --- Files ---


@dataclass(frozen=True)
class AuditReplaced(Event):
    """The audit of a run did not verify when the run went on: another one was begun in its place."""

    severity = Severity.PROBLEM
    aside: str
    problems: tuple[str, ...]

    @property
    def text(self) -> str:
        kept = f"set aside as {self.aside}" if self.aside else "gone"
        return (
            f"The audit of this run did not verify ({'; '.join(self.problems)}) and is {kept}. A new one "
            "begins here."
        )


@dataclass(frozen=True)
class NothingToSave(Event):
    """An epoch ended without one step."""

    says = "No optimizer step was made in epoch {epoch}, so there was nothing new to save."
    epoch: int


@dataclass(frozen=True)
class SaveFailed(Moment):
    """A checkpoint was not written; the next one is tried all the same."""

    severity = Severity.PROBLEM
    says = "A checkpoint was not saved: {reason}"
    reason: str


@dataclass(frozen=True)
class NotRemoved(Event):
    """Something that nobody needs takes up space."""

    severity = Severity.PROBLEM
    says = "What is no longer needed cannot be removed: {why}. Remove it by hand."
    why: str


@dataclass(frozen=True)
class SecretsLeft(Event):
    """A copy of the key ring lies where a process was killed."""

    severity = Severity.PROBLEM
    says = (
        "A copy of the key ring that a killed process left cannot be removed ({why}). Remove it: whoever "
        "reads it can forge checkpoints."
    )
    why: str


@dataclass(frozen=True)
class Undigested(Event):
    """A network that was saved before digests were kept beside it."""

    severity = Severity.PROBLEM
    says = (
        "{directory} was saved by an earlier Esper, without digests: nobody can tell whether its bytes are "
        "those that were saved. Save it again."
    )
    directory: str
