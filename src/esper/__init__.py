"""Esper prunes a PyTorch network while it trains, and does its thinking at checkpoints.

Three calls: `esper.attach` before training, `Session.end_epoch` after every epoch, `Session.finish` last.
Importing this package does not import torch; the names below load their module when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.anatomy.units import inspect
    from esper.compaction import compact
    from esper.config import Config
    from esper.errors import EsperError
    from esper.runs.network import OfflinePruning, load
    from esper.session import Session, attach, resume

__version__ = "0.1.0"

__all__ = [
    "Config",
    "EsperError",
    "OfflinePruning",
    "Session",
    "__version__",
    "attach",
    "compact",
    "inspect",
    "load",
    "resume",
]

_HOME = {
    "Config": "esper.config",
    "EsperError": "esper.errors",
    "OfflinePruning": "esper.runs.network",
    "Session": "esper.session",
    "attach": "esper.session",
    "compact": "esper.compaction",
    "inspect": "esper.anatomy.units",
    "load": "esper.runs.network",
    "resume": "esper.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
