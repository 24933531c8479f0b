"""A place of a network in a copy of it, such as a running average: what grows there grows here, too."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from esper.kasmina.seeds.layer import Grown, KasminaLayer


class Echo(KasminaLayer):
    """What a `KasminaLayer` of a network is in a copy of it.

    Until the seed is joined no list of the network names it, so no loop averages it: then the copy answers
    with the values that the seed has in the network. From then on it has values of its own, which stand in
    the lists of the copy where those of the network stand in the network's.

    Args:
        host: the module of the copy.
        seed: of the copy.
        device: where the scalars are.
        origin: the seed in the network.
    """

    def __init__(self, host: nn.Module, seed: nn.Module, device: torch.device, origin: nn.Module) -> None:
        super().__init__(host, seed, device)
        self._origin = (origin,)
        """In a tuple: it is no part of the copy."""

    def follow_layer(self, layer: KasminaLayer) -> None:
        """Takes on how the seed stands in the network now."""
        for mine, theirs in zip((self.alpha, self.gamma), (layer.alpha, layer.gamma), strict=True):
            mine.copy_(theirs)
        self.is_hidden, self.is_paused, self.is_joined = layer.is_hidden, layer.is_paused, layer.is_joined
        self.follow()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.is_joined:
            _take_over(self.seed, self._origin[0])
        return super().forward(*args, **kwargs)


class _Place(Protocol):
    module: nn.Module

    @property
    def host(self) -> nn.Module: ...

    @property
    def like(self) -> Tensor: ...


class Along:
    """The place in one copy of a network.

    Args:
        place: where the module stands in the copy.
    """

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._seed: nn.Module | None = None
        """The copy's own seed, also while it is out of the copy."""
        self._of: weakref.ref[nn.Module] | None = None
        """The seed of the network that it is a copy of; it is let go of there."""
        self._is_joined = False
        """Whether its values are its own by now."""

    def show(self, module: nn.Module) -> None:
        """The same stands here as in the network.

        Args:
            module: what stands there: the host, alone, with a seed that is on its way, or with one that is a
                part of it.
        """
        host = self._place.host
        if isinstance(module, Grown):
            self._place.module = Grown(host, self._own(module.seed, is_joined=True))
        elif isinstance(module, KasminaLayer) and module.number is None:
            seed, here = self._own(module.seed, is_joined=module.is_joined), self._place.module
            if not isinstance(here, Echo) or here.seed is not seed:
                self._place.module = here = Echo(host, seed, self._place.like.device, module.seed)
            here.follow_layer(module)
        else:  # a seed that adds nothing counts as none
            self._place.module = host

    def values(self) -> dict[str, Tensor] | None:
        """Those of the copy's own seed; None: it has none."""
        return None if self._seed is None else self._seed.state_dict()

    def load(self, values: Mapping[str, Tensor] | None) -> None:
        """Gives the copy's own seed the values that it had; None: those that the seed has in the network."""
        seed = None if self._of is None else self._of()
        if self._seed is not None and seed is not None:
            if values is None:
                _take_over(self._seed, seed)
            else:
                self._seed.load_state_dict(values)

    def _own(self, seed: nn.Module, *, is_joined: bool) -> nn.Module:
        if self._seed is None or self._of is None or self._of() is not seed:
            self._of, self._seed, self._is_joined = weakref.ref(seed), copy.deepcopy(seed), False
            like = self._place.like
            self._seed.requires_grad_(like.requires_grad)
            self._seed.to(like.device, like.dtype if like.is_floating_point() else None)
        if is_joined and not self._is_joined:  # what it averages from now on begins with these
            _take_over(self._seed, seed)
        self._is_joined = is_joined
        return self._seed


def _take_over(seed: nn.Module, origin: nn.Module) -> None:
    """Gives the seed of a copy the values that it has in the network."""
    mine, theirs = (chain(one.parameters(), one.buffers()) for one in (seed, origin))
    with torch.no_grad():
        for value, other in zip(mine, theirs, strict=True):
            value.copy_(other)
