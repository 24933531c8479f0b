"""Runs that came no further than their beginning: nobody can go on with them, and nothing is lost."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from esper.checkpoint import WriterLock
from esper.errors import CheckpointError

_FIRST = "step-000000000"
_OWN_PIN = f"{_FIRST}.baseline"
_WRITTEN = ("batches", "checkpoints", "keys", "mail", "run.json", "samples", "telemetry.jsonl", "twin")
"""What a run writes before its first step, beside its audit."""


def set_aside(run_dir: Path) -> Path | None:
    """Moves a run out of the way that holds nothing but the state from before its first step.

    Returns:
        Where it is now; None if there is none, or one that holds more, a mark of the framework's, or somebody
        else's files: that stays where it is.

    Raises:
        CheckpointError: another process writes there, or the directory cannot be moved.
    """
    if not _is_beginning(run_dir):
        return None
    try:
        lock = WriterLock(run_dir / "checkpoints")
        try:
            if not _is_beginning(run_dir):  # its writer went on until just now
                return None
            places = (run_dir.with_name(f"{run_dir.name}.begun-{number}") for number in count(1))
            place = next(place for place in places if not place.exists())
            return run_dir.rename(place)
        finally:
            lock.release()
    except OSError as error:
        raise CheckpointError(
            f"{run_dir} holds a run that was stopped before it had saved more than its beginning, and it "
            f"cannot be moved out of the way: {error.strerror}. Nothing was changed. Give another run_dir."
        ) from error


def _is_beginning(run_dir: Path) -> bool:
    steps = [path.name for path in (run_dir / "checkpoints").glob("step-*")]
    pins = [path.name for path in (run_dir / "checkpoints" / "pins").glob("step-*")]
    if steps != [_FIRST] or set(pins) - {_OWN_PIN}:
        return False
    names = [path.name for path in run_dir.iterdir()]
    return all(name in _WRITTEN or name.startswith("audit.sqlite") for name in names)
