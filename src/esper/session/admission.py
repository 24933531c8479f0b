"""What a session refuses before it begins or goes on."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from esper.anatomy.graph import is_parallel
from esper.config import Config
from esper.errors import ConfigError
from esper.leyline import Level


def check_optimizer(model: nn.Module, optimizer: Optimizer) -> None:
    """The optimizer must train this very network."""
    own = {id(parameter) for parameter in model.parameters()}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(id(parameter) in own for parameter in trained):
        raise ConfigError(
            f"This {type(optimizer).__name__} trains {len(trained)} parameters, and none of them belongs to "
            f"the given {type(model).__name__}. Build the optimizer from model.parameters() of this very "
            "object, after moving it to its device. Nothing was changed."
        )


def check_alone(model: nn.Module) -> None:
    """A session is about a network of one process."""
    if is_parallel(model):
        raise ConfigError(
            "This network is trained by several processes, and a session decides for one. Nothing was "
            "changed. Use esper.anatomy.cut with a mask that one rank has decided and broadcast; "
            "docs/how-to-many-gpus.md shows how."
        )


def check_layers(config: Config, begun_with: Config) -> None:
    """Whole layers are units from the beginning of a run or never: its masks count in them."""
    if Level.LAYER in config.pruning.levels - begun_with.pruning.levels:
        raise ConfigError(
            "This run began without whole layers among what may be removed, and its masks and cuts are "
            'written down without them. Nothing was changed. Leave "layer" out of the levels, or begin '
            "another run with it."
        )
