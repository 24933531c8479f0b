"""What a cut at once removes, and with held-out data: what makes up for it, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from esper.anatomy.cut import Look
from esper.anatomy.graph import Traced
from esper.anatomy.twin import Twin
from esper.arrays import BoolArray
from esper.batches import HeldOut, beside, hold_out, samples
from esper.config import Config
from esper.elesh import Bench, OpenCase
from esper.emrakul import Settings
from esper.emrakul.plan import choose_by_loss
from esper.urabrask import Measurement, evaluate, fitting, ignored_class, joined, run_twin


@dataclass(frozen=True)
class Quality:
    """What held-out samples say before and after: the mean loss, and the share that is right.

    `samples` is their number; accuracies are None where outputs and targets are no classification.
    """

    samples: int
    loss_before: float
    loss_after: float
    accuracy_before: float | None
    accuracy_after: float | None

    def since(self, before: Measurement) -> Quality:
        """The same beside another network before."""
        return replace(self, loss_before=before.loss, accuracy_before=before.accuracy)


@dataclass(frozen=True, eq=False)
class Chosen:
    """A choice and what belongs to it.

    Attributes:
        keep: units that stay, bool [units].
        notes: what people should know.
        tensors: new values of parameters and buffers, by name; they make up for what goes.
        quality: on samples that the choice did not look at; None if it was not measured.
    """

    keep: BoolArray
    notes: tuple[str, ...] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    quality: Quality | None = None

    @contextmanager
    def applied(self, model: nn.Module, *, for_good: bool) -> Iterator[None]:
        """Gives the network its new values, taken back exactly after the block, or if it raises."""
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        before = {name: own[name].detach().clone() for name in self.tensors}
        is_done = False
        try:
            _give(own, self.tensors)
            yield
            is_done = for_good
        finally:
            if not is_done:
                _give(own, before)


def _give(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)


def _of_loss(traced: Traced) -> dict[str, Tensor]:
    """The tensors of a loss that has any, by the names that its twin asks for."""
    inputs = traced.program.graph_signature.input_specs
    asked = {traced.names[spec.arg.name]: spec.target for spec in inputs if spec.arg.name in traced.names}
    held = traced.program.state_dict
    return {name: held[target] for name, target in asked.items() if name.startswith("<") and target in held}


class Trials:
    """A network with held-out batches: masks are tried on its twin, the network itself is not touched."""

    def __init__(self, look: Look, held_out: HeldOut, *, reconstructs: bool) -> None:
        self._twin = Twin.of(look.traced)
        network = look.network
        live = {**dict(network.named_parameters()), **dict(network.named_buffers()), **_of_loss(look.traced)}
        self._state = {name: value.detach() for name, value in live.items()}
        self._opened = OpenCase(self._twin, look.anatomy, self._state, look.everything)
        self._held_out = held_out
        self._reconstructs = reconstructs

    @classmethod
    def of(cls, look: Look, probe: Iterable[Any], config: Config) -> Trials:
        """Trials on the first batches of a probe, judged by others.

        Args:
            look: the network, traced with its loss.
            probe: held-out batches.
            config: numbers of samples, and whether readers are reconstructed.

        Raises:
            ConfigError: there are too few batches.
            EvidenceError: they are not like the sample that was traced.
        """
        taken = fitting(Twin.of(look.traced), list(probe))
        held_out = hold_out(taken, config.analysis, whole=look.traced.is_coupled)
        parts = beside(look.network, (held_out.calibration, held_out.validation))
        return cls(look, HeldOut(*parts), reconstructs=config.pruning.recovery.reconstruct)

    def choose(
        self,
        settings: Settings,
        allowed: BoolArray,
        *,
        homogeneous: bool = False,
        told: Callable[[float], None] = lambda _: None,
    ) -> Chosen:
        """Chooses by the loss: bool [units] `allowed` may go; `told` hears how much is done, 0 to 1."""
        choice = choose_by_loss(
            self._opened, self._held_out, settings, allowed=allowed, homogeneous=homogeneous, told=told
        )
        return self._judged(choice.keep, choice.state, choice.notes)

    def complete(self, keep: BoolArray, notes: tuple[str, ...] = ()) -> Chosen:
        """A choice that was made otherwise, with what makes up for it and what it costs."""
        # Fitted on all of them: others judge.
        batches = joined(self._twin, self._held_out.calibration)
        bench = Bench(self._opened, batches, batches, self._reconstructs)
        return self._judged(keep, bench.without(keep), notes)

    def quality(self) -> Measurement:
        """Of the network as it is."""
        return self._quality(self._state, joined(self._twin, self._held_out.validation))

    def _quality(self, state: Mapping[str, Tensor], batches: Sequence[Any]) -> Measurement:
        return evaluate(run_twin(self._twin, state), batches, ignored_class(self._twin))

    def _judged(self, keep: BoolArray, after: Mapping[str, Tensor], notes: tuple[str, ...]) -> Chosen:
        batches = joined(self._twin, self._held_out.validation)
        before, now = self.quality(), self._quality(after, batches)
        count = sum(map(samples, batches))
        quality = Quality(count, before.loss, now.loss, before.accuracy, now.accuracy)
        # Tensors that were replaced on the way; all others are the network's own.
        changed = {name: value for name, value in self._state.items() if after[name] is not value}
        return Chosen(keep, notes, {name: after[name] for name in changed}, quality)
