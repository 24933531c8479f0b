"""How a teacher's weights are kept while it is not asked: in which precision, and where."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from esper.batches import device_of
from esper.errors import ConfigError
from esper.kasmina.eight_bits import EightBits, is_smaller

_HOST = torch.device("cpu")


class Resting:
    """The weights of one network, which rest between its answers.

    Args:
        network: whose they are.
        precision: matrices are kept and computed with in it; None: as they are.
        int8_weights: they are kept in eight bits instead, and computed with in `precision` or their own.
        offload: they are kept in the memory of the host.

    Raises:
        ConfigError: an option can do nothing for this network.
    """

    def __init__(
        self, network: nn.Module, precision: torch.dtype | None, *, int8_weights: bool, offload: bool
    ) -> None:
        if precision not in (None, torch.bfloat16, torch.float16):
            raise ConfigError(f"precision is {precision}; expected torch.bfloat16, torch.float16 or None.")
        if int8_weights and not any(_may_rest(p) and is_smaller(p) for p in network.parameters()):
            raise ConfigError(
                f"int8_weights: {type(network).__name__} has no weight that would take less in eight bits. "
                "Nothing was changed. Leave it away."
            )
        devices = sorted({str(tensor.device) for tensor in network.parameters()})
        if offload and len(devices) > 1:
            raise ConfigError(
                f"offload: {type(network).__name__} is spread over {', '.join(devices)}, and a teacher is "
                "brought to one device. Nothing was changed. Leave it away, or move the network to the host."
            )
        self.network, self.is_offloaded = network, offload
        self._precision, self._int8_weights = precision, int8_weights
        self._home = device_of(network)
        self._is_told = False

    def lay_down(self) -> None:
        """Brings the weights to where and how they rest; what rests already stays as it is."""
        if self.is_offloaded:
            self.network.to(_HOST)
        if self._int8_weights:
            _replace(self.network, self._rounded)
        elif self._precision is not None:
            for parameter in filter(_may_rest, self.network.parameters()):
                parameter.data = parameter.data.to(self._precision)

    def get_up(self) -> None:
        """Plain weights in `precision` or their own, on the device that they came from."""
        _replace(self.network, lambda weight: weight.whole() if isinstance(weight, EightBits) else None)
        if self.is_offloaded:
            self.network.to(self._home)

    @contextmanager
    def on(self, device: torch.device) -> Iterator[Callable[..., Any]]:
        """The network with its weights on a device, as long as this lasts.

        Args:
            device: of its inputs.
        """
        if not self.is_offloaded or device == _HOST:
            self._tell(device)
            yield self.network
            return
        held = (*self.network.named_parameters(), *self.network.named_buffers())
        brought = {name: tensor.detach().to(device) for name, tensor in held}
        yield lambda *args, **kwargs: functional_call(self.network, brought, args, kwargs)

    def _rounded(self, weight: nn.Parameter) -> Tensor | None:
        if not _may_rest(weight) or not is_smaller(weight):
            return None
        return EightBits.of(weight, self._precision or weight.dtype)

    def _tell(self, device: torch.device) -> None:
        """Says once that there is nothing to bring."""
        if self.is_offloaded and not self._is_told:
            self._is_told = True
            warnings.warn(
                f"offload has no effect: the teacher's inputs are on {device}, where it waits anyway. It is "
                "for networks that learn on another device.",
                stacklevel=2,
            )


def parts_of(tensor: Tensor) -> list[Tensor]:
    """What is held of a tensor."""
    return [tensor.codes, tensor.scales] if isinstance(tensor, EightBits) else [tensor]


def _may_rest(weight: Tensor) -> bool:
    """Whether it is a matrix or more, and does not rest yet. Vectors are few numbers, and scale many."""
    return not isinstance(weight, EightBits) and weight.dim() > 1 and weight.is_floating_point()


def _replace(network: nn.Module, made: Callable[[nn.Parameter], Tensor | None]) -> None:
    """Puts other parameters in the place of those for which there are some, wherever these stand.

    The old ones go one after the other, so that both are there of one only.
    """
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(parameter, []).append((module, name))
    while places:
        parameter, where = places.popitem()
        if (tensor := made(parameter)) is not None:
            other = nn.Parameter(tensor, parameter.requires_grad)
            for module, name in where:
                setattr(module, name, other)
