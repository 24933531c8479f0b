"""`esper ask`: what is wanted of a run that trains, and how it stands."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from esper.cli.render import FAINT, STRONG, moment, table
from esper.errors import ConfigError
from esper.leyline.wire import VERSION, messages
from esper.report import figures

_ACTIONS: dict[str, messages.AdaptationAction] = {
    "report": messages.ADAPTATION_ACTION_REPORT,
    "rollback": messages.ADAPTATION_ACTION_ROLL_BACK,
    "veto": messages.ADAPTATION_ACTION_VETO,
    "close-breaker": messages.ADAPTATION_ACTION_CLOSE_BREAKER,
    "grow": messages.ADAPTATION_ACTION_GROW,
    "cull": messages.ADAPTATION_ACTION_CULL,
    "pause": messages.ADAPTATION_ACTION_PAUSE_SEED,
    "unpause": messages.ADAPTATION_ACTION_UNPAUSE_SEED,
}
_OF_SEEDS = ("grow", "cull", "pause", "unpause")


def command_of(
    wish: str, *, slot: str = "", blueprint: str = "", why: str = "", to: int | None = None, key: str = ""
) -> messages.AdaptationCommand:
    """The message that asks for it.

    Raises:
        ConfigError: something is missing, or is given for a wish that has no use for it.
    """
    for name, value, wishes in (
        ("--at", slot, _OF_SEEDS),
        ("--blueprint", blueprint, ("grow",)),
        ("--why", why, ("veto", "cull")),
        ("--to", "" if to is None else str(to), ("rollback",)),
    ):
        if value and wish not in wishes:
            raise ConfigError(f"{name} goes with {' and '.join(wishes)}, not with {wish}. Nothing was asked.")
    if wish in _OF_SEEDS and not slot:
        raise ConfigError(f"{wish} needs --at, the path of a module as the network names it.")
    command = messages.AdaptationCommand(
        version=VERSION,
        idempotency_key=key,
        action=_ACTIONS[wish],
        by=f"{getpass.getuser()}@{socket.gethostname()}",
        slot=slot,
        blueprint=blueprint,
        reason=why,
    )
    if wish == "rollback":
        command.rollback.version = VERSION
        if to is not None:
            command.rollback.to_step = to
    return command


def asked(
    run: Path, command: messages.AdaptationCommand, wait_seconds: float, says: Callable[[str], None]
) -> dict[str, Any]:
    """Asks a run that trains, waits, and returns what it says; `says` hears what it waits for.

    Raises:
        EsperError: nobody trains there, nobody answers, or the run does not want to: the message says why.
    """
    from esper.checkpoint import open_key_ring
    from esper.runs import Asker, open_catalog

    open_catalog(run)  # refuses what is no run
    with Asker(run, open_key_ring(run)) as asker:
        alone = f"nobody trains in {run} any more; this waits for a resume, {wait_seconds:g} s at most."
        report = asker.ask(
            command,
            wait_seconds,
            lambda told: says(f"accepted: {told.text} Key {told.idempotency_key}."),
            lambda: says(alone),
        )
    if report.status == messages.COMMAND_STATUS_REFUSED:
        raise ConfigError(f"The run refused: {report.text} (key {report.idempotency_key})")
    return {
        "key": report.idempotency_key,
        "status": _word(messages.CommandStatus, report.status),
        "text": report.text,
        "state": state_facts(report.state),
    }


def state_facts(state: messages.SystemStatePacket) -> dict[str, Any]:
    """How a run stands, as plain data; what nobody has measured is null."""
    saved = state.checkpoint if state.HasField("checkpoint") else None
    return {
        "run": state.run,
        "at_seconds": state.at_seconds,
        "epoch": state.epoch,
        "step": state.step,
        "phase": _word(messages.PruningPhase, state.phase),
        "breaker": _word(messages.BreakerState, state.breaker),
        "workers": _word(messages.HealthStatus, state.workers),
        "metrics": {name: _rounded(value) for name, value in sorted(state.metrics.items())},
        "units": state.units,
        "masked_units": state.masked_units,
        "removed_fraction": state.removed_fraction if state.HasField("removed_fraction") else None,
        "cost": state.cost,
        "parameters": state.parameters,
        "checkpoint": None if saved is None else {"step": saved.step, "epoch": saved.epoch},
        "seeds": [
            {
                "slot": seed.slot,
                "stage": _word(messages.SeedLifecycleStage, seed.stage),
                "blueprint": seed.blueprint,
                "alpha": _rounded(seed.alpha),
                "steps_in_stage": seed.steps_in_stage,
                "is_paused": seed.is_paused,
                "evidence": seed.evidence,
            }
            for seed in state.seeds
        ],
    }


def state_table(facts: dict[str, Any]) -> RenderableType:
    """What a run has answered, for people."""
    state = facts["state"]
    metrics = ", ".join(f"{name} {value:g}" for name, value in state["metrics"].items()) or "none yet"
    removed = state["removed_fraction"]
    gone = "" if removed is None else f", {figures.percent(removed)} of the {state['cost']} removed"
    saved = state["checkpoint"]
    rows = [
        ("epoch", f"{state['epoch']} ended, step {state['step']}, at {moment(state['at_seconds'])} UTC"),
        ("metrics", metrics),
        ("pruning", f"{state['phase']}, breaker {state['breaker']}, workers {state['workers']}"),
        ("units", f"{state['units']}, {state['masked_units']} of them masked{gone}"),
        ("parameters", f"{state['parameters']:,}"),
        ("saved", "nothing yet" if saved is None else f"step {saved['step']}, epoch {saved['epoch']}"),
    ]
    cells = table("", "")
    for name, value in rows:
        cells.add_row(Text(name, style=STRONG), value)
    body: list[RenderableType] = [cells]
    if state["seeds"]:
        seeds = table("seed at", "stage", "blueprint", "share>", "")
        for seed in state["seeds"]:
            paused = "paused. " if seed["is_paused"] else ""
            told = f"{paused}{seed['evidence']}"
            seeds.add_row(seed["slot"], seed["stage"], seed["blueprint"], f"{seed['alpha']:g}", told)
        body.append(seeds)
    text = facts["text"]
    waiting = "It waits: " if facts["status"] == "waiting" else ""
    return Group(*([Text(f"{waiting}{text}", style=FAINT if waiting else "")] if text else []), *body)


def _word(enum: Any, number: int) -> str:
    """`PRUNING_PHASE_ON_TRIAL` as `on trial`; a number that a newer run has sent stays one."""
    value = enum.DESCRIPTOR.values_by_number.get(number)
    if value is None:
        return str(number)
    zero = enum.DESCRIPTOR.values_by_number[0].name
    return str(value.name).removeprefix(zero.removesuffix("UNKNOWN")).lower().replace("_", " ")


def _rounded(number: float) -> float:
    """What single precision holds, without the digits that it does not."""
    return float(f"{number:.6g}")
