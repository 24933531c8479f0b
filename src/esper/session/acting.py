"""Acts on the live network: measures a mask on it, applies it, takes it back, cuts it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from esper.anatomy.cut import Cut, refusal_of
from esper.arrays import BoolArray, IntArray
from esper.batches import HeldOut
from esper.emrakul.cycle import PendingMask
from esper.emrakul.plan import Plan, largest_version
from esper.errors import SurgeryError
from esper.importance.tracker import ImportanceTracker
from esper.kasmina import (
    LiveNetwork,
    Preview,
    UnitsCut,
    compared,
    measured,
    recalibrated,
)
from esper.nissa import events, progress
from esper.session.log import RunLog
from esper.session.saving import Saving
from esper.session.spending import Spending
from esper.session.terms import Terms
from esper.urabrask import Measurement, Verdict

_LOOKS_IN_A_CUT = 2
"""A cut is proven and looked at: together they take about so many times what the look alone takes."""


@dataclass(frozen=True, eq=False)
class Confirmed:
    """What the live weights say of a mask.

    Attributes:
        keep: the part of it that they bear: units that are left, shape [units].
        objection: why not even the smallest part may be applied; '' if this may.
        before: what held-out data shows without it; None if nobody measured.
        changes: what makes up for it in weights that read what goes, by name.
        statistics: running statistics of the network under it, by name.
        is_in_doubt: its mean is over the limit, and so few samples cannot rule out that it is within.
        gave_way: what the usual limits say against it, where wider ones hold; '' if they hold.
        standing: running statistics that it only moves; see `Preview.standing`.
    """

    keep: BoolArray
    objection: str = ""
    before: Measurement | None = None
    changes: Mapping[str, Tensor] = field(default_factory=dict)
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    is_in_doubt: bool = False
    gave_way: str = ""
    standing: Collection[str] | None = None


class Acting:
    """The hands of a session: everything that it does to the network, beside going back to a checkpoint.

    Attributes:
        uncut: why the last cut of this process did not go through, or not for everything; '' if it did.
    """

    def __init__(
        self,
        network: LiveNetwork,
        tracker: ImportanceTracker,
        saving: Saving,
        held_out: HeldOut | None,
        terms: Terms,
        log: RunLog,
        spending: Spending,
    ) -> None:
        self.uncut = ""
        self._network = network
        self._tracker = tracker
        self._saving = saving
        self._held_out = held_out
        self._terms = terms
        self._log = log
        self._spending = spending

    def confirm(self, mask: PendingMask, *, in_doubt: bool, is_last: bool = False) -> Confirmed:
        """Measures a mask on the weights as they are now.

        A plan that costs too much here is shrunk as the validator shrinks it. What that leaves undone a later
        step does; where none follows, the largest part that holds is looked for, with as many attempts.

        Args:
            mask: what was accepted about the checkpoint.
            in_doubt: take the smallest version if nobody can rule out that its cost is within the limit.
            is_last: whether no other mask will follow.
        """
        preview, masked = self._preview(), self._network.masks.keep
        leeway = mask.plan.leeway
        answers: list[Confirmed] = []

        def holds(version: Plan) -> bool:
            answers.append(self._confirm(preview, version.keep & masked, leeway))
            return not answers[-1].objection

        situation = self._terms.situation(self._network)
        attempts = self._terms.config.pruning.plan.max_attempts
        version = largest_version(mask.plan, situation, holds, attempts, is_last=is_last)
        keep = version.keep & masked
        answer = next(answer for answer in reversed(answers) if np.array_equal(answer.keep, keep))
        if answer.objection and in_doubt:
            return self._confirm(preview, answer.keep, leeway, in_doubt=True)
        return answer

    def _preview(self) -> Preview | None:
        """The network as it is now, to try masks on; None where there is nothing to measure with."""
        if self._held_out is None:
            return None
        reconstruct = self._terms.config.pruning.recovery.reconstruct
        return Preview(self._network, self._held_out, reconstruct=reconstruct)

    def _confirm(
        self, preview: Preview | None, keep: BoolArray, leeway: float, *, in_doubt: bool = False
    ) -> Confirmed:
        """Measures one mask; without validation nothing is an objection, and the rest is the same."""
        if preview is None:
            return Confirmed(keep)
        rules, gave_way = self._terms.config.validation, ""
        objection = "" if rules.validation == "none" else preview.confirm(keep, rules, in_doubt=in_doubt)
        if objection and leeway > 1:
            by_wide = preview.confirm(keep, rules.with_leeway(leeway), in_doubt=in_doubt)
            gave_way, objection = "" if by_wide else objection, by_wide
        masked = preview.under(keep)
        made = masked.changes, masked.statistics
        return Confirmed(keep, objection, preview.before, *made, in_doubt, gave_way, preview.standing)

    def apply(self, mask: Confirmed) -> None:
        """Masks units, gives what they carried to those that stay, and norms the statistics of both."""
        network = self._network
        self._spending.mask_begins()
        if not network.masks.num_masked:  # told with the first mask, not when the run has ended
            names = {value: name for name, value in network.named_parameters().items()}
            refusals = (refusal_of(optimizer, names) for optimizer in network.optimizers)
            if refusal := next(filter(None, refusals), ""):
                self._log.tell(events.StaysMasked(self._log.epoch, refusal))
        with recalibrated(network, self._held_out, standing=mask.standing, are_known=True):
            network.set_buffers(mask.statistics)
            network.adjust(mask.changes)
            network.mask(mask.keep)

    def rest(self) -> None:
        """Lets go of what the loop has."""
        self._spending.rest()

    def take_back(self, settled: BoolArray, changes: Mapping[str, Tensor]) -> None:
        """Brings units back exactly, all but those that `settled` masks; their zeros are forgotten."""
        network, tracker = self._network, self._tracker
        anatomy, masked = network.anatomy, network.masks.keep
        was_zero, is_zero = (~keep | anatomy.inside_removed(keep) for keep in (masked, settled))
        numbers = np.arange(anatomy.num_units)
        numbers[was_zero & ~is_zero] = -1
        with recalibrated(network, self._held_out):
            network.unmask(but=settled)
            tracker.rebind(network.anatomy, network.named_parameters(), numbers)
            network.adjust(changes, sign=-1)

    def judge(self, settled: BoolArray, before: Measurement, leeway: float = 1.0) -> tuple[Verdict, bool]:
        """The verdict about the mask that is applied, and whether its mean is within the limit and noise.

        Args:
            settled: the mask without what is judged, shape [units].
            before: what the same held-out data showed before it was applied.
            leeway: how many times the limits it may cost.

        Raises:
            ValueError: there is no held-out data.
        """
        if self._held_out is None:
            raise ValueError("nothing can be judged without held-out data")
        network, rules = self._network, self._terms.config.validation.with_leeway(leeway)
        after = Preview(network, self._held_out).before
        return compared(network.anatomy, (settled, network.masks.keep), (before, after), rules)

    def is_sound(self) -> bool:
        """Whether the network is made of numbers, and makes numbers of held-out data."""
        if self._network.not_numbers():
            return False
        if self._held_out is None or not self._held_out.validation:
            return True
        losses = measured(self._network, self._held_out).losses
        return losses is not None and bool(np.isfinite(losses).all())

    def cut(self, left: BoolArray | None = None) -> IntArray | None:
        """Cuts what is masked now, except for what `left` marks True.

        Returns:
            For every unit its new number or -1; None if nothing is masked, or the network refuses (it stays
            masked).
        """
        network, saving = self._network, self._saving
        masked, self.uncut = network.masks.num_masked, ""
        if masked == 0:
            return None
        _announce(self._log, masked, _LOOKS_IN_A_CUT * network.look_seconds)
        try:
            change = self._cut(left)
        except SurgeryError as refusal:
            self.uncut = str(refusal)
            self._log.tell(events.StaysMasked(self._log.epoch, str(refusal)))
            return None
        self._tracker.rebind(network.anatomy, network.named_parameters(), change.numbers)
        saving.release_masks(but=saving.last_step)
        self._tell_cut(change.cut, masked - network.masks.num_masked)
        return change.numbers

    def cut_if_worthwhile(self) -> None:
        """Cuts as much as leaves good widths, if that saves enough."""
        left = self._spending.worthwhile_cut()
        if left is not None:
            self.cut(left)

    def _cut(self, left: BoolArray | None) -> UnitsCut:
        """Cuts; where not all can go together, what can, and people are told of the rest."""
        network = self._network
        wanted = network.masks.keep if left is None else network.masks.keep | left
        try:
            return network.cut_masked(left)
        except SurgeryError as refusal:
            possible, why = network.feasible(left)
            if not why or possible.all():
                raise
            rest = network.cut_masked(possible)
            self.uncut = str(refusal)
            units = int((possible & ~wanted).sum())
            self._log.tell(events.StaysMasked(self._log.epoch, str(refusal), units, tuple(why)))
            return rest

    def _tell_cut(self, cut: Cut, units: int) -> None:
        share = 1 - cut.parameters_after / cut.parameters_before
        proof = cut.equivalence
        exactness = proof.float32_error if proof.float64_error is None else proof.float64_error
        self._log.tell(events.Cut(self._log.epoch, units, share, exactness))


def _announce(log: RunLog, units: int, seconds: float) -> None:
    """Says before a cut that training waits, if that will be more than a moment."""
    if seconds > progress.LONG_SECONDS:
        log.tell(progress.CutBegan(log.epoch, units, seconds))
