"""Where a seed can stand in a network."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import UnknownPathError
from esper.kasmina.seeds.along import Along
from esper.kasmina.seeds.layer import Grown, KasminaLayer
from esper.kasmina.seeds.lifecycle import GROWS_ONCE

_OWN = ("host", "seed")
"""What a module that something has grown on calls its two parts."""


class Place:
    """Where a module stands: a name in its parent.

    Args:
        model: the network.
        path: of the module.
        copies: of the network, in which the same shall stand.

    Raises:
        UnknownPathError: there is no module of that path, or it is the network itself.
    """

    def __init__(self, model: nn.Module, path: str, copies: Iterable[nn.Module] = ()) -> None:
        *parents, self._name = path.split(".")
        parent = model
        inside = ""
        for number, name in enumerate(parents):
            module = getattr(parent, name, None)
            if isinstance(module, (KasminaLayer, Grown)) and [*parents, self._name][number + 1] in _OWN:
                inside = ".".join(parents[: number + 1])
            parent = _host(module) or nn.Module()
        if not isinstance(getattr(parent, self._name, None), nn.Module):
            if inside:
                raise UnknownPathError(
                    f"{path!r} is a part of what has grown at {inside!r}, and {GROWS_ONCE}. Nothing was "
                    "changed."
                )
            near = [name for name, _ in model.named_modules() if name.endswith(self._name or "-")]
            raise UnknownPathError(
                f"The network has no module {path!r} that a seed could be grafted onto"
                + (f"; {', '.join(near[:3])} has that ending" if near else "")
                + ". Nothing was changed. Give the path of an inner module, as `named_modules()` has it."
            )
        self._parent, self._model = parent, model
        self.along = [Along(Place(one, path)) for one in copies]
        """The same place in each copy."""

    @property
    def module(self) -> nn.Module:
        """What stands there now; what is set for a look, and taken back, no copy sees."""
        module: nn.Module = getattr(self._parent, self._name)
        return module

    @module.setter
    def module(self, module: nn.Module) -> None:
        setattr(self._parent, self._name, module)

    def stand(self, module: nn.Module) -> None:
        """This stands there from now on, in every copy too."""
        self.module = module
        for copy in self.along:
            copy.show(module)

    @property
    def host(self) -> nn.Module:
        """What stood there before anything was grafted onto it."""
        return _host(self.module) or self.module

    @property
    def like(self) -> Tensor:
        """A parameter of what stands there, or of the network where that has none."""
        return next(chain(self.module.parameters(), self._model.parameters()), torch.zeros(0))

    @property
    def device(self) -> torch.device:
        """Where what stands there computes."""
        return self.like.device


def _host(module: Any) -> nn.Module | None:
    """The module of the host in a place, whatever was grafted onto it."""
    while isinstance(module, (KasminaLayer, Grown)):
        module = module.host
    return module if isinstance(module, nn.Module) else None
