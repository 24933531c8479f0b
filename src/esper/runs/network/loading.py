"""Loading a cut network: without its code as a program, or into a fresh instance of its class."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from torch import Tensor, nn

from esper.anatomy.archive import read_module
from esper.anatomy.cut import Form
from esper.anatomy.graph import bare
from esper.checkpoint import CheckpointCatalog, CheckpointRef, load_trainer, open_key_ring, require_own_ring
from esper.errors import CheckpointMissing
from esper.kasmina.seeds import Blueprint, Recipe
from esper.leyline import decode
from esper.runs.network.files import (
    FORM_FILE,
    FORMLESS,
    GROWN,
    PROGRAM_FILE,
    form_from,
    read_file,
    read_form,
    read_weights,
    state_of,
)
from esper.tezzeret import blueprints_in

M = TypeVar("M", bound=nn.Module)


@overload
def load(path: str | Path) -> Callable[..., Any]: ...
@overload
def load(path: str | Path, *, model: M, blueprints: Mapping[str, Blueprint] | None = None) -> M: ...
def load(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    blueprints: Mapping[str, Blueprint] | None = None,
) -> Any:
    """A cut network, from a finished run, from what `Compacted.save` wrote, or from a `.pt2` file.

    Without `model` no class of the user is needed: the result is called like the network and computes as in
    eval mode. With `model`, a fresh and uncut instance of the network's class, that instance gets the widths
    and the weights of the cut one and is returned; nothing is traced, and it can be trained on.

    Nothing that a file holds is run, whoever wrote it: a program may only call operators that compute, and
    its weights are bytes. Of a run only what its key vouches for is read, and not what lies beside it. What
    `Compacted.save` wrote is verified by its digests.

    Args:
        path: a run directory, a directory with `network.pt2`, or a `.pt2` file.
        model: a network built exactly as the one that was cut, on its device; or built under
            `torch.device("meta")`, which takes no time, and then it is loaded onto the CPU.
        blueprints: your own ones that something in it has grown by.

    Raises:
        CheckpointMissing: the run is not finished, or nothing that can be loaded lies there.
        CheckpointCorrupt: a file is not what was saved, is of another network, or holds what could do more
            than compute; `model` is untouched.
        ConfigError: `model` is on the meta device and holds a tensor that no file holds, or something has
            grown by a blueprint that nobody knows here.
    """
    where = Path(path)
    if where.suffix == ".pt2" and where.is_file():
        if model is not None:
            raise CheckpointMissing(
                f"{where} is a program and fills no class. Name the directory that holds model.safetensors "
                "and form.json, or load without model=."
            )
        return read_module(read_file(where))
    if (where / PROGRAM_FILE).is_file() and not _is_run(where):
        if model is None:
            return read_module(read_file(where / PROGRAM_FILE))
        form = read_form(where)
        return _shaped(model, form, read_weights(where))
    finished = _finished(where)
    if model is None:
        return read_module(finished.file(PROGRAM_FILE).read_bytes())
    record = json.loads(finished.file(FORM_FILE).read_bytes())
    form = form_from(record["form"], where, record.get(FORMLESS, ""))
    weights = state_of(load_trainer(finished).model)
    return _grown(model, record.get(GROWN, ()), form, weights, blueprints_in(blueprints))


def is_finished(run: Path) -> bool:
    """Does the newest checkpoint of a run that verifies hold its finished network?"""
    if not (run / "checkpoints").is_dir():
        return False
    newest = CheckpointCatalog(run, open_key_ring(run)).search().found
    return newest is not None and PROGRAM_FILE in newest.files


def _is_run(where: Path) -> bool:
    """Is this the directory of a run? Then no key vouches for what lies beside its checkpoints."""
    return (where / "checkpoints").is_dir() or (where / "keys").is_dir()


def _shaped(model: nn.Module, form: Form, weights: dict[str, Tensor]) -> nn.Module:
    form.shape(bare(model), weights)
    return model


def _grown(
    model: nn.Module,
    recipes: Sequence[Mapping[str, Any]],
    form: Form,
    weights: dict[str, Tensor],
    blueprints: Mapping[str, Blueprint],
) -> nn.Module:
    """The same, after what has grown on it has grown here too; all or nothing."""
    grafted: list[Recipe] = []
    try:
        for recipe in (decode(Recipe, record) for record in recipes):
            recipe.graft(bare(model), blueprints)
            grafted.append(recipe)
        return _shaped(model, form, weights)
    except BaseException:
        for recipe in reversed(grafted):
            recipe.prune(bare(model))
        raise


def _finished(run: Path) -> CheckpointRef:
    """The last checkpoint of a finished run, verified."""
    if not run.is_dir():
        raise CheckpointMissing(
            f"There is no cut network at {run}. Name a run directory, a directory that Compacted.save wrote, "
            "or a .pt2 file."
        )
    ring = open_key_ring(run)
    require_own_ring(run, ring)
    newest = CheckpointCatalog(run, ring).search().found
    if newest is None or PROGRAM_FILE not in newest.files:
        beside = f" Its key does not vouch for {PROGRAM_FILE}." if (run / PROGRAM_FILE).exists() else ""
        raise CheckpointMissing(
            f"{run} holds no finished network.{beside} Call session.finish(), or resume the run first."
        )
    return newest
