from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from esper.elesh import Evidence
from esper.emrakul import Allowance, Plan, Rationale, Rejection, Settings, make_plan
from esper.emrakul.rationale import _WHY, CHOSEN
from esper.errors import EvidenceError
from esper.leyline import Level
from tests.emrakul.networks import chain, measured

ANATOMY = chain([40, 24])
ALLOWED = Allowance("flops", 0.3, 0.32, (Level.CHANNEL,), "ramp", "a test")
SETTINGS = Settings.model_validate({"target": {"flops": 0.5}, "floors": {"min_channels": 4}})


def planned() -> tuple[Plan, Evidence]:
    evidence = measured(ANATOMY, unmeasured=0.2)
    whole = np.ones(ANATOMY.num_units, np.bool_)
    asked = np.arange(ANATOMY.num_units)
    return make_plan(ANATOMY, whole, evidence, ALLOWED, SETTINGS, finalists=asked), evidence


def test_every_finalist_has_its_numbers_and_a_reason_in_words() -> None:
    plan, evidence = planned()
    rows = Rationale.of(plan, evidence).rows(ANATOMY)
    assert len(rows) == ANATOMY.num_units
    assert len({row["unit"] for row in rows}) == ANATOMY.num_units
    assert [row["reason"] for row in rows[: plan.units.size]] == [CHOSEN] * plan.units.size
    assert rows[0]["unit"] == ANATOMY.unit_id(int(plan.units[0]))
    assert rows[0]["loss_increase"] == evidence.loss_increase[plan.units[0]]
    left_out = {row["reason"] for row in rows[plan.units.size :]}
    assert {"unmeasured", "confidence"} <= left_out
    unmeasured = next(row for row in rows if row["reason"] == "unmeasured")
    assert unmeasured["loss_increase"] is None
    assert unmeasured["why"].startswith("stays: its ablation")
    assert (unmeasured["group"], unmeasured["kind"]) in {("conv0", "channel"), ("conv1", "channel")}


def test_there_are_words_for_every_reason() -> None:
    assert set(_WHY) == {CHOSEN, *(reason.value for reason in Rejection)}


def test_it_survives_json() -> None:
    found = Rationale.of(*planned())
    again = Rationale.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert again.rows(ANATOMY) == found.rows(ANATOMY)


def test_evidence_of_another_network_is_refused() -> None:
    plan, evidence = planned()
    with pytest.raises(EvidenceError, match="Analyze the present checkpoint again"):
        Rationale.of(plan, replace(evidence, anatomy_digest="another"))
