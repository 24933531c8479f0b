"""What `esper inspect` can be pointed at: a function that builds a model, a run, or one checkpoint."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.errors import CheckpointMissing, ConfigError
from esper.leyline import decode
from esper.nissa import TELEMETRY_FILE
from esper.runs.named import called
from esper.runs.rows import step_number
from esper.runs.story import REPORT_FILE, RUN_FILE, runs_in

if TYPE_CHECKING:
    from esper.anatomy import Anatomy
    from esper.anatomy.cut import Block
    from esper.checkpoint import CheckpointCatalog, CheckpointRef
    from esper.report import MapLayer

_MOST_NAMED = 3
_TOLD = (TELEMETRY_FILE, REPORT_FILE)
"""What there may be to look at where nothing was saved."""


@dataclass(frozen=True)
class Inspected:
    """The anatomy of a network, and where its graph is known its layers and those that can be left out."""

    anatomy: Anatomy
    layers: tuple[MapLayer, ...]
    blocks: tuple[Block, ...] = ()


def inspected(target: str, *, allow_approximate: bool = False) -> Inspected:
    """Finds the anatomy that a target names.

    Args:
        target: `module:function`, where the function takes nothing and returns `(model, sample)` or
            `(model, sample, loss)`; or a run directory (its newest good checkpoint); or one checkpoint.
        allow_approximate: of a function's model, also find units that normalizations run over.

    Raises:
        ConfigError: the target names nothing that can be inspected.
        UntraceableError: the model cannot be exported.
    """
    path = Path(target)
    if path.is_dir():
        return _stored(path)
    if ":" not in target:
        raise ConfigError(
            f"Nothing can be inspected at {target!r}: there is no such directory, and it is not of the form "
            "module:function. Name a run directory, a checkpoint, or a function that returns (model, sample)."
        )
    from esper.anatomy.cut import blocks_of
    from esper.anatomy.graph import trace
    from esper.anatomy.units import anatomy_of
    from esper.runs.network import layers_of

    model, sample, *loss = built(target)
    traced = trace(model, sample, loss[0] if loss else None)
    anatomy = anatomy_of(traced, model, allow_approximate=allow_approximate)
    return Inspected(anatomy, layers_of(traced, anatomy), blocks_of(traced, anatomy))


def open_catalog(run: Path) -> CheckpointCatalog:
    """The checkpoints of a run directory, for reading.

    Raises:
        ConfigError: there is no such directory, or it is that of no run.
        CheckpointMissing: it holds no key ring, so nothing in it can be verified.
        CheckpointError: the key ring is that of another run.
    """
    if not run.is_dir():
        raise ConfigError(
            f"There is no run directory at {run}. Name the run_dir that was given to esper.attach; "
            "it holds a directory called checkpoints."
        )
    require_run(run)
    from esper.checkpoint import CheckpointCatalog, open_key_ring, require_own_ring

    ring = open_key_ring(run)
    require_own_ring(run, ring)
    return CheckpointCatalog(run, ring)


def require_run(place: Path) -> None:
    """Refuses a directory that nobody has begun a run in, and says what to name instead.

    Raises:
        ConfigError: it is that of no run.
    """
    if not any((place / name).exists() for name in ("checkpoints", "keys", RUN_FILE, *_TOLD)):
        raise ConfigError(f"{place} is no run directory: it has no checkpoints/. {_instead(place)}")


def _instead(place: Path) -> str:
    """What to name instead of a directory that is that of no run."""
    full = place.resolve()
    if full.parent.name == "checkpoints":
        return f"It is in one: name {full.parents[1]}."
    if full.name == "checkpoints":
        return f"It is part of one: name {full.parent}."
    runs = [str(path) for path in runs_in(place).values()] if os.access(place, os.R_OK) else []
    if not runs:
        return "Name the run_dir that was given to esper.attach."
    more = f" or one of {len(runs) - _MOST_NAMED} more" if len(runs) > _MOST_NAMED else ""
    return f"It holds some: name {', '.join(runs[:_MOST_NAMED])}{more}."


def _stored(path: Path) -> Inspected:
    from esper.anatomy import Anatomy
    from esper.anatomy.cut import blocks_of
    from esper.anatomy.graph import Traced
    from esper.anatomy.twin import Twin
    from esper.runs.network import ANATOMY_FILE, layers_of

    catalog, checkpoint = checkpoint_at(path)
    anatomy = decode(Anatomy, json.loads(checkpoint.file(ANATOMY_FILE).read_bytes()))
    if "twin" not in checkpoint.manifest.blobs:
        return Inspected(anatomy, ())
    twin = Twin.from_bytes(catalog.blob(checkpoint, "twin").read_bytes())
    traced = Traced(twin.program, twin.names, twin.batch, True, twin.is_batch_dynamic)
    return Inspected(anatomy, layers_of(traced, anatomy), blocks_of(traced, anatomy))


def checkpoint_at(path: Path) -> tuple[CheckpointCatalog, CheckpointRef]:
    """The checkpoint that a path names (of a run: its newest good one) and the catalog that it is in.

    Raises:
        CheckpointMissing: there is none that verifies.
        ConfigError: the path is no run.
    """
    full = path.resolve()
    if full.parent.name == "checkpoints" and full.name.startswith("step-"):
        catalog = open_catalog(full.parents[1])
        return catalog, catalog.at(step_number(full))
    catalog = open_catalog(path)
    newest = catalog.latest()
    if newest is None:
        raise CheckpointMissing(
            f"{path} holds no checkpoint that verifies, so there is no anatomy to show. "
            f"`esper verify {path}` says what is wrong with each."
        )
    return catalog, newest


def built(target: str) -> tuple[Any, ...]:
    """What the function of `module:function` returns: `(model, sample)` or `(model, sample, loss)`.

    Raises:
        ConfigError: there is no such function, or it returns something else.
    """
    built = called(target)
    if not isinstance(built, tuple) or len(built) not in {2, 3}:
        found = f"a tuple of {len(built)}" if isinstance(built, tuple) else type(built).__name__
        raise ConfigError(
            f"{target} returned {found}; expected (model, sample) or (model, sample, loss), "
            "where sample is one batch that the model can be called with."
        )
    return built
