"""The network that seeds grow on, taken out of what is around it."""

from __future__ import annotations

from torch import nn

from esper.anatomy.graph import bare, is_compiled, is_parallel
from esper.errors import ConfigError
from esper.nissa import FanOut, Sink, kernel_events


def host_of(model: nn.Module, sink: Sink) -> nn.Module:
    """The bare network; it is told if it is compiled as a whole, where seeds cost new programs.

    Raises:
        ConfigError: several processes train it.
    """
    if is_parallel(model):
        raise ConfigError(
            "Several processes train this network, and nobody would add up what its seeds learn in each. "
            "Nothing was changed. Grow it in one process, and go on in several when it is grown."
        )
    if is_compiled(model):
        FanOut(sink).emit(kernel_events.CompiledAsAWhole())
    return bare(model)
