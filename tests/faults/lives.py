"""What Esper writes to a disk, way by way, each with what must hold however that was broken off.

A life does its work for real below a directory and says what it has acknowledged; its judge looks at what is
there afterwards. One set of them serves kills, power cuts, full disks and calls that fail.
"""

from __future__ import annotations

from pathlib import Path

from esper.checkpoint import (
    CheckpointCatalog,
    CheckpointStore,
    KeyRing,
    Storage,
    due,
    open_key_ring,
    rekey,
    replace_key_ring,
    withdraw,
)
from esper.checkpoint.audit import AuditReader
from esper.errors import CheckpointError, CheckpointMissing
from esper.nissa import acts
from tests.checkpoint.runs import RING, content, debris, holds, open_store
from tests.faults.folders import BUNDLE
from tests.faults.life import Life, Tell
from tests.faults.rekeyed import Hasty, kernels, rotated
from tests.oona.journaled import JOURNAL
from tests.runs.foreign.imported import IMPORT

# --- Checkpoint, mask commit, twin, retention, rollback ---


def _live_of_a_store(root: Path, storage: Storage, tell: Tell) -> None:
    with open_store(root / "run", keep_last=1, storage=storage) as store:
        tell("opened ")
        first = store.save(1, 0, content(1), pin="baseline")
        tell("saved-1 ")
        store.commit_attachment(first, "mask-01", {"masks.bin": b"101"})
        tell("attached ")
        store.save(2, 0, content(2))
        tell("saved-2 ")
        store.save(3, 0, content(3), blobs={"twin": store.put_blob("twin", b"program")})
        tell("saved-3 ")
        withdraw(store, first)
        tell("withdrawn ")


def _legal(told: str) -> set[int]:
    """The steps that may be the newest, given what was acknowledged: the last, or the one in the making."""
    if "withdrawn" in told:
        return {1}
    if "saved-3" in told:
        return {3, 1}
    if "saved-2" in told:
        return {2, 3}
    if "saved-1" in told:
        return {1, 2}
    return {0, 1}


def _judge_store(root: Path, told: str) -> str:
    run = root / "run"
    with open_store(run, keep_last=1) as store:
        search = store.search()
        found = search.found
        step = found.step if found else 0
        if debris(run) or search.rejected:
            return f"debris: {debris(run)}, rejected: {search.rejected}"
        if step not in _legal(told) or (found is not None and not holds(found, step)):
            return f"step {step} is the newest after {told}, or is not what was saved"
        twin = store.catalog.blob(found, "twin") if found is not None and step == 3 else None
        if twin is not None and twin.read_bytes() != b"program":
            return "the twin is not what was stored"
        wrong = _judge_pinned(store, told)
        if not holds(store.save(9, 0, content(9)), 9):
            return "the next save does not hold"
    return wrong


def _judge_pinned(store: CheckpointStore, told: str) -> str:
    if "saved-1" in told and 1 not in [ref.step for ref in store.list().checkpoints]:
        return "the pinned checkpoint is gone"
    if "attached" in told:
        masks = store.attachments(store.catalog.at(1)).found
        if len(masks) != 1 or masks[0].file("masks.bin").read_bytes() != b"101":
            return "the mask commit is gone"
        if store.pins().get(1) != frozenset({"baseline", "mask-01"}):
            return f"pins are {store.pins()}"
    return ""


# --- Audit ---


def _live_of_an_audit(root: Path, storage: Storage, tell: Tell) -> None:
    for begin in (0, 10):
        with open_store(root / "run", keep_last=2, storage=storage) as store:
            for number in range(begin + 1, begin + 4):
                store.audit.emit(acts.WentBack(number, number))
                tell(f"act-{number} ")
            store.audit.emit_all([acts.WentBack(number, number) for number in range(begin + 4, begin + 7)])
            tell(f"act-{begin + 4} act-{begin + 5} act-{begin + 6} ")
            store.save(begin + 1, 0, content(begin + 1))
            store.audit.emit(acts.WentBack(begin + 7, begin + 7))
            tell(f"act-{begin + 7} ")
        tell("closed ")


