"""Decisions as messages: nothing is lost, others can read them, and older runs are read as before."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from esper.checkpoint import AttachmentRef
from esper.emrakul.cycle.commit import MASK, CycleEnd, read_mask
from esper.emrakul.cycle.contract import memory_in, outcome_in, plan_in, report_of
from esper.emrakul.cycle.coordinator import CoordinatorState
from esper.emrakul.cycle.outcome import CycleOutcome, CycleStatus
from esper.emrakul.cycle.records import recall_from
from esper.emrakul.schedule import Allowance
from esper.errors import ContractError
from esper.leyline import IdempotencyKey, Level, encode
from esper.leyline.wire import messages, parsed
from esper.urabrask import Check, Decision, Retention, Verdict
from tests.elesh.cases import Saved, saved
from tests.emrakul.cycle.test_runner import decided

Accepted = tuple[Saved, CycleEnd]


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accepted]:
    """A decision with a mask, committed beside its checkpoint."""
    made = saved(tmp_path_factory.mktemp("run"))
    _, end = decided(made)
    yield made, end
    made.store.close()


def outcome_of(end: CycleEnd) -> CycleOutcome:
    assert end.outcome is not None
    return end.outcome


def there_and_back(made: Saved, outcome: CycleOutcome) -> CycleOutcome:
    raw = report_of(made.anatomy, outcome, CoordinatorState()).SerializeToString()
    again = outcome_in(parsed(messages.AnalysisReport, raw))
    assert again is not None
    return again


def committed(made: Saved) -> AttachmentRef:
    return next(one for one in made.store.attachments(made.checkpoint).found if one.name == MASK)


def test_a_decision_comes_back_as_it_was(accepted: Accepted) -> None:
    made, end = accepted
    outcome = outcome_of(end)
    assert outcome.plan is not None
    assert encode(there_and_back(made, outcome)) == encode(outcome)


VERDICT = Verdict(
    Decision.CONDITIONAL_GO,
    "why",
    (Check("finite", False, None, None, "no"), Check("loss", True, math.nan, 0.0, "yes")),
    Retention("loss", 1.0, 2.0, -0.0, 0.1, math.inf, 0.3, 128),
    1.5,
)


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": None, "verdict": None, "rationale": None, "status": CycleStatus.SKIPPED},
        {"plan": None, "verdict": VERDICT, "rationale": None},
        {"verdict": None, "status": CycleStatus.FAILED, "error": "", "is_late": True},
        {"verdict": VERDICT, "refused": (VERDICT, replace(VERDICT, retention=None, checks=()))},
        {"allowance": Allowance("parameters", 0.0, 0.0, (), "closed", "", None, 0.0, math.inf, None)},
        {"allowance": Allowance("flops", 0.1, 0.2, tuple(Level), "ramp", "r", 0.0, 1.0, 2.0, 0.0)},
        {"key": IdempotencyKey(0, "m", "d", Level.LAYER), "status": CycleStatus.REJECTED},
    ],
)
def test_whatever_a_cycle_ends_with_comes_back(accepted: Accepted, changes: dict[str, Any]) -> None:
    made, end = accepted
    outcome = replace(outcome_of(end), **changes)
    assert encode(there_and_back(made, outcome)) == encode(outcome)


def test_others_read_which_channels_of_which_layer_go(accepted: Accepted) -> None:
    made, end = accepted
    content = parsed(messages.MaskApplication, committed(made).file("decision.pb").read_bytes())
    decision = content.report.decision
    named = {
        f"{target.layer_name}#{index}" for target in decision.channels for index in target.channel_indices
    }
    assert end.mask is not None
    assert named == {made.anatomy.unit_id(int(unit)) for unit in np.flatnonzero(~end.mask.keep)}
    assert decision.approved_for_application
    assert decision.safety.decision == messages.PRUNING_DECISION_GO
    assert content.masks.keep.file in committed(made).files
    assert content.masks.originals.file in committed(made).files


def test_a_run_that_stored_decisions_as_json_is_read_as_before(accepted: Accepted) -> None:
    made, end = accepted
    mask, outcome = end.mask, outcome_of(end)
    assert mask is not None
    stored = {
        "epoch": mask.epoch,
        "num_units": made.anatomy.num_units,
        "is_on_probation": mask.is_on_probation,
        "reason": mask.reason,
        "anatomy": made.anatomy.digest,
        "outcome": encode(outcome),
        "coordinator": encode(end.state),
    }
    base = made.store.save(99, 2, {"model.safetensors": b"another"})
    bits = np.packbits(mask.keep).tobytes()
    before = {"masks.bin": bits, "decision.json": json.dumps(stored).encode()}
    made.store.commit_attachment(base, MASK, before)
    again, now = (read_mask(made.store, one, made.anatomy) for one in (base, made.checkpoint))
    assert again is not None
    assert now is not None
    assert again.mask is not None
    assert now.mask is not None
    assert again.mask.plan.id == now.mask.plan.id
    assert np.array_equal(again.mask.keep, now.mask.keep)
    assert again.state == now.state == end.state
    known = recall_from(made.store, base)(outcome.key)
    assert known is not None
    assert encode(known[0]) == encode(outcome)


def test_a_report_without_an_outcome_is_what_the_coordinator_remembers(accepted: Accepted) -> None:
    made, end = accepted
    report = report_of(made.anatomy, None, end.state)
    assert outcome_in(report) is None
    assert plan_in(report) is None
    assert memory_in(report) == end.state


def test_a_word_that_only_a_newer_esper_knows_is_refused(accepted: Accepted) -> None:
    made, end = accepted
    report = report_of(made.anatomy, outcome_of(end), end.state)
    raw = report.SerializeToString() + bytes([4 << 3, 77])
    with pytest.raises(ContractError, match="77 stands for none of accepted"):
        outcome_in(parsed(messages.AnalysisReport, raw))
