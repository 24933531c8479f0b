"""Esper prunes a PyTorch network while it trains, and does its thinking at checkpoints.

Three calls: `esper.attach` before training, `Session.end_epoch` after every epoch, `Session.finish` last.
Importing this package does not import torch; the names below load their module when they are first used.

The parts, from the ground up:
    leyline     words, ids and the codec that all parts share
    nissa       what people are told
    workers     killable processes
    batches     held-out data
    checkpoint  the store
    anatomy     what a network is made of, and cutting it with a proof
    cost        what a network costs
    importance  what its units are worth
    urabrask    quality, and the verdict on a mask
    elesh       analysis of a checkpoint in workers
    kasmina     the live network: its masks, its cuts, its teachers, its seeds
    tamiyo      policies of growing
    emrakul     plans, cycles, trials and rollbacks
    runs        run directories, read from outside
    compaction  cutting at once, without a run
    session     all of it in one training
    integrations  the same as one line in other people's loops
    report      pictures and the page
    cli         the command line
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.anatomy.units import inspect
    from esper.compaction import compact
    from esper.config import Config
    from esper.errors import EsperError
    from esper.kasmina import CheckpointedTeacher, StaticKDLoss
    from esper.kasmina.seeds import Growth
    from esper.runs.network import OfflinePruning, load
    from esper.session import Session, attach, resume

__version__ = "0.1.0"

__all__ = [
    "CheckpointedTeacher",
    "Config",
    "EsperError",
    "Growth",
    "OfflinePruning",
    "Session",
    "StaticKDLoss",
    "__version__",
    "attach",
    "compact",
    "inspect",
    "load",
    "resume",
]

_HOME = {
    "CheckpointedTeacher": "esper.kasmina",
    "Config": "esper.config",
    "EsperError": "esper.errors",
    "Growth": "esper.kasmina.seeds",
    "OfflinePruning": "esper.runs.network",
    "Session": "esper.session",
    "StaticKDLoss": "esper.kasmina",
    "attach": "esper.session",
    "compact": "esper.compaction",
    "inspect": "esper.anatomy.units",
    "load": "esper.runs.network",
    "resume": "esper.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from esper.garbage import imported

    return getattr(imported(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
