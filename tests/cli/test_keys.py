"""The life of a key on the command line, told by the audit."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import stat
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from esper.checkpoint import HEADER_BYTES, SLOTS, CheckpointStore, key_ring_to_change, open_key_ring
from esper.cli.main import main
from esper.errors import CheckpointError
from esper.nissa import acts
from esper.runs.network import load
from tests.cli.test_main import esper
from tests.faults.rekeyed import Hasty, kernels


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two checkpoints, a mask and one act, all sealed by its first key."""
    run = tmp_path / "run"
    with CheckpointStore(run, keyring=open_key_ring(run, create=True), model="net") as store:
        store.commit_attachment(store.save(1, 1, {"a.bin": b"a"}), "mask-01", {"masks.bin": b"101"})
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
    """What the digests of all files are about, and manifests as they were first sealed."""
    contents = {file: file.read_bytes() for file in run.glob("checkpoints/step-*/**/*") if file.is_file()}
    for file, raw in contents.items():
        if file.name == "MANIFEST.json":
            contents[file] = b"".join(raw.splitlines(keepends=True)[:2])
        elif file.name in ("trainer.json", "masks.bin"):
            contents[file] = raw[HEADER_BYTES:]
    return {str(file): raw for file, raw in contents.items()}


def audit_problems(run: Path) -> list[str]:
    document = json.loads(esper("audit", "verify", str(run), "--json").stdout)
    return [problem["text"] for problem in document["problems"]]


