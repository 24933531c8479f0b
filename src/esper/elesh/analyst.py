"""Screens, ablates and validates one checkpoint for the coordinator, by tasks in worker processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh.analysis import measure
from esper.elesh.case import Case
from esper.elesh.errands import Errand, Errands
from esper.elesh.evidence import Evidence
from esper.elesh.learned import learned
from esper.elesh.narrowing import Narrowing
from esper.elesh.rounds import Rounds
from esper.elesh.screening import Screened, screen
from esper.elesh.second_tier import tasks
from esper.elesh.settings import AnalysisSettings
from esper.elesh.twin_screen import SecondLook
from esper.leyline import content_id
from esper.urabrask import Measurement, Verdict, validate
from esper.urabrask import Settings as ValidationSettings

_MEASURING_FRACTION = 0.95
"""Share of the time of an analysis in which tasks may run; the rest is for a plan of what they found."""

_LOOKING_FRACTION = 0.2
"""Share of the deadline in which the twin may be looked at before finalists are ablated."""


@dataclass(frozen=True)
class OfflineAnalyst:
    """Answers the coordinator's questions about one checkpoint; see `Coordinator.run_cycle`.

    Attributes:
        errands: where tasks run, and the clock of their deadlines.
        case: the files of the checkpoint.
        anatomy: its network.
        keep: units that are left in it.
        allowed: units that the network's own code allows to be cut; the others count as unmeasured.
        weights: weight of every screening signal.
        settings: sizes of tasks.
        validation: how strict the validator is.
        floors: fewest units per group.
        reconstruct: whether readers of what goes are reconstructed when a mask is applied.
        deadline_seconds: for the screen and tier 2, which have no deadline of their own.
        together: whether units are judged with those of their group that go before them, instead of alone.
        enough_seconds: what judging them together should take of each worker. No part of `id`: what one
            moment had time for is what is found again.
    """

    errands: Errands
    case: Case
    anatomy: Anatomy
    keep: BoolArray
    allowed: BoolArray
    weights: Mapping[str, float]
    settings: AnalysisSettings
    validation: ValidationSettings
    floors: IntArray
    deadline_seconds: float
    reconstruct: bool = False
    together: bool = False
    enough_seconds: float = math.inf

    @property
    def id(self) -> str:
        """Names what the answers depend on beside the checkpoint: the same again gives the same answers."""
        return content_id(
            {
                "data": self.case.data.tensors.blake3,
                "weights": dict(self.weights),
                "analysis": self.settings.model_dump(mode="json"),
                "validation": self.validation.model_dump(mode="json"),
                "floors": self.floors.tolist(),
                "allowed": np.flatnonzero(~self.allowed).tolist(),
                "reconstruct": self.reconstruct,
                "together": self.together,
                "twin": [self.case.twin_samples, self.case.twin_flops],
            }
        )

    def too_early(self, least: float, seconds: float) -> str:
        """Why units cannot be told apart yet: what was learned is worth less than this share of the loss.

        '' where it is not, where that cannot be told, and without an answer in time.
        """
        outcome = self.errands.send(learned, {"case": self.case}, seconds).outcome()
        known = outcome.value if outcome.is_done else None
        if known is None or not known.is_less_than(least):
            return ""
        return (
            "The network hardly knows one input from another, and its units cannot be ranked: with the "
            f"targets of other samples its mean loss of {known.loss:.4g} would rise by {known.rise:.2g}, "
            f"which is less than {least:.0%} of it (schedule.min_learned_fraction)."
        )

    def screen(self) -> FloatArray:
        """Importance rank of every unit: shape [units], NaN unmeasured or not cuttable."""
        return self._ranks.copy()

    @cached_property
    def _screened(self) -> Screened:
        asked = {
            "case": self.case,
            "weights": dict(self.weights),
            "min_optimizer_steps": self.settings.min_optimizer_steps,
        }
        screened: Screened = self.errands.send(screen, asked, self.deadline_seconds).value()
        return screened

    @cached_property
    def _ranks(self) -> FloatArray:
        ranks = self._screened.ranks
        # What may not be cut counts as unmeasured, so that no plan can take it.
        ranks = np.where(self.allowed, ranks, np.nan)
        look = self._look
        return ranks if look is None else look.joined(ranks, self.weights, self.settings.head_weights)

    @cached_property
    def _look(self) -> SecondLook | None:
        """Tier 2, where it is asked for; a lost task leaves its units at tier 1."""
        rules, anatomy = self.settings, self.anatomy
        if not rules.measure_twin:
            return None
        seconds = self.deadline_seconds * _LOOKING_FRACTION
        until = self.errands.clock() + seconds
        # Only groups of which something may go are worth a look.
        open_groups = np.unique(anatomy.group_of[self.keep & self.allowed])
        parts = np.split(open_groups, range(rules.layers_per_task, open_groups.size, rules.layers_per_task))
        works = tasks(self.case, parts, rules.activation_threshold, rules.redundancy_threshold)
        # All are submitted before the first is waited for; the time runs for all of them at once.
        errands = [self.errands.send(*work, seconds, until) for work in works]
        outcomes = [errand.outcome() for errand in errands]
        *units, heads, magnitudes = [outcome.value if outcome.is_done else None for outcome in outcomes]
        notes = tuple(
            f"Tier 2 is missing in part ({errand.name}): {outcome.message}"
            for errand, outcome in zip(errands, outcomes, strict=True)
            if not outcome.is_done
        )
        return SecondLook.of(
            anatomy, [part for part in units if part is not None], heads or [], magnitudes, notes
        )

    def analyze(self, finalists: IntArray, seconds: float) -> Evidence:
        """Measures the finalists, a few per task; what a lost or late task should have measured stays NaN.

        Where units are judged together, the number of finalists of a group says how far it may be narrowed.
        Otherwise they are ablated one by one.

        All are ablated on some batches; on the others those that are close to the line only, see `sampling`.
        """
        until = self.errands.clock() + seconds * _MEASURING_FRACTION
        if self.together:
            narrowing = Narrowing(
                self.errands, self.case, self.reconstruct, seconds, until, self.enough_seconds
            )
            found = narrowing.evidence(self.anatomy, self.screen(), finalists, self.keep)
            look = self._look
            notes = () if look is None else look.notes
            taylor = found.taylor if look is None else look.taylor
            return replace(found, taylor=taylor, notes=(*found.notes, *notes))
        rounds = Rounds(self.errands, self.case, self.settings.units_per_task, seconds, until)
        rises = rounds.rises(self.anatomy, finalists, lambda: self._screened.rises)
        look = self._look
        # With reconstruction, a unit with a leader costs what the loss rose to with the leader in its place.
        # Without it a hole is left.
        folded = look.folded_rises if look is not None and self.reconstruct else {}
        ablation = rises.evidence(self.anatomy, self.screen(), folded, self.settings.batch_samples)
        if look is None:
            return ablation
        # A leader counts only where the loss was measured with it in place.
        leads = np.isin(np.arange(self.anatomy.num_units), [*folded]) & np.isfinite(ablation.loss_increase)
        return replace(
            ablation,
            taylor=look.taylor,
            leaders=np.where(leads, look.leaders, -1),
            notes=(*ablation.notes, *look.notes),
        )

    def validate(self, keep: BoolArray, seconds: float, leeway: float = 1.0) -> Verdict:
        """Judges one mask by measuring the twin before and after, both at once where there are workers.

        Measuring is stopped after `seconds`, or the validator's own limit if that is shorter. The mask may
        cost `leeway` times the limits.
        """
        seconds = min(seconds, self.validation.time_limit_seconds)
        until = self.errands.clock() + seconds
        errands: dict[bytes, Errand] = {}

        def measured(left: BoolArray, survivors: BoolArray) -> Measurement:
            # The first of two calls starts both measurements, so that they run side by side.
            for asked in () if errands else (left, keep):
                given = {"case": self.case, "keep": asked.tolist(), "survivors": survivors.tolist()}
                given["reconstruct"] = self.reconstruct
                errands[asked.tobytes()] = self.errands.send(measure, given, seconds, until)
            quality: Measurement = errands[left.tobytes()].value()
            return quality

        try:
            return validate(
                self.anatomy,
                self.keep,
                keep,
                measured,
                self.validation,
                self.errands.clock,
                floors=self.floors,
                leeway=leeway,
            )
        finally:
            for errand in errands.values():
                errand.handle.cancel()
