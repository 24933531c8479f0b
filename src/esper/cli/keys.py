"""`esper keys`: which keys a run has, what rests on each, and the life of a key from first to last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import RenderableType
from rich.text import Text

from esper.cli.render import BAD, GOOD, table
from esper.runs import open_catalog

if TYPE_CHECKING:
    from esper.checkpoint import KeyRing, Rekeyed

Change = Literal["rotate", "promote", "disable", "destroy"]
MISSING = "missing"
"""The state of a key that the ring does not hold."""
_STYLES = {"primary": GOOD, "disabled": BAD, MISSING: BAD}
_DONE = {"rotate": "added and promoted", "promote": "promoted", "disable": "disabled", "destroy": "destroyed"}


def key_rows(run: Path) -> list[dict[str, Any]]:
    """Every key: id, state, what shows that two rings hold the same one, and what rests on it alone.

    A key that something rests on and that the ring does not hold is `missing`, without a fingerprint.
    """
    from esper.checkpoint import missing_keys, open_key_ring, resting_on

    open_catalog(run)  # refuses what is no run, and the ring of another
    ring = open_key_ring(run)
    held = [
        {
            "key": key.id,
            "state": key.state.value,
            "fingerprint": key.fingerprint,
            "commits": resting_on(run, ring, key.id),
        }
        for key in ring.keys
    ]
    missing = [
        {"key": key, "state": MISSING, "fingerprint": None, "commits": names}
        for key, names in missing_keys(run, ring).items()
    ]
    return held + missing


def public_state(run: Path) -> dict[str, Any]:
    """What may be shown to everybody: which keys there are, and nothing that helps to forge."""
    names = ("key", "state", "fingerprint")
    held = [row for row in key_rows(run) if row["state"] != MISSING]
    return {"version": 1, "keys": [{name: row[name] for name in names} for row in held]}


def key_table(rows: Sequence[dict[str, Any]]) -> RenderableType:
    """One row per key."""
    cells = table("key", "state", "fingerprint", "rest on it alone>")
    for row in rows:
        state = Text(row["state"], style=_STYLES.get(row["state"], ""))
        cells.add_row(row["key"], state, row["fingerprint"] or "", str(len(row["commits"])))
    return cells


def change_keys(
    run: Path, change: Change, key: str | None, confirm: Callable[[Sequence[str]], None]
) -> dict[str, Any]:
    """Changes the ring of a run that is not training; the audit tells of it first.

    A new primary key also vouches for all manifests, and wraps the keys of all encrypted files.

    Args:
        run: the run directory.
        change: what to do.
        key: to which key; None makes a new one.
        confirm: is told which commits will not verify any more, and raises if that is not wanted.

    Raises:
        ConfigError: there is no such key, or it is in a state that does not allow it; nothing was changed.
        CheckpointError: the run is training, or the audit cannot be written; nothing was changed.
    """
    from esper.checkpoint import CheckpointStore, due, explained, key_ring_to_change, rekey, replace_key_ring
    from esper.nissa import acts

    with key_ring_to_change(run) as (path, ring):
        rows = {row["key"]: row for row in key_rows(run)}
        changed = _changed(ring, change, key)
        named = changed.primary.id if key is None else key
        lost = rows[named]["commits"] if change in ("disable", "destroy") else []
        if lost:
            confirm(lost)
        with CheckpointStore(run, keyring=ring) as store:
            is_new = change in ("rotate", "promote")
            if changed != ring:
                store.audit.emit(acts.KeyChanged(_DONE[change], named, changed.primary.id))
            if manifests := due(run, changed) if is_new else {}:
                store.audit.emit(acts.SealedAgain(changed.primary.id, manifests))
            told = f"though the audit tells by now that key {named} is {_DONE[change]}"
            with explained(f"The key ring {path} could not be replaced durably, {told}"):
                replace_key_ring(path, changed)
            done = rekey(run, changed, manifests) if is_new else None
    facts = {
        "key": named,
        "change": _DONE[change],
        "is_changed": changed != ring,
        "primary": changed.primary.id,
        "lost": lost,
    }
    return {**facts, **_told(done)}


def _told(done: Rekeyed | None) -> dict[str, Any]:
    """What the new primary key has taken over, for people and programs."""
    if done is None:
        return {"resealed": 0, "not_resealed": (), "rewrapped": 0, "healed": (), "not_rewrapped": ()}
    return {
        "resealed": len(done.sealed),
        "not_resealed": done.failed,
        "rewrapped": done.wrapped.count,
        "healed": done.wrapped.healed,
        "not_rewrapped": done.wrapped.failed,
    }


def _changed(ring: KeyRing, change: Change, key: str | None) -> KeyRing:
    if key is None:
        added = ring.add()
        return added.promote(added.keys[-1].id)
    changes = {"promote": ring.promote, "disable": ring.disable, "destroy": ring.destroy}
    return changes[change](key)
