"""What rank 0 tells the others when a call is over: how far the run is, and what it has come to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from esper.leyline import decode, encode
from esper.report import EpochRow, RunReport
from esper.session.finish import Result
from esper.session.session import Session


def known_of(session: Session, done: object = None) -> dict[str, Any]:
    """What the other ranks have to know when a call is over.

    Args:
        session: of rank 0.
        done: what it has returned.
    """
    rows = session.log.epochs
    return {
        "epoch": session.epoch,
        "step": session.step,
        "row": encode(rows[-1]) if rows else None,
        "result": _told(done) if isinstance(done, Result) else None,
    }


def _told(result: Result) -> dict[str, Any]:
    """A result without its network, as another rank takes it."""
    fields = {name: value for name, value in vars(result).items() if name not in ("model", "report")}
    paths = {name: str(fields[name]) for name in ("report_path", "run_dir")}
    return {**fields, **paths, "report": encode(result.report)}


def row_in(known: Mapping[str, Any]) -> EpochRow | None:
    """The last epoch, if one has ended."""
    return None if known["row"] is None else decode(EpochRow, known["row"])


def result_in(known: Mapping[str, Any], model: nn.Module) -> Result:
    """The result of rank 0, with the network of this one."""
    told = known["result"]
    paths = {name: Path(told[name]) for name in ("report_path", "run_dir")}
    return Result(**{**told, **paths, "model": model, "report": decode(RunReport, told["report"])})
