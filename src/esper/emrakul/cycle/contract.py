"""Decisions as messages, and back: the one place where a cycle's values take the form that others read.

Everything that a decision rests on has a field of the contract. What the coordinator remembers is its own
affair, and goes along as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import FloatArray, IntArray
from esper.emrakul.cycle.coordinator import CoordinatorState
from esper.emrakul.cycle.outcome import CycleOutcome, CycleStatus
from esper.emrakul.plan import Plan, Rationale, Rejection
from esper.emrakul.schedule import Allowance
from esper.errors import ContractError
from esper.leyline import IdempotencyKey, Level, decode, encode
from esper.leyline.wire import VERSION, messages
from esper.urabrask import Check, Decision, Retention, Verdict

_LEVELS = {
    Level.CHANNEL: messages.MASK_KIND_CHANNEL,
    Level.HEAD: messages.MASK_KIND_HEAD,
    Level.LAYER: messages.MASK_KIND_LAYER,
}
_DECISIONS = {
    Decision.GO: messages.PRUNING_DECISION_GO,
    Decision.NO_GO: messages.PRUNING_DECISION_NO_GO,
    Decision.CONDITIONAL_GO: messages.PRUNING_DECISION_CONDITIONAL_GO,
}
_STATUSES = {
    CycleStatus.ACCEPTED: messages.CYCLE_STATUS_ACCEPTED,
    CycleStatus.SKIPPED: messages.CYCLE_STATUS_SKIPPED,
    CycleStatus.REJECTED: messages.CYCLE_STATUS_REJECTED,
    CycleStatus.FAILED: messages.CYCLE_STATUS_FAILED,
}
_COLUMNS = ("screen", "loss_increase", "confidence", "predicted_loss", "saved_cost")
_FINALIST_COLUMNS = ("screen", "loss_increase", "confidence", "predicted_loss", "saved_fraction")
_TEXTS = ("names", "kinds", "reasons")


def report_of(
    anatomy: Anatomy, outcome: CycleOutcome | None, state: CoordinatorState
) -> messages.AnalysisReport:
    """How a cycle ended, for whoever reads it; without an outcome, what the coordinator remembers."""
    memory = json.dumps(encode(state)).encode()
    report = messages.AnalysisReport(version=VERSION, anatomy_digest=anatomy.digest, memory=memory)
    if outcome is None:
        return report
    report.idempotency_key, report.reason = str(outcome.key), outcome.reason
    report.status = _STATUSES[outcome.status]
    report.parameters.CopyFrom(_parameters(outcome.allowance))
    report.refused.extend(_safety(verdict) for verdict in outcome.refused)
    report.is_late, report.duration_seconds = outcome.is_late, outcome.duration_seconds
    if outcome.error is not None:
        report.error = outcome.error
    if outcome.plan is not None:
        report.decision.CopyFrom(_decision(anatomy, outcome, outcome.plan))
    elif outcome.verdict is not None:
        report.decision.safety.CopyFrom(_safety(outcome.verdict))
    if outcome.rationale is not None:
        report.finalists.CopyFrom(_finalists(outcome.rationale))
    return report


def outcome_in(report: messages.AnalysisReport) -> CycleOutcome | None:
    """The outcome in a report; None: there was none."""
    if not report.idempotency_key:
        return None
    decision = report.decision
    return CycleOutcome(
        status=_back(_STATUSES, report.status),
        key=IdempotencyKey.parse(report.idempotency_key),
        reason=report.reason,
        allowance=_allowance(report.parameters),
        plan=plan_in(report),
        verdict=_verdict(decision.safety) if decision.HasField("safety") else None,
        refused=tuple(map(_verdict, report.refused)),
        rationale=_rationale(report.finalists) if report.HasField("finalists") else None,
        error=_optional(report, "error"),
        is_late=report.is_late,
        duration_seconds=report.duration_seconds,
    )


def memory_in(report: messages.AnalysisReport) -> CoordinatorState:
    """What the coordinator remembered after the cycle."""
    return decode(CoordinatorState, json.loads(report.memory))


def plan_in(report: messages.AnalysisReport) -> Plan | None:
    """The plan that a report is about; None if none was made."""
    decision, statistics = report.decision, report.decision.statistics
    if not decision.HasField("statistics"):
        return None
    before = statistics.before
    targets: tuple[Any, ...] = (*decision.channels, *decision.attention_heads, *decision.layers)
    # Every column again in the order of choice: shape [cuts].
    numbers = [target.numbers for target in targets]
    order = np.argsort(_joined((one.order for one in numbers), np.int64), kind="stable")

    def column(name: str, dtype: type) -> Any:
        return _joined((getattr(one, name) for one in numbers), dtype)[order]

    keep = np.ones(before.num_units, np.bool_)
    keep[np.array(before.gone, np.int64)] = False
    return Plan(
        anatomy_digest=before.anatomy_digest,
        cost=before.cost,  # type: ignore[arg-type]  # what was written was one
        origin_cost=before.origin_cost,
        level=_back(_LEVELS, statistics.level),
        keep_before=keep,
        units=column("units", np.int64),
        blocks=column("block", np.int64),
        **{name: column(name, np.float64) for name in _COLUMNS},
        goal_fraction=statistics.goal_fraction,
        limit_fraction=statistics.limit_fraction,
        removed_before=statistics.removed_before,
        removed_after=statistics.removed_after,
        allowed_loss=_optional(statistics, "allowed_loss"),
        rejected={Rejection(held.reason): np.array(held.units, np.int64) for held in statistics.rejected},
        notes=tuple(statistics.notes),
        leeway=1.0 if (leeway := _optional(statistics, "leeway")) is None else leeway,
    )


def _decision(anatomy: Anatomy, outcome: CycleOutcome, plan: Plan) -> messages.StructuralPruningDecision:
    is_accepted = outcome.status is CycleStatus.ACCEPTED
    decision = messages.StructuralPruningDecision(
        version=VERSION,
        idempotency_key=str(outcome.key),
        statistics=_statistics(plan),
        approved_for_application=is_accepted,
        rejection_reason="" if is_accepted else outcome.reason,
    )
    if outcome.verdict is not None:
        decision.safety.CopyFrom(_safety(outcome.verdict))
    groups = anatomy.group_of[plan.units]
    for number in dict.fromkeys(groups.tolist()):
        chosen = np.flatnonzero(groups == number)
        group = anatomy.groups[number]
        # The same units by their number in their layer: shape [cuts of this group].
        indices = plan.units[chosen] - int(anatomy.offsets[number])
        about: dict[str, Any] = {
            "layer_name": group.name,
            "kind": group.kind.value,
            "numbers": _numbers(plan, chosen),
        }
        if group.kind.level is Level.CHANNEL:
            decision.channels.add(channel_indices=indices.tolist(), **about)
        elif group.kind.level is Level.HEAD:
            decision.attention_heads.add(head_indices=indices.tolist(), **about)
        else:
            decision.layers.add(indices=indices.tolist(), **about)
    return decision


def _numbers(plan: Plan, chosen: IntArray) -> messages.UnitNumbers:
    columns: dict[str, list[float]] = {name: getattr(plan, name)[chosen].tolist() for name in _COLUMNS}
    return messages.UnitNumbers(
        order=chosen.tolist(),
        block=plan.blocks[chosen].tolist(),
        units=plan.units[chosen].tolist(),
        **columns,
    )


def _statistics(plan: Plan) -> messages.PruningStatistics:
    return messages.PruningStatistics(
        before=messages.PrunedArchitecture(
            version=VERSION,
            anatomy_digest=plan.anatomy_digest,
            num_units=plan.keep_before.size,
            gone=np.flatnonzero(~plan.keep_before).tolist(),
            origin_cost=plan.origin_cost,
            cost=plan.cost,
        ),
        goal_fraction=plan.goal_fraction,
        limit_fraction=plan.limit_fraction,
        removed_before=plan.removed_before,
        removed_after=plan.removed_after,
        allowed_loss=plan.allowed_loss,
        level=_LEVELS[plan.level],
        rejected=[
            messages.HeldBack(reason=reason.value, units=units.tolist())
            for reason, units in plan.rejected.items()
        ],
        notes=plan.notes,
        leeway=plan.leeway,
    )


def _safety(verdict: Verdict) -> messages.SafetyValidation:
    retention = verdict.retention
    return messages.SafetyValidation(
        decision=_DECISIONS[verdict.decision],
        reason=verdict.reason,
        checks=[messages.ValidationCheck(**vars(check)) for check in verdict.checks],
        retention=None if retention is None else messages.QualityRetention(**vars(retention)),
        duration_seconds=verdict.duration_seconds,
    )


def _verdict(safety: messages.SafetyValidation) -> Verdict:
    checks = (
        Check(one.name, one.passed, _optional(one, "value"), _optional(one, "limit"), one.text)
        for one in safety.checks
    )
    cost = safety.retention
    retention = Retention(
        cost.measure,
        before=cost.before,
        after=cost.after,
        drop=cost.drop,
        lower=cost.lower,
        upper=cost.upper,
        limit=cost.limit,
        samples=cost.samples,
    )
    return Verdict(
        _back(_DECISIONS, safety.decision),
        safety.reason,
        tuple(checks),
        retention if safety.HasField("retention") else None,
        safety.duration_seconds,
    )


def _parameters(allowance: Allowance) -> messages.AnalysisParameters:
    fields = {**vars(allowance), "levels": [_LEVELS[level] for level in allowance.levels]}
    return messages.AnalysisParameters(**fields)


def _allowance(parameters: messages.AnalysisParameters) -> Allowance:
    return Allowance(
        cost=parameters.cost,  # type: ignore[arg-type]  # what was written was one
        goal_fraction=parameters.goal_fraction,
        limit_fraction=parameters.limit_fraction,
        levels=tuple(_back(_LEVELS, level) for level in parameters.levels),
        stage=parameters.stage,
        reason=parameters.reason,
        end_fraction=_optional(parameters, "end_fraction"),
        progress=parameters.progress,
        steps_left=parameters.steps_left,
        steps_paid=_optional(parameters, "steps_paid"),
    )


def _finalists(rationale: Rationale) -> messages.FinalistTable:
    arrays = ("units", "tiers", *_FINALIST_COLUMNS)
    columns: dict[str, Any] = {name: getattr(rationale, name).tolist() for name in arrays}
    return messages.FinalistTable(**columns, **{name: getattr(rationale, name) for name in _TEXTS})


def _rationale(table: messages.FinalistTable) -> Rationale:
    columns: dict[str, Any] = {name: np.array(getattr(table, name), np.float64) for name in _FINALIST_COLUMNS}
    texts: dict[str, Any] = {name: tuple(getattr(table, name)) for name in _TEXTS}
    units, tiers = np.array(table.units, np.int64), np.array(table.tiers, np.int64)
    return Rationale(units=units, tiers=tiers, **texts, **columns)


def _joined(parts: Iterable[Iterable[float]], dtype: type) -> IntArray | FloatArray:
    return np.array([number for part in parts for number in part], dtype)


def _optional(message: Any, name: str) -> Any:
    """A field that may be absent; None: nobody has measured it, or it does not apply."""
    return getattr(message, name) if message.HasField(name) else None


def _back(words: Mapping[Any, int], number: int) -> Any:
    """The word of ours for a number of the contract."""
    for word, value in words.items():
        if value == number:
            return word
    raise ContractError(f"{number} stands for none of {', '.join(words)}; was it written by a newer Esper?")
