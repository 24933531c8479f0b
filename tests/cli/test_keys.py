"""The life of a key on the command line, told by the audit."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from esper.checkpoint import HEADER_BYTES, SLOTS, CheckpointStore, open_key_ring
from esper.nissa import acts
from tests.cli.test_main import esper


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two checkpoints and one act, all sealed by its first key."""
    run = tmp_path / "run"
    with CheckpointStore(run, keyring=open_key_ring(run, create=True), model="net") as store:
        store.save(1, 1, {"a.bin": b"a"})
        store.audit.emit(acts.WentBack(1, 1))
        store.save(2, 2, {"a.bin": b"b", "trainer.json": b"{}"})
    return run


def told(*words: str) -> Any:
    outcome = esper("keys", *words, "--json")
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)


def keys(run: Path) -> dict[str, str]:
    return {row["key"]: row["state"] for row in told("list", str(run))}


def steps_that_verify(run: Path) -> list[str]:
    rows = json.loads(esper("verify", str(run), "--json").stdout)
    return [row["name"] for row in rows if not row["problems"]]


def sealed(run: Path) -> dict[str, bytes]:
    """What the digests of all files, and the seals of manifests, are about."""
    files = run.glob("checkpoints/step-*/*")
    return {
        str(file): file.read_bytes()[HEADER_BYTES if file.name == "trainer.json" else 0 :] for file in files
    }


def audit_problems(run: Path) -> list[str]:
    document = json.loads(esper("audit", "verify", str(run), "--json").stdout)
    return [problem["text"] for problem in document["problems"]]


def test_a_key_lives_from_its_making_to_its_end_and_the_audit_tells_of_it(run: Path) -> None:
    (first,) = keys(run)
    before = sealed(run)
    rotated = told("rotate", str(run))
    second = rotated["key"]
    assert (rotated["rewrapped"], rotated["not_rewrapped"]) == (1, [])
    assert keys(run) == {first: "accepted", second: "primary"}
    assert sealed(run) == before  # only the header of the encrypted file was written again
    assert len(steps_that_verify(run)) == 2
    assert told("promote", str(run), first)["primary"] == first
    assert told("promote", str(run), second)["primary"] == second
    with CheckpointStore(run, keyring=open_key_ring(run), model="net") as store:
        store.save(3, 3, {"a.bin": b"c"})
    rows = {row["key"]: row["checkpoints"] for row in told("list", str(run))}
    assert rows == {first: ["step-000000001", "step-000000002"], second: ["step-000000003"]}
    assert told("disable", str(run), first, "--yes")["lost"] == rows[first]
    assert steps_that_verify(run) == ["step-000000003"]
    assert told("destroy", str(run), first, "--yes")["change"] == "destroyed"
    assert keys(run) == {second: "primary"}
    changes = [row["text"] for row in shown(run) if row["kind"] == "key_changed"]
    assert [text.split(" is ")[1].split(";")[0] for text in changes] == [
        "added and promoted",
        "promoted",
        "promoted",
        "disabled",
        "destroyed",
    ]
    assert audit_problems(run) == []  # also what the key that is gone has sealed


def test_a_damaged_copy_of_a_key_is_told_by_verify_and_healed_by_rotate(run: Path) -> None:
    file = run / "checkpoints" / "step-000000002" / "trainer.json"
    header = bytearray(file.read_bytes()[:HEADER_BYTES])
    header[SLOTS["second"]] = bytes(len(header[SLOTS["second"]]))
    file.write_bytes(header + file.read_bytes()[HEADER_BYTES:])
    verified = esper("verify", str(run), "--json")
    assert verified.returncode == 1
    assert [row["problems"] for row in json.loads(verified.stdout)] == [[], []]
    (weak,) = json.loads(verified.stdout)[1]["weaknesses"]
    assert weak.startswith("trainer.json: the second of the two copies of its key does not open")
    rotated = esper("keys", "rotate", str(run))
    assert rotated.returncode == 0
    assert "and both are whole now" in " ".join(rotated.stdout.split())
    verified = esper("verify", str(run), "--json")
    assert verified.returncode == 0
    assert json.loads(verified.stdout)[1]["weaknesses"] == []


def shown(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(esper("audit", "show", str(run), "--json").stdout)["events"]
    return rows


def test_what_would_be_lost_is_asked_about_and_nothing_is_changed_until_then(run: Path) -> None:
    (first,) = keys(run)
    told("rotate", str(run))
    ring = (run / "keys" / "ring.json").read_bytes()
    refusals = {
        ("disable", first): "2 checkpoint(s) rest on",
        ("destroy", first): "disable it first",
        ("disable", "k-none"): "No key 'k-none' in the ring",
    }
    for words, message in refusals.items():
        outcome = esper("keys", words[0], str(run), words[1], "--json")
        assert outcome.returncode == 2
        assert message in " ".join(outcome.stderr.split())
    assert (run / "keys" / "ring.json").read_bytes() == ring
    assert [row["kind"] for row in shown(run)] == ["went_back", "key_changed"]


def test_keys_are_not_changed_while_the_run_trains(run: Path) -> None:
    with CheckpointStore(run, keyring=open_key_ring(run), model="net"):
        outcome = esper("keys", "rotate", str(run))
    assert outcome.returncode == 2
    assert "already being written" in " ".join(outcome.stderr.split())
    assert len(keys(run)) == 1


def test_the_public_state_tells_rings_apart_and_holds_no_secret(run: Path, tmp_path: Path) -> None:
    told("rotate", str(run))
    out = tmp_path / "public.json"
    assert esper("keys", "export-public-state", str(run), "--out", str(out)).returncode == 0
    document = json.loads(out.read_text())
    assert document == json.loads(esper("keys", "export-public-state", str(run)).stdout)
    assert [key["state"] for key in document["keys"]] == ["accepted", "primary"]
    assert len({key["fingerprint"] for key in document["keys"]}) == 2
    secrets = [key["secret"] for key in json.loads((run / "keys" / "ring.json").read_text())["keys"]]
    assert not any(secret in out.read_text() for secret in secrets)


def test_a_command_supplies_the_ring_and_keeps_it(run: Path, tmp_path: Path) -> None:
    vault = (run / "keys" / "ring.json").rename(tmp_path / "vault.json")
    os.environ["ESPER_KEY_RING"] = f"exec:cat {vault}"
    try:
        assert len(steps_that_verify(run)) == 2
        refused = esper("keys", "rotate", str(run))
    finally:
        del os.environ["ESPER_KEY_RING"]
    assert refused.returncode == 2
    assert "it is changed where that keeps it" in " ".join(refused.stderr.split())
    assert stat.S_IMODE(vault.stat().st_mode) == 0o600
