"""State that is sharded over ranks: four processes save it, two load it, and one fails or dies on the way."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.checkpoint.sharded import load_sharded, save_sharded
from esper.checkpoint.sharded_files import PLAN_FILE
from esper.checkpoint.store import CheckpointStore
from esper.errors import CheckpointError
from tests.checkpoint.runs import debris, open_store
from tests.checkpoint.sharding import CASES, RANKS, rank

Reports = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded") / "run"


@pytest.fixture(scope="module")
def reports(run: Path) -> Iterator[Reports]:
    """What each rank reports of each case; the last one to be killed reports nothing of its death."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "tests.checkpoint.sharding"])
    pipes = [context.Pipe(duplex=False) for _ in range(RANKS)]
    running = [
        context.Process(target=rank, args=(number, run, there), daemon=True)
        for number, (_, there) in enumerate(pipes)
    ]
    for process, (_, there) in zip(running, pipes, strict=True):
        process.start()
        there.close()
    told: Reports = {case.__name__: [] for case in CASES}
    for here, _ in pipes:
        try:
            while True:
                case, report = here.recv()
                told[case].append(report)
        except EOFError:
            continue
    yield told
    for process in running:
        process.kill()
        process.join()


def test_four_ranks_save_two_load_and_save_and_four_load(reports: Reports) -> None:
    of = reports["resharded"]
    assert len(of) == RANKS
    assert [report["saved"] for report in of] == ["step-000000001"] * RANKS
    files = ["MANIFEST.json", *[f"rank-0000{number}.safetensors" for number in range(RANKS)], PLAN_FILE]
    assert all(report["files"] == files for report in of)
    assert all(report["by four"] for report in of)
    for report in of[:2]:
        assert report["differs"]
        assert report["by two"]
        assert report["rate"] == 0.1
        assert report["told"] == {"epoch": 3, "names": ["a", None, 0.5]}
    assert of[0]["step"] == 2


def test_a_rank_that_fails_leaves_what_there_was_and_all_are_told(reports: Reports) -> None:
    of = reports["fails_on_one"]
    assert of[0]["step"] == 2
    assert of[0]["debris"] == []
    for report in of:
        for number, told in enumerate(report["told"], 1):
            assert told.startswith("Rank 2 of 4: The sharded state was not saved: ")
            assert f"call {number}" in told
            assert "[EIO]" in told


def test_a_damaged_file_is_noticed_before_any_rank_changes_anything(reports: Reports) -> None:
    for report in reports["damaged"]:
        assert "rank-00001.safetensors has other bytes than were saved" in report["told"]
        assert report["unchanged"]


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("taken", "holds a good checkpoint of step 1"),
        ("function", "`f` cannot be stored: it is a builtins"),
        ("array", "holds arrays. Make tensors"),
        ("no store", "needs the store"),
        ("no checkpoint", "needs the checkpoint"),
        ("unknown", "unknown"),
        ("shape", "0.bias"),
        ("plain", "holds no sharded state"),
        ("encrypted", "encrypt_weights is on"),
    ],
)
def test_what_cannot_be_done_is_refused_on_all_ranks(reports: Reports, case: str, says: str) -> None:
    told = [report[case] for report in reports["refused"]]
    assert len(told) == RANKS
    assert all(says in one for one in told), told


def test_a_rank_that_is_killed_leaves_what_there_was(reports: Reports, run: Path) -> None:
    told = reports["dies"]
    assert len(told) == RANKS - 1
    assert all("a rank is gone or cannot be reached" in report["told"] for report in told)
    with open_store(run) as store:
        assert debris(run) == []
        found = store.latest()
        assert found is not None
        assert found.step == 2


def test_one_process_loads_what_several_saved(reports: Reports, run: Path) -> None:
    with open_store(run) as store:
        state: dict[str, Any] = {"model": {"0.weight": torch.zeros(7, 6)}, "told": {"epoch": 0}}
        load_sharded(store.catalog.at(1), state)
        path = save_sharded(store, 11, 0, state)
        again: dict[str, Any] = {"model": {"0.weight": torch.zeros(7, 6)}, "told": {"epoch": 0}}
        load_sharded(store.catalog.at(11), again)
        store.withdraw_after(store.catalog.at(2))
    assert path.name == "step-000000011"
    assert state["model"]["0.weight"].abs().sum() > 0
    assert torch.equal(again["model"]["0.weight"], state["model"]["0.weight"])
    assert again["told"] == state["told"] == {"epoch": 3}


@pytest.mark.parametrize(
    "plan",
    [
        {"version": 2, "values": {}},
        {"version": 1, "values": {"w": {"dtype": "F32", "shape": [2], "parts": [{"file": "x"}]}}},
        {
            "version": 1,
            "values": {
                "w": {
                    "dtype": "F32",
                    "shape": [2],
                    "parts": [{"file": "../x", "name": "w", "offsets": [0], "sizes": [2]}],
                }
            },
        },
        {"version": 1, "values": {"w": {"dtype": "pickle", "shape": [2], "parts": []}}},
    ],
)
def test_a_plan_that_is_none_of_ours_is_refused(store: CheckpointStore, plan: object) -> None:
    saved = store.save(1, 0, {PLAN_FILE: json.dumps(plan).encode()})
    with pytest.raises(CheckpointError, match=r"breaks its schema|does not list"):
        load_sharded(saved, {"w": torch.zeros(2)})
