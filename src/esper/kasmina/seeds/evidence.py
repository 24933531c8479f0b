"""What is measured of a seed: in eval mode, on held-out batches, with it and without, in pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esper.anatomy.graph import Loss, back_in_mode, primary_output
from esper.arrays import FloatArray
from esper.batches import beside, divided, on_device, split_sample
from esper.checkpoint import drawn_apart
from esper.kasmina.seeds.isolation import all_modules, at_rest
from esper.kasmina.seeds.layer import Counted, primary
from esper.kasmina.seeds.order import OneWay, one_way
from esper.kasmina.seeds.place import Place
from esper.urabrask import evaluate, run_live

_CHUNK = 8
"""Samples whose losses are compared as one."""
_TIMINGS = 7
_LOOKS = 4
"""Batches whose activations are held at once."""


class Probe:
    """Held-out batches, and the network that is asked about them.

    Args:
        model: the network; its own mode comes back after every question.
        loss: `loss(output, target)`.
        batches: `(input, target)`; kept on the CPU, as copies.
        whole: whether samples of a batch meet in the loss, so that none is divided.
    """

    def __init__(self, model: nn.Module, loss: Loss, batches: Sequence[Any], *, whole: bool = False) -> None:
        self.model, self._loss = model, loss
        self.batches = [on_device(batch, "cpu", copy=True) for batch in batches]
        self._chunks = [
            part for batch in self.batches for part in divided(batch, _CHUNK, can_split=not whole)
        ]

    def losses(self) -> FloatArray:
        """The loss of every chunk, as the network is now: shape [chunks]."""
        with self._asked():
            losses = evaluate(run_live(self.model, self._loss), self._chunks).losses
        return np.zeros(0) if losses is None else losses

    def output(self) -> Tensor:
        """What the network answers to the first batch."""
        with self._asked(), torch.no_grad():
            return primary_output(self._pass(self.batches[0])[0]).clone()

    def directions(self) -> list[OneWay]:
        """Axes of the answer along which the network reads its positions in one direction, as it is now."""
        with self._asked(), torch.no_grad():
            return one_way(self._answer, self._chunks[0])

    def keeps(self, direction: OneWay) -> bool:
        """Whether the network, as it is now, reads no position later than before along this axis."""
        with self._asked(), torch.no_grad():
            return direction.holds(self._answer, self._chunks[0])

    def calls_of(self, place: Place) -> int:
        """How often the module at a place is called where nothing is trained, and no hook is on it.

        Some layers pass their inner modules by in that case, and only then.
        """
        counted = Counted(place.module)
        place.module = counted
        try:
            with self._asked(), torch.no_grad():
                self._pass(self.batches[0])
        finally:
            place.module = counted.host
        return counted.calls

    def loss_of(self, batch: Any) -> Tensor:
        """The loss of one batch in the present mode, with its graph."""
        output, target = self._pass(batch)
        return self._loss(output, target).reshape(())

    def seen_at(self, module: nn.Module) -> tuple[list[Tensor], int]:
        """What a module makes of the first batches, and how often it is called in a pass."""
        seen: list[Tensor] = []

        def look(_: nn.Module, __: Any, output: Any) -> None:
            seen.append(primary(output).detach().clone())

        batches = self.batches[:_LOOKS]
        hook = module.register_forward_hook(look)
        try:
            with self._asked(), torch.no_grad():
                for batch in batches:
                    self._pass(batch)
        finally:
            hook.remove()
        return seen, -(-len(seen) // len(batches))

    def seconds(self, *sides: Callable[[], Any]) -> list[float]:
        """Shortest time of a pass after each of these preparations, which take turns."""
        times: list[list[float]] = [[] for _ in sides]
        with self._asked(), torch.no_grad():
            for number in range(_TIMINGS + 1):
                for side, kept in zip(sides, times, strict=True):
                    side()
                    begun = time.perf_counter()
                    output = primary_output(self._pass(self.batches[0])[0])
                    float(output.flatten()[0])  # waits for the device
                    if number:
                        kept.append(time.perf_counter() - begun)
        return [min(kept) for kept in times]

    def _answer(self, batch: Any) -> Tensor:
        return primary_output(self._pass(batch)[0])

    def _pass(self, batch: Any) -> tuple[Any, Any]:
        moved = beside(self.model, batch)
        args, kwargs, target = split_sample(moved, with_target=True, model=self.model)
        return self.model(*args, **kwargs), target

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Eval mode, and nothing is different afterwards."""
        modes = {module: module.training for module in all_modules(self.model)}
        self.model.eval()
        try:
            with drawn_apart(0), at_rest(self.model):
                yield
        finally:
            back_in_mode(modes)


def dead_share(seen: Sequence[Tensor]) -> float:
    """Share of channels that are zero in all samples and positions.

    Of three axes the second or the last may be that of channels: the worse one counts.
    """
    shares = []
    for axis in (1, 2) if seen[0].dim() == 3 else (1,):
        if seen[0].dim() > axis and len({tensor.shape[axis] for tensor in seen}) == 1:
            flat = [tensor.transpose(0, axis).flatten(1).abs().amax(1) for tensor in seen]
            shares.append(float((torch.stack(flat).amax(0) == 0).float().mean()))
    return max(shares, default=0.0)


def moments(seen: Sequence[Tensor]) -> tuple[float, float]:
    """Mean and spread of all values."""
    values = torch.cat([tensor.flatten().float() for tensor in seen])
    return float(values.mean()), float(values.std())
