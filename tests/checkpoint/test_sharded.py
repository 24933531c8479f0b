"""State that is sharded over ranks: four processes save it, two load it, and one fails or dies on the way."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.encrypted import is_encrypted
from esper.checkpoint.layout import SHARDED_PLAN
from esper.checkpoint.rekeying import rekey
from esper.checkpoint.sharded import load_sharded, save_sharded
from esper.checkpoint.store import CheckpointStore
from esper.errors import CheckpointError
from tests.checkpoint.runs import RING, debris, open_store
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
    files = ["MANIFEST.json", *[f"rank-0000{number}.safetensors" for number in range(RANKS)], SHARDED_PLAN]
    assert all(report["files"] == files for report in of)
    assert all(report["by four"] for report in of)
    for report in of[:2]:
        assert report["differs"]
        assert report["by two"]
        assert report["rate"] == 0.1
        assert report["told"] == {"epoch": 3, "names": ["a", None, 0.5]}
    assert of[0]["step"] == 2


def test_ranks_without_a_ring_save_encrypted_and_load_what_the_first_can_open(reports: Reports) -> None:
    of = reports["encrypted"]
    assert all(report["saved"].endswith("step-000000007") for report in of)
    assert all("which is not in this key ring" in report["told"] for report in of)
    assert all(report["loaded"] == report["trained"] for report in of[:2])


def test_a_rank_that_fails_leaves_what_there_was_and_all_are_told(reports: Reports) -> None:
    of = reports["fails_on_one"]
    assert of[0]["step"] == 2
    assert of[0]["debris"] == []
    for report in of:
        for number, told in enumerate(report["told"], 1):
            assert told.startswith("Rank 2 of 4: The sharded state was not saved: ")
            assert f"call {number}" in told
            assert "[EIO]" in told
        assert "[EIO]" in report["plan"]


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


def test_what_is_encrypted_opens_by_the_ring_alone_and_by_the_next_key_after_it(tmp_path: Path) -> None:
    weights = torch.arange(700_000.0)  # of three chunks

    with open_store(tmp_path, encrypt_weights=True) as store:
        path = save_sharded(store, 1, 0, {"w": weights, "v": torch.ones(9), "rate": 0.25})
        saved = store.catalog.at(1)
        assert store.verify(saved).is_ok
    assert all(is_encrypted(path / name) for name in ("rank-00000.safetensors", SHARDED_PLAN))

    def loaded(ring: KeyRing) -> dict[str, Any]:
        state: dict[str, Any] = {"w": torch.zeros(700_000), "rate": 0.0}
        load_sharded(replace(saved, ring=ring), state)
        return state

    state = loaded(RING)
    assert torch.equal(state["w"], weights)
    assert state["rate"] == 0.25
    rotated = RING.add()
    rotated = rotated.promote(rotated.keys[-1].id)
    disabled = rotated.disable(RING.primary.id)
    with pytest.raises(CheckpointError, match="is disabled"):
        loaded(disabled)
    with pytest.raises(CheckpointError, match=r"not in this key ring.*lost for good"):
        loaded(disabled.destroy(RING.primary.id))
    assert rekey(tmp_path, rotated, {}).wrapped.count == 2
    assert torch.equal(loaded(disabled.destroy(RING.primary.id))["w"], weights)


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
    saved = store.save(1, 0, {SHARDED_PLAN: json.dumps(plan).encode()})
    with pytest.raises(CheckpointError, match=r"breaks its schema|does not list"):
        load_sharded(saved, {"w": torch.zeros(2)})
