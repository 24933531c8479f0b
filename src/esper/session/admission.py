"""What a session refuses before it begins or goes on, and what it takes off what it is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from esper.anatomy.graph import Loss, is_parallel, loss_tensors, named_tensors
from esper.checkpoint import Generator, Stateful
from esper.config import Config
from esper.errors import CheckpointError, ConfigError
from esper.leyline import Level


@dataclass(frozen=True, eq=False)
class RunRequest:
    """What a training script gives for a run, whether that begins or goes on.

    `optimizer` is without wrappers, `probe` None where there are no other held-out batches, `config` and
    `epochs` None where those that the run was begun with, or the defaults, are right.
    """

    run: Path
    model: nn.Module
    optimizer: Optimizer
    loss: Loss
    probe: Iterable[Any] | None
    schedulers: Sequence[Stateful]
    scaler: Stateful | None
    generators: Mapping[str, Generator]
    companions: Sequence[nn.Module]
    config: Config | None
    epochs: int | None


def optimizer_in(given: Any) -> Optimizer:
    """The optimizer itself, out of what a training library has put around it (`AcceleratedOptimizer`).

    Raises:
        ConfigError: there is none in it.
    """
    inner = given
    while not _takes_hooks(inner):
        inner = getattr(inner, "optimizer", None)
        if inner is None:
            raise ConfigError(
                f"A {type(given).__name__} is no torch.optim.Optimizer and holds none as `.optimizer`. "
                "Nothing was changed. Give the optimizer whose `step` changes the network's parameters."
            )
    optimizer: Optimizer = inner
    return optimizer


def _takes_hooks(thing: Any) -> bool:
    """Is it an optimizer that calls hooks at its steps? A wrapper may be of the class without that."""
    return isinstance(thing, Optimizer) and "_optimizer_step_post_hooks" in vars(thing)


def check_optimizer(model: nn.Module, optimizer: Optimizer, loss: Any) -> None:
    """The optimizer must train this very network, and nothing that no checkpoint would hold."""
    own = {id(tensor) for tensor in named_tensors(model).values()}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    name = type(optimizer).__name__
    if not any(id(parameter) in own for parameter in trained):
        raise ConfigError(
            f"This {name} trains {len(trained)} parameters, and none of them belongs to the given "
            f"{type(model).__name__}. Build the optimizer from model.parameters() of this very object, after "
            "moving it to its device. Nothing was changed."
        )
    known = own | {id(tensor) for tensor in loss_tensors(loss).values()}
    foreign = [tuple(parameter.shape) for parameter in trained if id(parameter) not in known]
    if foreign:
        raise ConfigError(
            f"This {name} also trains {len(foreign)} parameter(s) that belong neither to the network nor to "
            f"the loss (the first of shape {foreign[0]}), so they would be in no checkpoint, and an analysis "
            "would see them as they are now. Give the criterion that holds them as `loss=`, as the module "
            "that it is and not in a function; or make them part of the network; or train them by an "
            "optimizer of their own. Nothing was changed."
        )


def check_alone(model: nn.Module) -> None:
    """A session is about a network of one process."""
    if is_parallel(model):
        raise ConfigError(
            "This network is trained by several processes, and a session decides for one. Nothing was "
            "changed. Use esper.anatomy.cut with a mask that one rank has decided and broadcast; "
            "docs/how-to-many-gpus.md shows how."
        )


def modules_in(companions: nn.Module | Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    """The companions one by one.

    Raises:
        ConfigError: one of them is no module, so nobody can say which of its tensors follow the network.
    """
    given = tuple(companions) if isinstance(companions, (list, tuple)) else (companions,)
    for companion in given:
        if not isinstance(companion, nn.Module):
            held = [name for name, value in _attributes(companion) if isinstance(value, nn.Module)]
            way_out = (
                f"Give the module that it holds, `.{held[0]}`."
                if held
                else "An average that is a list of tensors cannot follow a cut: keep it in a module, such as "
                "torch.optim.swa_utils.AveragedModel."
            )
            raise ConfigError(
                f"A companion is a module that holds a copy of the network, and {type(companion).__name__} "
                f"is none. {way_out} Nothing was changed."
            )
    return given


def _attributes(thing: object) -> Sequence[tuple[str, Any]]:
    return tuple(vars(thing).items()) if hasattr(thing, "__dict__") else ()


def check_layers(config: Config, begun_with: Config) -> None:
    """Whole layers are units from the beginning of a run or never: its masks count in them."""
    if Level.LAYER in config.pruning.levels - begun_with.pruning.levels:
        raise ConfigError(
            "This run began without whole layers among what may be removed, and its masks and cuts are "
            'written down without them. Nothing was changed. Leave "layer" out of the levels, or begin '
            "another run with it."
        )


def check_resumed(asked: RunRequest, saved: Mapping[str, Any]) -> None:
    """Optimizer and criterion must be those that a checkpoint was trained with.

    Args:
        asked: what the script gives now.
        saved: what the checkpoint says of the run; older ones say less.

    Raises:
        CheckpointError: another one was given; it is named.
    """
    given, trained_by = type(asked.optimizer).__name__, saved.get("optimizer_class")
    if trained_by not in (None, given):
        raise CheckpointError(
            f"The run was trained by {trained_by}, whose state the checkpoint holds; this one is {given}. "
            f"Nothing was changed. Resume with {trained_by}, built as when the run began."
        )
    theirs = _shapes(saved.get("criterion") or {})
    mine = _shapes(asked.loss.state_dict() if isinstance(asked.loss, nn.Module) else {})
    if "criterion" in saved and theirs != mine:
        raise CheckpointError(
            f"The checkpoint holds a loss with {theirs or 'no tensors'}, and the given one has "
            f"{mine or 'none'}. Nothing was changed. Give the criterion that the run began with, as `loss=`."
        )


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(getattr(value, "shape", ())) for name, value in tensors.items()}
