"""The last look before a mask is applied: the live network under the mask, measured without touching it.

A plan rests on the checkpoint of the epoch before. Weights have moved since, so the mask is measured once
more on the weights that it would be applied to, with the running statistics that they would then get.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from esper.anatomy import Anatomy
from esper.anatomy.mend import Reconstruction
from esper.anatomy.units import masked_axes, zero_masked
from esper.arrays import BoolArray
from esper.batches import HeldOut, beside
from esper.heap import Own
from esper.kasmina.network import LiveNetwork
from esper.urabrask import (
    Measurement,
    Verdict,
    joined,
    judge,
    level_of,
    on_better_statistics,
    on_validation,
)
from esper.urabrask import Settings as ValidationSettings

State = dict[str, Tensor]


@contextmanager
def recalibrated(
    network: LiveNetwork,
    held_out: HeldOut | None,
    *,
    standing: Collection[str] | None = None,
    are_known: bool = False,
) -> Iterator[None]:
    """Units change inside; afterwards running statistics are measured anew, of the network and its copies.

    A copy, such as a mean of the weights, has statistics of its own, and nothing else renews them before its
    owner uses it.

    Args:
        network: the live network.
        held_out: batches to measure on; without any, statistics stay.
        standing: as `Preview.standing` knows them; None asks it.
        are_known: leave the network's own as they are.
    """
    if held_out is None or (are_known and not network.companions):
        yield
        return
    own = Preview(network, held_out).standing if standing is None else standing
    # Norms that stand still move as far as what they see does.
    old = network.versions() if own or network.still else []
    then = [{name: tensor.clone() for name, tensor in state.items()} for state in old]
    yield
    batches = _calibration(network, held_out)
    for number, state in enumerate(network.versions()):
        if number > 0 or not are_known:
            before, still = then[number] if then else state, network.still if number else own
            network.set_buffers(_statistics(network, state, batches, before, still), number)


@dataclass(frozen=True, eq=False)
class Masked:
    """Quality under a mask, and what belongs to the mask: running statistics, changes of weights."""

    after: Measurement
    statistics: State
    changes: State


class Preview:
    """The live network as it is at one moment, for masks to be tried on; what they share is measured once."""

    def __init__(self, network: LiveNetwork, held_out: HeldOut, *, reconstruct: bool = False) -> None:
        """Of a network that does not change as long as this is asked.

        Args:
            network: the live network.
            held_out: batches to measure it on.
            reconstruct: whether layers that read what goes make up for it.
        """
        self._network, self._held_out, self._reconstruct = network, held_out, reconstruct
        self._live = network.tensors()
        self._under: dict[bytes, Masked] = {}

    @property
    def before(self) -> Measurement:
        """Quality as it is, or with fresh running statistics if it is better with these.

        Those of training can lag far behind the weights, and a mask then brings fresh ones: they must not be
        counted as its merit.
        """
        return self._as_it_is[0]

    @property
    def standing(self) -> Collection[str]:
        """Running statistics that a mask only moves as far as it moves those of the batches, by name.

        Those that training leaves alone, and all where the network is better with its own than with fresh
        ones: what held-out batches are worse with is not the fault of a mask.
        """
        return self._network.still if self._as_it_is[1] else self._network.graph.running_means

    @cached_property
    def _as_it_is(self) -> tuple[Measurement, dict[str, Tensor]]:
        network, live = self._network, self._live
        fresh = network.graph.recalibrated(live, self._calibration, still=network.still)
        validation = beside(network.model, self._held_out.validation)
        return on_better_statistics(network.graph, live, fresh, validation)

    def under(self, keep: BoolArray) -> Masked:
        """Quality as it would be with only `keep` left, on the same batches: shape [units]."""
        known = self._under.get(keep.tobytes())
        if known is None:
            known = self._under[keep.tobytes()] = self._masked(keep)
        return known

    def confirm(self, keep: BoolArray, settings: ValidationSettings, *, in_doubt: bool = False) -> str:
        """Why the mask must not be applied to the weights as they are now ('' if it may).

        Stricter than the validator before it: the mean itself has to be within the limit, but for its noise;
        with `in_doubt` it is enough if that cannot be ruled out.
        """
        masks = self._network.masks.keep, keep
        verdict, is_within = compared(
            self._network.anatomy, masks, (self.before, self.under(keep).after), settings
        )
        return "" if is_within or (in_doubt and verdict.is_accepted) else verdict.reason

    def _masked(self, keep: BoolArray) -> Masked:
        """The network under the mask: its weights, what makes up for it, then the statistics of both."""
        live, axes = self._live, masked_axes(self._network.anatomy, keep)
        masked = {**live, **{name: live[name].clone() for name, _ in axes}}
        zero_masked(masked, axes)
        changes = self._made_up.changes(keep) if self._reconstruct else {}
        masked |= {name: masked[name] + change for name, change in changes.items()}
        statistics = _statistics(self._network, masked, self._calibration, live, self.standing)
        after = _on_validation(self._network, self._held_out, {**masked, **statistics})
        return Masked(after, statistics, Own(changes))

    @cached_property
    def _calibration(self) -> Sequence[Any]:
        return _calibration(self._network, self._held_out)

    @cached_property
    def _made_up(self) -> Reconstruction:
        network = self._network
        return Reconstruction(
            network.graph, network.anatomy, self._live, network.masks.keep, self._calibration
        )


def compared(
    anatomy: Anatomy,
    masks: tuple[BoolArray, BoolArray],
    qualities: tuple[Measurement, Measurement],
    settings: ValidationSettings,
) -> tuple[Verdict, bool]:
    """The verdict about a mask on live weights, and whether the mean itself is within the limit.

    What is over it by less than one standard error counts as within: it shows nothing, and a refusal or a
    rollback for it costs a run of few epochs the time for its target.

    Args:
        anatomy: the network.
        masks: units that are left before and after, shape [units] each.
        qualities: what the same held-out data shows before and after.
        settings: limits.
    """
    level = level_of(anatomy, *masks)
    verdict = judge(*qualities, level, settings.model_copy(update={"require_gradients": False}))
    cost = verdict.retention
    return verdict, verdict.is_accepted and cost is not None and cost.drop - cost.limit <= cost.noise


def measured(network: LiveNetwork, held_out: HeldOut) -> Measurement:
    """Quality of the live network as it is on the held-out validation batches."""
    return _on_validation(network, held_out, network.tensors())


def _on_validation(network: LiveNetwork, held_out: HeldOut, tensors: State) -> Measurement:
    validation = beside(network.model, held_out.validation)
    return on_validation(network.graph, tensors, validation)


def _calibration(network: LiveNetwork, held_out: HeldOut) -> Sequence[Any]:
    return joined(network.graph, beside(network.model, held_out.calibration))


def _statistics(
    network: LiveNetwork, tensors: State, batches: Sequence[Any], before: State, still: Collection[str]
) -> State:
    """Running statistics of a network with these tensors: the mean over the batches' own.

    Those that stand still move only as far as the batches' own do from the tensors of `before`.
    """
    after = network.graph.recalibrated(tensors, batches, still=still, before=before)
    return {name: value for name, value in after.items() if value is not tensors[name]}