def _judge_audit(root: Path, told: str) -> str:
    wanted = {int(word[4:]) for word in told.split() if word.startswith("act-")}
    try:
        reader = AuditReader(CheckpointCatalog(root / "run", RING), RING)
    except CheckpointMissing as error:
        return f"{told}, but {error}" if wanted else ""
    if reader.report.findings:
        return f"the audit does not verify: {reader.report.findings[0].text}"
    there = [stored.entry.facts["to_step"] for stored in reader.entries()]
    if not wanted <= set(there) or there != sorted(set(there)):
        return f"the audit holds {there} after {told}"
    with open_store(root / "run", keep_last=2) as store:
        store.audit.emit(acts.WentBack(99, 99))
        store.save(99, 0, content(99))
    last = list(AuditReader(CheckpointCatalog(root / "run", RING), RING).entries())[-1]
    if last.entry.facts["to_step"] != 99:
        return "the audit cannot be continued"
    return f"debris: {debris(root / 'run')}" if debris(root / "run") else ""


# --- Key ring ---

_SECRET = b"what is important"


def _live_of_a_ring(root: Path, storage: Storage, tell: Tell) -> None:
    run = root / "run"
    ring = open_key_ring(run, create=True, environment={}, storage=storage)
    tell(f"made {ring.primary.id} ")
    for step in (1, 2):
        with CheckpointStore(run, keyring=ring, model="net", storage=storage) as store:
            store.save(step, 0, {**content(step), "importance.safetensors": _SECRET})
            kernels(store, ring, storage).commit(f"kernel-{step}", {"weights.bin": _SECRET})
            tell(f"saved-{step} ")
            ring = rotated(ring)
            _take_over(store, ring, storage)
        tell(f"rotated-{step} ")


def _take_over(store: CheckpointStore, ring: KeyRing, storage: Storage) -> None:
    """What `esper keys rotate` does to a run; what it cannot do is told."""
    store.audit.emit(acts.KeyChanged("added and promoted", ring.primary.id, ring.primary.id))
    replace_key_ring(store.run_dir / "keys" / "ring.json", ring, storage)
    done = rekey(store.run_dir, ring, due(store.run_dir, ring), storage)
    if done.failed or done.wrapped.failed:
        raise CheckpointError(f"not everything was taken over: {done.failed}, {done.wrapped.failed}")


def _judge_ring(root: Path, told: str) -> str:
    run, words = root / "run", told.split()
    ring = open_key_ring(run, create=True, environment={})
    if "made" in words and words[1] not in {key.id for key in ring.keys}:
        return "the key ring is another one"
    changes = sum(word.startswith("rotated") for word in words)
    if len(ring.keys) < 1 + changes:
        return f"{len(ring.keys)} keys after {told}"
    left = [path.name for path in (run / "keys").iterdir() if path.name != "ring.json"]
    if left:
        return f"copies of the ring are left: {left}"
    with CheckpointStore(run, keyring=ring, model="net") as store:
        steps = [int(word[6:]) for word in words if word.startswith("saved-")]
        search = store.search()
        if search.rejected or (search.found.step if search.found else 0) < max(steps, default=0):
            return f"after {told} the newest is {search.found}; rejected: {search.rejected}"
        for ref in store.list().checkpoints:
            if not holds(ref, ref.step) or ref.file("importance.safetensors").read_bytes() != _SECRET:
                return f"step {ref.step} is not what was saved"
        believed = KeyRing((ring.primary,)) if words[-1:] == ["rotated-2"] else ring
        for step in steps:
            if (
                kernels(store, believed, Hasty()).read(f"kernel-{step}").file("weights.bin").read_bytes()
                != _SECRET
            ):
                return f"kernel {step} is not what was made"
    alone = CheckpointCatalog(run, KeyRing((ring.primary,)))
    if words[-1:] == ["rotated-2"] and (alone.latest() is None or alone.list().rejected):
        return "something rests on an older key alone"
    findings = AuditReader(CheckpointCatalog(run, ring), ring).report.findings if changes else ()
    return f"the audit: {findings[0].text}" if findings else ""


LIVES = {
    "store": Life("checkpoint, mask commit, twin, retention, rollback", _live_of_a_store, _judge_store),
    "ring": Life(
        "key ring, and rotation with all that it seals and wraps again", _live_of_a_ring, _judge_ring
    ),
    "bundle": BUNDLE,
    "import": IMPORT,
    "audit": Life("audit", _live_of_an_audit, _judge_audit, is_by_storage=False),
    "journal": JOURNAL,
}
