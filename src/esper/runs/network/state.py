"""How a run lies in a checkpoint: the states of its parts by name, in the files that workers read.

`model.safetensors`, `optimizer.safetensors` and `trainer.json` hold what a trainer has (see `TrainerState`),
the tensors of a loss lie in a file of their own, and every other part stands in `extra` under its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from esper.checkpoint import CheckpointRef, FileContent, TrainerState, load_trainer
from esper.errors import CheckpointError
from esper.runs.network.case import ANATOMY_FILE, CRITERION_FILE, criterion_of

VERSION = 2
_VERSION, _WRITTEN_BY = "version", "written_by"


def state_files(step: int, epoch: int, state: Mapping[str, Any]) -> dict[str, FileContent]:
    """The files of a checkpoint with these parts; `read_state` is the inverse.

    Args:
        step: optimizer steps until now.
        epoch: epochs that have ended.
        state: of every part, by its name.
    """
    parts = dict(state)
    criterion = parts.pop("criterion")
    said = {_VERSION: VERSION, _WRITTEN_BY: version("esper-torch"), "criterion": criterion["rest"]}
    files = TrainerState.of(step, epoch, {**parts, **said}).files()
    return {**files, CRITERION_FILE: criterion["tensors"]} if criterion["tensors"] else files


def read_state(checkpoint: CheckpointRef) -> dict[str, Any]:
    """The states of a run's parts by name, from a verified checkpoint of this version or an earlier one.

    Raises:
        CheckpointError: it was not saved by a session, or by a later Esper.
        CheckpointCorrupt: a file is not what was saved.
    """
    if ANATOMY_FILE not in checkpoint.files:
        raise CheckpointError(
            f"{checkpoint.path} was not saved by a session, so it says nothing of a run. Name one of a run "
            "that was trained with esper.attach."
        )
    trainer = load_trainer(checkpoint)
    parts = trainer.parts()
    found = parts.pop(_VERSION, 1)
    if found > VERSION:
        raise CheckpointError(
            f"{checkpoint.path} was written by Esper {parts[_WRITTEN_BY]} in form {found} of its state, and "
            f"this Esper, {version('esper-torch')}, reads up to {VERSION}. Nothing was changed. Use Esper "
            f"{parts[_WRITTEN_BY]}."
        )
    if found == 1:
        try:
            parts = {**{name: parts[name] for name in _TRAINER}, **_from_version_1(trainer.extra)}
        except KeyError as missing:
            raise CheckpointError(
                f"{checkpoint.path} says nothing of {missing}, so it was written before this Esper, "
                f"{version('esper-torch')}, can read it. Nothing was changed. Use the Esper that run.json "
                "beside the checkpoints names."
            ) from missing
    if "criterion" in parts:
        parts["criterion"] = {"tensors": criterion_of(checkpoint), "rest": parts["criterion"]}
    parts.setdefault("setbacks", {"rollbacks": parts["trial"].get("rollbacks", 0)})  # older runs: in there
    parts["progress"] = {**parts["progress"], "step": trainer.step, "epoch": trainer.epoch}
    return parts


_TRAINER = ("model", "optimizer", "schedulers", "scaler", "rng")


def _from_version_1(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a run that was saved before they had names; what it did not know is left out."""
    log, trial = extra["log"], extra["trial"]
    if trial["watch"] is not None and "changes" in extra:  # the first runs kept them beside it
        trial = {**trial, "watch": {**trial["watch"], "changes": extra["changes"]}}
    terms = ("config", "metric", "higher_is_better", "epochs_planned", "origin")
    parts = {
        "terms": {**{name: extra[name] for name in terms}, "trained_by": extra.get("optimizer_class")},
        "structure": {"changes": extra["cuts"], "companions": len(extra["companions"])},
        "companions": extra["companions"],
        "masks": {"keep": extra["keep"], "originals": extra["originals"]},
        "tracker": extra["tracker"],
        "progress": {name: log[name] for name in ("epochs", "decisions")},
        "log": {"marks": log["marks"], "notes": log["notes"], "withdrawals": log.get("withdrawals", ())},
        "trial": trial,
        "workers": extra.get("workers", ()),
        "parameter_names": extra["parameter_names"],
    }
    if extra["coordinator"] is not None:
        parts["coordinator"] = extra["coordinator"]
    if "frozen" in extra:
        parts["trainable"] = extra["frozen"]
    if "criterion" in extra:  # its tensors too, which lie in the file beside it as well
        parts["criterion"] = extra["criterion"] or {}
    return parts
