"""What `esper audit show` tells of pruning cycles, those that gave no plan included."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, Group

from esper.cli.audit import audit_table
from esper.cli.cycles import MOST_ALIKE, MOST_CYCLES, cycle_list
from esper.emrakul.cycle import CoordinatorState, CycleRecord
from esper.leyline import encode
from tests.cli.test_main import esper
from tests.session.runs import Training


def shown(*words: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(esper("audit", "show", *words, "--json").stdout)
    return document


def listed(*records: CycleRecord, is_whole: bool = False) -> str:
    state = encode(CoordinatorState())
    facts = {**state, "cycles": [encode(record) for record in records]}
    screen = Console(file=io.StringIO(), width=200)
    screen.print(Group(*cycle_list(facts, is_whole=is_whole)))
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_every_cycle_of_a_run_is_listed(trained: Path) -> None:
    cycles = shown(str(trained))["cycles"]
    assert [one["epoch"] for one in cycles] == sorted(one["epoch"] for one in cycles)
    assert any(one["status"] == "accepted" and one["units"] < one["finalists"] for one in cycles)
    text = esper("audit", "show", str(trained)).stdout
    assert re.search(rf"\b{len(cycles)} pruning cycles?;", text)
    assert "0 failures in a row." in text


def test_a_cycle_without_a_plan_is_listed_with_its_reason() -> None:
    text = listed(CycleRecord("key", 7, "ramp", "failed", "AnalysisError: worker 3 died"))
    assert "1 pruning cycle;" in text
    assert "AnalysisError: worker 3 died" in text


def test_of_many_cycles_the_newest_are_shown_unless_all_are_asked_for() -> None:
    records = [CycleRecord(str(n), n, "ramp", "skipped", f"reason {n}.") for n in range(MOST_CYCLES + 3)]
    text = listed(*records)
    assert "3 earlier cycles not shown; --all shows them" in text
    assert "reason 2." not in text
    assert "reason 3." in text
    assert "reason 2." in listed(*records, is_whole=True)


def test_one_decision_is_shown_with_every_check_and_every_finalist(trained: Path) -> None:
    short = next(one for one in shown(str(trained))["cycles"] if one["status"] == "accepted")
    (decision,) = shown(str(trained), "--epoch", str(short["epoch"]))["decisions"]
    (verdict,) = decision["verdicts"]
    assert {"floors", "retention", "gradients"} <= {check["name"] for check in verdict["checks"]}
    finalists = decision["finalists"]
    assert len(finalists) == short["finalists"]
    gone = [row for row in finalists if row["reason"] == "chosen"]
    assert len(gone) == short["units"] == decision["plan"]["units"]
    assert sum(row["saved_fraction"] for row in gone) == pytest.approx(
        short["removed_after"] - short["removed_before"]
    )
    assert {row["tier"] for row in finalists} == {"ablation"}
    text = esper("audit", "show", str(trained), "--epoch", str(short["epoch"])).stdout
    assert f"{short['units']} of {short['finalists']} finalists go" in text
    assert f"chosen: {short['units']}. Goes: it saves most cost" in text
    assert all(check["name"] in text for check in verdict["checks"])
    alike = Counter(row["reason"] for row in finalists)
    assert text.count("not shown; --all shows them") == sum(count > MOST_ALIKE for count in alike.values())
    assert max(alike.values()) > MOST_ALIKE
    whole = esper("audit", "show", str(trained), "--epoch", str(short["epoch"]), "--all").stdout
    assert "not shown" not in whole
    assert all(row["unit"] in whole for row in finalists)


def test_a_decision_that_was_refused_shows_every_version_of_it(tmp_path: Path) -> None:
    training = Training(tmp_path / "run", validation={"memory_limit_bytes": 1})
    for _ in range(3):
        training.epoch(lambda _: 0.5)
    training.session.detach()
    (decision,) = shown(str(tmp_path / "run"), "--epoch", "2")["decisions"]
    assert decision["status"] == "rejected"
    assert len(decision["verdicts"]) > 1
    assert {verdict["decision"] for verdict in decision["verdicts"]} == {"no_go"}
    assert "shrunk" in {row["reason"] for row in decision["finalists"]}
    text = esper("audit", "show", str(tmp_path / "run"), "--epoch", "2").stdout
    assert f"Verdict {len(decision['verdicts'])} of {len(decision['verdicts'])}: no_go" in text


def test_workers_are_shown_where_processes_did_the_work(trained: Path) -> None:
    facts = shown(str(trained))
    assert facts["workers"] == []
    row = {"worker": 0, "done": 5, "failed": 0, "killed": 1, "peak_bytes": None, "condition": "failing"}
    screen = Console(file=io.StringIO(), width=200)
    screen.print(audit_table({**facts, "workers": [{**row, "message": "It hung."}]}))
    assert isinstance(screen.file, io.StringIO)
    (line,) = [line for line in screen.file.getvalue().splitlines() if "It hung." in line]
    assert line.split() == ["0", "5", "0", "1", "not", "measured", "failing", "It", "hung."]


def test_an_epoch_without_a_cycle_is_refused_by_name(trained: Path) -> None:
    outcome = esper("audit", "show", str(trained), "--epoch", "99")
    assert outcome.returncode == 2
    assert "no pruning cycle of epoch 99" in outcome.stderr
    assert "those of epochs 2" in outcome.stderr
