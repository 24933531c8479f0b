"""What becomes of a mask: one table of states and events, and the memory of the mask that is under way.

Theory of operation. At most one mask is under way at a time, because what a mask costs is only known as long
as nothing else changes. Its way through a run:

- A cycle accepts a plan about a *checkpoint* and commits it there. From then on it is PENDING. Nothing is
  applied to a network that nobody has measured, or nobody could say afterwards what the mask has cost: it
  waits for an epoch with a metric, however many end without one.
- In that epoch it is measured once more, on the *live* weights. Do they bear it, it is applied and ON_TRIAL;
  otherwise it is dropped.
- On trial it is watched. An epoch without a metric shows nothing, neither good nor bad. Enough epochs within
  the limits (more of them on probation), and it has proved itself: it is cut, or stays a mask until a cut is
  worth it. It is no longer under way then, and the next analysis may begin.
- A `Trigger` takes it back. How far is a table of its own (`rollback.strategy_for`): the mask alone, exactly;
  the checkpoint before it; one further back that was good; the one from before all pruning.
- Training goes back to a checkpoint: a mask that was on trial there is on trial again, and a decision that
  was pending there is made anew. How often masks were taken back is not forgotten by going back.
- The run ends: nobody can wait any longer, so a mask on trial is measured on the spot, against what the same
  data showed before it, and then cut or taken back.

Two rules make the table safe to read. (1) The state changes before the action is carried out, so that an
action that fails is not tried for ever. (2) What is not in the table cannot happen; if it does, it is a bug,
and `Trial.happen` raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from torch import Tensor

from esper.arrays import BoolArray
from esper.checkpoint import LEAVES
from esper.emrakul.rollback import (
    Baseline,
    EpochRecord,
    RollbackReason,
    Strategy,
    Trigger,
    has_settled,
    should_roll_back,
    strategy_for,
)
from esper.emrakul.settings import RollbackSettings
from esper.errors import IllegalTransitionError
from esper.heap import Own
from esper.leyline import decode, encode
from esper.urabrask import Measurement


class MaskState(StrEnum):
    """How far the mask that is under way has come."""

    NONE = "none"
    """No mask is under way."""
    PENDING = "pending"
    """Accepted about a checkpoint, not applied yet."""
    ON_TRIAL = "on_trial"
    """Applied, and watched."""


class MaskEvent(StrEnum):
    """What can happen to it, beside the triggers that take it back."""

    ACCEPTED = "accepted"
    """A cycle has accepted and committed it."""
    UNMEASURED = "unmeasured"
    """An epoch has ended without a metric."""
    CONFIRMED = "confirmed"
    """The live weights bear it."""
    REFUSED = "refused"
    """They do not."""
    WITHIN_LIMITS = "within_limits"
    """An epoch was good, and more have to follow."""
    PROVED = "proved"
    """Enough epochs were good."""
    ABANDONED = "abandoned"
    """Training went back to before it could be applied, or its commit cannot be read."""
    RUN_ENDED = "run_ended"
    """There will be no further epoch."""


class Action(StrEnum):
    """What is to be done about it."""

    WAIT = "wait"
    APPLY = "apply"
    DROP = "drop"
    CUT = "cut"
    TAKE_BACK = "take_back"
    FORGET = "forget"
    JUDGE = "judge"


Event = MaskEvent | Trigger

_TAKEN_BACK: Mapping[Event, tuple[MaskState, Action]] = dict.fromkeys(
    Trigger, (MaskState.NONE, Action.TAKE_BACK)
)

TABLE: Mapping[MaskState, Mapping[Event, tuple[MaskState, Action]]] = {
    MaskState.NONE: {
        MaskEvent.ACCEPTED: (MaskState.PENDING, Action.WAIT),
        MaskEvent.RUN_ENDED: (MaskState.NONE, Action.CUT),
    },
    MaskState.PENDING: {
        MaskEvent.UNMEASURED: (MaskState.PENDING, Action.WAIT),
        MaskEvent.CONFIRMED: (MaskState.ON_TRIAL, Action.APPLY),
        MaskEvent.REFUSED: (MaskState.NONE, Action.DROP),
        MaskEvent.ABANDONED: (MaskState.NONE, Action.FORGET),
        MaskEvent.RUN_ENDED: (MaskState.NONE, Action.CUT),  # of what was masked before
    },
    MaskState.ON_TRIAL: {
        MaskEvent.UNMEASURED: (MaskState.ON_TRIAL, Action.WAIT),
        MaskEvent.WITHIN_LIMITS: (MaskState.ON_TRIAL, Action.WAIT),
        MaskEvent.PROVED: (MaskState.NONE, Action.CUT),
        **_TAKEN_BACK,
        MaskEvent.RUN_ENDED: (MaskState.ON_TRIAL, Action.JUDGE),
    },
}
"""For every state what may happen there, the state after it, and what is to be done."""


@dataclass(frozen=True, eq=False)
class Watch:
    """A mask on trial, and what was before it.

    Attributes:
        baseline: the epochs before.
        epoch: the one at whose end it was applied.
        is_on_probation: it has to survive longer.
        base_step: of the last checkpoint without it.
        settled: units that were masked before and had proved themselves.
        before: what held-out data showed just before it was applied; None if nothing was measured.
        changes: what was added to weights when it was applied, by name; goes back with it.
        leeway: how many times the limits of the validator it may cost, as when it was applied.
    """

    baseline: Baseline
    epoch: int
    is_on_probation: bool
    base_step: int
    settled: tuple[int, ...] = ()
    before: Measurement | None = None
    changes: Mapping[str, Tensor] = field(default_factory=dict)
    leeway: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "changes", Own(self.changes))

    def since(self, records: Sequence[EpochRecord]) -> list[EpochRecord]:
        """The epochs that have seen the mask."""
        return [record for record in records if record.epoch > self.epoch]


@dataclass
class Setbacks:
    """What is remembered of masks even when training goes back.

    Attributes:
        rollbacks: how often masks were taken back since one last proved itself.
    """

    rollbacks: int = 0

    def state(self) -> dict[str, int]:
        """All of it."""
        return {"rollbacks": self.rollbacks}

    def check(self, state: Mapping[str, int]) -> None:
        """Every count fits."""

    def load(self, state: Mapping[str, int]) -> None:
        """Goes on counting."""
        self.rollbacks = state["rollbacks"]


@dataclass
class Trial:
    """The mask that is under way.

    Attributes:
        mask: how far it has come.
        pending_step: of the checkpoint beside which it was committed, while it is pending.
        watch: what is known of it, while it is on trial.
        setbacks: how often masks were taken back.
    """

    mask: MaskState = MaskState.NONE
    pending_step: int = -1
    watch: Watch | None = None
    setbacks: Setbacks = field(default_factory=Setbacks)

    @property
    def base_step(self) -> int:
        """The step of the last checkpoint without the mask on trial; -1 where none is."""
        return -1 if self.watch is None else self.watch.base_step

    def went_back(self) -> None:
        """Training is at a checkpoint again, whose state was loaded; what was pending is decided anew."""
        if self.mask is MaskState.PENDING:
            self.happen(MaskEvent.ABANDONED)

    def happen(self, event: Event) -> Action:
        """Moves on to the next state and says what is to be done.

        Raises:
            IllegalTransitionError: the event cannot happen in this state.
        """
        if event not in TABLE[self.mask]:
            possible = ", ".join(TABLE[self.mask])
            raise IllegalTransitionError(
                f"A mask in the state {self.mask.value!r} cannot be {event.value!r}; possible are: "
                f"{possible}. This is a bug in Esper: please report it with what `esper audit show` says."
            )
        self.mask, action = TABLE[self.mask][event]
        if self.mask is not MaskState.ON_TRIAL:
            self.watch = None
        if self.mask is not MaskState.PENDING:
            self.pending_step = -1
        if event is MaskEvent.PROVED:
            self.setbacks.rollbacks = 0
        if isinstance(event, Trigger):
            self.setbacks.rollbacks += 1
        return action

    def event(
        self, records: Sequence[EpochRecord], settings: RollbackSettings, *, is_measured: bool
    ) -> MaskEvent | RollbackReason:
        """What the epoch that has just ended shows of a mask on trial: why it must go, or how it stands."""
        watch = self.watch
        if watch is None:
            raise IllegalTransitionError("No mask is on trial, so no epoch shows anything of one.")
        history = watch.since(records)
        reason = should_roll_back(history, watch.baseline, settings)
        if reason is not None:
            return reason
        if has_settled(history, watch.baseline, settings, is_on_probation=watch.is_on_probation):
            return MaskEvent.PROVED
        return MaskEvent.WITHIN_LIMITS if is_measured else MaskEvent.UNMEASURED

    def way_back(self, reason: RollbackReason, attempts: int | None = None) -> Strategy:
        """How far to go back for this reason; counted when it happens.

        Args:
            reason: why.
            attempts: earlier ones in a row; None: as many as were counted.
        """
        return strategy_for(reason, self.setbacks.rollbacks if attempts is None else attempts)

    def settled(self, keep: BoolArray) -> BoolArray:
        """A present mask without what is on trial: the units that stay masked when that is taken back."""
        if self.watch is None:
            return keep.copy()
        settled = np.ones_like(keep)
        settled[list(self.watch.settled)] = False
        return settled

    def state(self) -> dict[str, Any]:
        """All of it, as plain values, arrays and tensors."""
        data = {"state": self.mask.value, "pending_step": self.pending_step}
        return {**data, "watch": None if self.watch is None else encode(self.watch, leaves=LEAVES)}

    def check(self, state: Mapping[str, Any]) -> None:
        """What is under way in one process fits every other."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on with the mask that was under way then."""
        stored = state["watch"]
        usual = MaskState.ON_TRIAL if stored else MaskState.NONE  # older runs do not say it
        self.mask = MaskState(state.get("state", usual))
        self.pending_step = state.get("pending_step", -1)
        self.watch = None if stored is None else decode(Watch, stored, leaves=LEAVES)
