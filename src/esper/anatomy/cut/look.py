"""One look at a network: its trace, its anatomy, and the inputs to prove a cut on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from esper.anatomy.cut.layers import with_layers
from esper.anatomy.cut.live import cut
from esper.anatomy.cut.program import cut_program
from esper.anatomy.graph import Loss, Traced, bare, copied, loss_tensors, trace, traced_as
from esper.anatomy.proof import Inputs
from esper.anatomy.structure import Anatomy
from esper.anatomy.units import anatomy_of
from esper.arrays import BoolArray
from esper.batches import split_sample


@dataclass(frozen=True, eq=False)
class Look:
    """What was seen of a network, which was left untouched.

    Attributes:
        network: as its user wrote it, in no wrapper.
        traced: its trace, with the loss where there is one.
        anatomy: its anatomy.
        inputs: of the sample.
        is_approximate: units may go that normalizations run over.
        free: axes of inputs whose size may differ from batch to batch.
    """

    network: nn.Module
    traced: Traced
    anatomy: Anatomy
    inputs: Inputs
    is_approximate: bool = False
    free: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def at(
        cls,
        model: nn.Module,
        sample: Any,
        loss: Loss | None,
        *,
        layers: bool = False,
        allow_approximate: bool = False,
        free: frozenset[tuple[int, int]] = frozenset(),
        followers: Mapping[str, str] | None = None,
        is_coupled: bool = False,
    ) -> Look:
        """Looks at a network.

        Args:
            model: the network, as it is or in a wrapper.
            sample: one batch: the input, or `(input, target)` when `loss` is given.
            loss: `loss(output, target)`; with it only the outputs that the loss uses are fixed.
            layers: whether whole residual layers are units too; that needs a loss.
            allow_approximate: whether units may go that normalizations run over.
            free: axes of inputs whose size may differ from batch to batch; see `trace`.
            followers: frozen copies, where they are known from before training; see `trace`.
            is_coupled: whether samples are known to meet in the loss; see `trace`.

        Raises:
            UntraceableError: it cannot be exported.
        """
        network = bare(model)
        traced = trace(model, sample, loss, free=free, followers=followers, is_coupled=is_coupled)
        anatomy = anatomy_of(traced, network, allow_approximate=allow_approximate)
        if layers:
            own = {**dict(network.named_parameters()), **dict(network.named_buffers()), **loss_tensors(loss)}
            state = {name: value.detach() for name, value in own.items()}
            anatomy = with_layers(anatomy, traced, state, sample)
        split = split_sample(sample, with_target=loss is not None, model=network)
        inputs = Inputs.of(split, is_batch_dynamic=traced.is_batch_dynamic, flops=anatomy.flops())
        return cls(network, traced, anatomy, inputs, allow_approximate, free)

    @property
    def everything(self) -> BoolArray:
        """A mask under which all stays: bool [units]."""
        return np.ones(self.anatomy.num_units, np.bool_)

    def without(self, blocks: Sequence[str], sample: Any, loss: Loss | None, *, as_program: bool) -> Look:
        """The same of the network as it is without these residual layers.

        Args:
            blocks: their names.
            sample: one batch.
            loss: as for `at`.
            as_program: take them out of the exported program, so that the network's code is not asked; the
                trace is then of the network alone.

        Raises:
            UnknownPathError: there is no block of that name.
            SurgeryError: the code around a block needs what would go.
        """
        if as_program:
            made = cut_program(self.network, self.anatomy, self.everything, self.inputs, blocks=blocks)
            traced = replace(traced_as(made.program, self.network), followers=self.traced.followers)
            anatomy = anatomy_of(traced, self.network, allow_approximate=self.is_approximate)
            return replace(self, traced=traced, anatomy=anatomy)
        less = copied(self.network)
        cut(less, self.anatomy, self.everything, replace(self.inputs, is_quick=True), blocks=blocks)
        return Look.at(
            less,
            sample,
            loss,
            allow_approximate=self.is_approximate,
            free=self.free,
            followers=self.traced.followers,
            is_coupled=self.traced.is_coupled,
        )
