"""The life of a whole run: training that masks, cuts, exports twins, retains and tells, epoch by epoch."""

from __future__ import annotations

from pathlib import Path

from esper.checkpoint import CheckpointCatalog, Storage, open_key_ring
from esper.checkpoint.audit import AuditReader
from esper.errors import CheckpointMissing
from esper.runs.network import read_state
from tests.faults.life import Life, Tell
from tests.session.runs import EPOCHS, Training


def newest_epoch(run_dir: Path) -> int:
    """Epoch of the newest checkpoint that verifies in full, or -1."""
    found = CheckpointCatalog(run_dir, open_key_ring(run_dir)).latest()
    return -1 if found is None else found.epoch


def has_gaps(run_dir: Path) -> bool:
    """Whether the audit does not verify, or has no entry for a mark of the newest checkpoint."""
    if not (run_dir / "audit.sqlite").exists():  # killed before anything was told
        return any(run_dir.glob("checkpoints/step-*"))
    ring = open_key_ring(run_dir)
    catalog = CheckpointCatalog(run_dir, ring)
    reader, newest = AuditReader(catalog, ring), catalog.latest()
    marks = [] if newest is None else read_state(newest)["log"]["marks"]
    told = {stored.entry.text for stored in reader.entries()}
    return bool(reader.report.findings) or any(mark["text"] not in told for mark in marks)


def _live(root: Path, _: Storage, tell: Tell) -> None:
    training = Training(root / "run")
    tell("begun ")
    while training.session.epoch < EPOCHS:
        training.epoch(lambda _: 0.5)
        training.session.parts.saving.settle()
        tell(f"epoch-{training.session.epoch} ")
        for mark in training.session.log.marks:
            tell(f"{mark.kind} ")
    training.session.finish(latency=False)
    tell("finished ")


def _judge(root: Path, told: str) -> str:
    run, acknowledged = root / "run", [int(word[6:]) for word in told.split() if word.startswith("epoch-")]
    try:
        newest = newest_epoch(run)
        is_told = not (run / "audit.sqlite").exists() or not has_gaps(run)
    except CheckpointMissing:
        return f"nothing can be opened after {told}" if told else ""
    if newest < max(acknowledged, default=-1):
        return f"epoch {newest} is the newest after {told}"
    return "" if is_told else f"the audit has gaps after {told}"


RUN = Life("a run that masks, cuts and finishes", _live, _judge, is_by_storage=False)