def test_the_ring_of_another_run_is_said_to_be_that_by_every_command(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    open_key_ring(other, create=True)
    shutil.copy(other / "keys" / "ring.json", run / "keys" / "ring.json")
    for words in ("verify", "checkpoints", "audit verify", "audit show", "keys list", "inspect"):
        outcome = esper(*words.split(), str(run))
        assert outcome.returncode == 2, words
        said = " ".join(outcome.stderr.split())
        assert "is that of another run, or an older copy" in said
        assert "Put the newest copy of this run's key ring there" in said
    with pytest.raises(CheckpointError, match="that of another run"):
        load(run)


def test_an_older_copy_of_the_ring_reads_what_is_older_and_the_list_names_the_key_that_is_missing(
    run: Path,
) -> None:
    (first,) = keys(run)
    old = (run / "keys" / "ring.json").read_bytes()
    second = told("rotate", str(run))["key"]
    with CheckpointStore(run, keyring=open_key_ring(run)) as store:
        store.save(3, 3, {"a.bin": b"c"})
    (run / "keys" / "ring.json").write_bytes(old)
    listed = json.loads(esper("checkpoints", str(run), "--json").stdout)
    assert [row["step"] for row in listed] == [1, 2, None]
    rows = {row["key"]: row for row in told("list", str(run))}
    assert rows[second] == {
        "key": second,
        "state": "missing",
        "fingerprint": None,
        "commits": ["step-000000001/mask-01", "step-000000002", "step-000000003"],
    }
    assert "missing" in esper("keys", "list", str(run)).stdout
    public = json.loads(esper("keys", "export-public-state", str(run)).stdout)
    assert [key["key"] for key in public["keys"]] == [first]


def test_the_public_state_is_written_to_a_file_and_that_is_said(run: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    assert told("export-public-state", str(run), "-o", str(first)) == {"file": str(first), "keys": 1}
    assert json.loads(first.read_text()) == told("export-public-state", str(run))
    outcome = esper("keys", "export-public-state", str(run), "-o", str(second))
    assert "holds 1 key." in " ".join(outcome.stdout.split())


def test_a_key_lives_from_its_making_to_its_end_and_nothing_is_lost_with_it(run: Path) -> None:
    (first,) = keys(run)
    before, verified = sealed(run), steps_that_verify(run)
    rotated = told("rotate", str(run))
    second = rotated["key"]
    done = {name: rotated[name] for name in ("resealed", "not_resealed", "rewrapped", "not_rewrapped")}
    assert done == {"resealed": 3, "not_resealed": [], "rewrapped": 2, "not_rewrapped": []}
    assert keys(run) == {first: "accepted", second: "primary"}
    assert sealed(run) == before  # nothing but seals and headers was written again
    assert told("promote", str(run), first)["primary"] == first
    assert told("promote", str(run), second)["primary"] == second
    with CheckpointStore(run, keyring=open_key_ring(run), model="net") as store:
        store.save(3, 3, {"a.bin": b"c"})
    rows = {row["key"]: row["commits"] for row in told("list", str(run))}
    assert rows == {first: [], second: ["step-000000001/mask-01", "step-000000002", "step-000000003"]}
    assert told("disable", str(run), first)["lost"] == []  # nobody is asked: nothing is lost
    assert told("destroy", str(run), first)["change"] == "destroyed"
    assert keys(run) == {second: "primary"}
    assert steps_that_verify(run) == [*verified, "step-000000003"]
    with CheckpointStore(run, keyring=open_key_ring(run), model="net") as store:
        base = store.catalog.at(1)
        (mask,) = store.attachments(base).found
        assert mask.file("masks.bin").read_bytes() == b"101"
        assert store.catalog.at(2).manifest.parent == base.digest
        assert store.catalog.at(2).file("trainer.json").read_bytes() == b"{}"
    changes = [row["text"] for row in shown(run) if row["kind"] == "key_changed"]
    assert [text.split(" is ")[1].split(";")[0] for text in changes] == [
        "added and promoted",
        "promoted",
        "promoted",
        "disabled",
        "destroyed",
    ]
    sealings = [row["text"] for row in shown(run) if row["kind"] == "sealed_again"]
    assert sealings[0] == f"{second} vouches from now on for 3 manifest(s) of older keys."
    assert audit_problems(run) == []  # also what the key that is gone has sealed


def test_kernels_are_counted_and_taken_over_too(run: Path) -> None:
    ring = open_key_ring(run)
    with CheckpointStore(run, keyring=ring, model="net") as store:
        kernels(store, ring, Hasty()).commit("kernel-1", {"a.bin": b"a"})
    (row,) = told("list", str(run))
    assert "kernels/kernel-1" in row["commits"]
    rotated = told("rotate", str(run))
    assert (rotated["resealed"], rotated["not_resealed"]) == (4, [])
    old, _ = told("list", str(run))
    assert old["commits"] == []


def test_what_nobody_could_vouch_for_is_not_sealed_by_the_new_key(run: Path) -> None:
    manifest = run / "checkpoints" / "step-000000001" / "MANIFEST.json"
    genuine = manifest.read_bytes()
    manifest.write_bytes(genuine.replace(b'"epoch": 1', b'"epoch": 7'))
    rotated = told("rotate", str(run))
    assert rotated["resealed"] == 2
    (reason,) = rotated["not_resealed"]
    assert reason.startswith("step-000000001: its MAC does not verify")
    assert steps_that_verify(run) == ["step-000000002"]
    (first, _) = keys(run)
    manifest.write_bytes(genuine)  # what was not sealed again is asked about
    outcome = esper("keys", "disable", str(run), first, "--json")
    assert "These rest on" in " ".join(outcome.stderr.split())
    assert told("promote", str(run), rotated["key"])["resealed"] == 1


def test_the_primary_key_is_not_said_to_be_promoted_again(run: Path) -> None:
    (first,) = keys(run)
    outcome = esper("keys", "promote", str(run), first)
    said = " ".join(outcome.stdout.split())
    assert f"Key {first} is the primary one already; the ring was not changed." in said
    assert [row for row in shown(run) if row["kind"] == "key_changed"] == []


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
    late = run / "checkpoints" / "step-000000002" / "MANIFEST.json"  # as a rotation that was killed leaves it
    late.write_bytes(b"".join(late.read_bytes().splitlines(keepends=True)[:2]))
    ring = (run / "keys" / "ring.json").read_bytes()
    refusals = {
        ("disable", first): "These rest on",
        ("destroy", first): "disable it first",
        ("disable", "k-none"): "No key 'k-none' in the ring",
    }
    for words, message in refusals.items():
        outcome = esper("keys", words[0], str(run), words[1], "--json")
        assert outcome.returncode == 2
        assert message in " ".join(outcome.stderr.split())
    assert (run / "keys" / "ring.json").read_bytes() == ring
    assert [row["kind"] for row in shown(run)] == ["went_back", "key_changed", "sealed_again"]


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


def test_a_second_change_at_once_is_refused(run: Path) -> None:
    with key_ring_to_change(run):
        outcome = esper("keys", "rotate", str(run))
    assert outcome.returncode == 2
    assert "is being changed by another process" in " ".join(outcome.stderr.split())
    assert len(keys(run)) == 1


def test_what_is_a_link_to_another_disk_is_taken_over_as_well(run: Path, tmp_path: Path) -> None:
    (first,) = keys(run)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for moved in (run / "checkpoints" / "step-000000002", run / "checkpoints" / "step-000000001" / "mask-01"):
        moved.rename(elsewhere / moved.name)
        moved.symlink_to(elsewhere / moved.name)
    rotated = told("rotate", str(run))
    assert (rotated["resealed"], rotated["rewrapped"]) == (3, 2)
    told("disable", str(run), first)
    told("destroy", str(run), first)
    assert len(steps_that_verify(run)) == 2
    with CheckpointStore(run, keyring=open_key_ring(run), model="net") as store:
        assert len(store.attachments(store.catalog.at(1)).found) == 1


def test_what_is_no_file_keeps_nobody_from_rotating_and_is_named(run: Path) -> None:
    manifest = run / "checkpoints" / "step-000000001" / "MANIFEST.json"
    manifest.unlink()
    manifest.mkdir()
    outcome = esper("keys", "rotate", str(run))
    said = " ".join(outcome.stdout.split())
    assert outcome.returncode == 0
    assert (
        "It vouches for 2 manifest(s) as well. It does not vouch for these manifests: step-000000001" in said
    )


def test_a_file_that_only_an_older_key_opens_is_asked_about_too(run: Path) -> None:
    (first,) = keys(run)
    file = run / "checkpoints" / "step-000000002" / "trainer.json"
    before = file.read_bytes()
    told("rotate", str(run))
    file.write_bytes(before)  # as where its disk could not be written
    rows = {row["key"]: row["commits"] for row in told("list", str(run))}
    assert rows[first] == ["step-000000002"]
    assert esper("keys", "disable", str(run), first, "--json").returncode == 2


def test_a_ring_that_cannot_be_replaced_is_said_to_be_that(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("esper.checkpoint.ring_file.put_in_place", full)
    outcome = esper("keys", "rotate", str(run))
    said = " ".join(outcome.stderr.split())
    assert outcome.returncode == 2
    assert "ring.json could not be replaced durably, though the audit tells by now that key" in said
    assert "the disk is full" in said
    monkeypatch.undo()
    assert len(keys(run)) == 1


def test_the_name_of_a_run_need_not_be_text(run: Path, tmp_path: Path) -> None:
    strange = run.rename(tmp_path / "no text \udcff")
    written = io.BytesIO()
    out = io.TextIOWrapper(written, "utf-8")
    with redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main(("audit", "verify", str(strange)))
    out.flush()
    assert ended.value.code == 0
    assert b"no text \xff/audit.sqlite: intact" in written.getvalue()
