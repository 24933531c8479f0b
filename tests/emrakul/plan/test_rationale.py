from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from esper.elesh import Evidence
from esper.emrakul.plan.plan import Plan, Rejection
from esper.emrakul.plan.rationale import _WHY, CHOSEN, Rationale
from esper.emrakul.plan.selection import make_plan
from esper.emrakul.plan.situation import Situation
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings
from esper.errors import EvidenceError
from esper.leyline import Level, decode, encode
from tests.emrakul.networks import chain, measured

ANATOMY = chain([40, 24])
ALLOWED = Allowance("flops", 0.3, 0.32, (Level.CHANNEL,), "ramp", "a test")
SETTINGS = Settings.model_validate(
    {
        "target": {"flops": 0.5},
        "floors": {"min_channels": 4},
        "plan": {"required_confidence": 0.95},
    }
)


def planned() -> tuple[Plan, Evidence]:
    evidence = measured(ANATOMY, unmeasured=0.2)
    asked = np.arange(ANATOMY.num_units)
    return make_plan(Situation.whole(ANATOMY), evidence, ALLOWED, SETTINGS, finalists=asked), evidence


def test_every_finalist_has_its_numbers_and_a_reason_in_words() -> None:
    plan, evidence = planned()
    rows = Rationale.of(plan, evidence, ANATOMY).rows()
    assert len(rows) == ANATOMY.num_units
    assert len({row["unit"] for row in rows}) == ANATOMY.num_units
    assert [row["reason"] for row in rows[: plan.units.size]] == [CHOSEN] * plan.units.size
    assert rows[0]["unit"] == ANATOMY.unit_id(int(plan.units[0]))
    assert rows[0]["loss_increase"] == evidence.loss_increase[plan.units[0]]
    assert rows[0]["predicted_loss"] == plan.predicted_loss[0]
    gone = sum(row["saved_fraction"] for row in rows[: plan.units.size])
    assert gone == pytest.approx(plan.removed_after - plan.removed_before)
    left_out = {row["reason"] for row in rows[plan.units.size :]}
    assert {"unmeasured", "confidence"} <= left_out
    unmeasured = next(row for row in rows if row["reason"] == "unmeasured")
    assert unmeasured["loss_increase"] is unmeasured["saved_fraction"] is None
    assert unmeasured["why"].startswith("stays: it was not measured")
    assert (unmeasured["group"], unmeasured["kind"]) in {("conv0", "channel"), ("conv1", "channel")}


def test_every_finalist_says_by_which_tier_it_was_judged() -> None:
    plan, evidence = planned()
    tiers = {row["unit"]: row["tier"] for row in Rationale.of(plan, evidence, ANATOMY).rows()}
    names = [ANATOMY.unit_id(unit) for unit in range(ANATOMY.num_units)]
    ablated = np.isfinite(evidence.loss_increase)
    assert {tiers[names[unit]] for unit in np.flatnonzero(ablated)} == {"ablation"}
    assert {tiers[names[unit]] for unit in np.flatnonzero(~ablated)} <= {"screen", "twin"}


def test_there_are_words_for_every_reason() -> None:
    assert set(_WHY) == {CHOSEN, *(reason.value for reason in Rejection)}


def test_it_survives_json() -> None:
    found = Rationale.of(*planned(), ANATOMY)
    again = decode(Rationale, json.loads(json.dumps(encode(found), allow_nan=False)))
    assert again.rows() == found.rows()


def test_a_record_that_lacks_what_is_stored_now_is_read() -> None:
    stored = encode(Rationale.of(*planned(), ANATOMY))
    for name in ("names", "kinds", "tiers", "predicted_loss", "saved_fraction"):
        del stored[name]
    row = decode(Rationale, stored).rows()[0]
    assert (row["tier"], row["saved_fraction"]) == (None, None)
    assert row["loss_increase"] == stored["loss_increase"][0]


def test_evidence_of_another_network_is_refused() -> None:
    plan, evidence = planned()
    with pytest.raises(EvidenceError, match="Analyze the present checkpoint again"):
        Rationale.of(plan, replace(evidence, anatomy_digest="another"), ANATOMY)
