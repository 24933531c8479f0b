"""The quality of a network on held-out data: measured here, whoever asks, live or as a twin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy import Anatomy
from esper.anatomy.graph import Loss, bare, operator_name, primary_output
from esper.anatomy.twin import Ablation, Twin
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.batches import (
    class_axis,
    device_of,
    divided,
    merged,
    on_device,
    resized,
    samples,
    sizes_of,
    split_sample,
    target_of,
)
from esper.errors import EvidenceError

CHUNK_SAMPLES = 16
"""Samples of one paired loss comparison: small, so that a few hundred samples give enough pairs."""

RECALIBRATION_SAMPLES = 64
"""Samples of one batch whose statistics stand for the training batches'."""

_WITH_CLASSES, _NO_CLASS = frozenset({"cross_entropy_loss", "nll_loss_nd", "nll_loss", "nll_loss2d"}), -100

State = Mapping[str, Tensor]
Run = Callable[[Any], tuple[Tensor, Tensor]]
"""Loss (scalar) and primary output of one batch."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """Quality of one network on one fixed set of held-out data; None is unmeasured.

    Attributes:
        correctness: quality of every sample, higher is better; 0 or 1 for right or wrong. Shape [samples].
        losses: mean loss of every chunk of samples, lower is better. Shape [chunks].
        samples: samples of every chunk, shape [chunks].
        gradient_flow: share of the surviving parameters in tensors that the loss gradient reaches, 0 to 1.
        gradient_norm: norm of the loss gradient over the parameters that survive the mask under judgement.
        peak_bytes: most memory that measuring took, in bytes.
        chance: the correctness of one answer for all, the most frequent; 0 where there are no classes.
    """

    correctness: FloatArray | None = None
    losses: FloatArray | None = None
    samples: IntArray | None = None
    gradient_flow: float | None = None
    gradient_norm: float | None = None
    peak_bytes: int | None = None
    chance: float = 0.0

    @property
    def loss(self) -> float:
        """Mean loss of a sample; NaN where it was not measured, or was no number somewhere."""
        if self.losses is None or not self.losses.size or not np.isfinite(self.losses).all():
            return float("nan")
        return float(np.average(self.losses, weights=self.samples))

    @property
    def relative_error(self) -> float:
        """Standard error of the quality on so few samples, as a share of it; 0 where nothing was measured."""
        values = self.losses if self.correctness is None else self.correctness
        if values is None or values.size < 2 or not np.isfinite(values).all() or not values.any():
            return 0.0
        return float(values.std(ddof=1) / np.sqrt(values.size) / abs(values.mean()))

    @property
    def is_guessed(self) -> bool:
        """Whether answers are far worse than one for all, so that what is compared are hardly classes."""
        return self.correctness is not None and float(np.mean(self.correctness)) < self.chance / 2

    @property
    def accuracy(self) -> float | None:
        """Share of right answers; None where this is no classification."""
        return None if self.correctness is None else float(np.mean(self.correctness))


class Measure(Protocol):
    """Measures the twin under a mask; every call must use the same data in the same order.

    `keep` marks the units that are left, shape [units]; `survivors` marks those whose parameters
    the gradients cover, the same for both measurements of a pair, so that they can be compared.
    """

    def __call__(self, keep: BoolArray, survivors: BoolArray, /) -> Measurement: ...


def evaluate(run: Run, batches: Iterable[Any], ignored: int | None = None) -> Measurement:
    """Losses of the batches and correctness of their samples, without gradients.

    Args:
        run: the network with its loss.
        batches: as `run` takes them.
        ignored: a class that is none; see `ignored_class`.
    """
    correctness: list[float] | None = []
    losses, counts = [], []
    frequencies = torch.zeros(1)
    with torch.no_grad():
        for batch in batches:
            loss, output = run(batch)
            losses.append(float(loss))
            counts.append(samples(batch))
            target = target_of(batch)
            # One batch that is no classification makes this none.
            right = None if correctness is None else correct(output, target, ignored)
            correctness = None if right is None or correctness is None else [*correctness, *right]
            if right is not None:
                frequencies = _added(frequencies, _frequencies(output, target, ignored))
    if not losses:
        return Measurement()
    return Measurement(
        None if not correctness else np.array(correctness, np.float64),
        np.array(losses, np.float64),
        np.array(counts, np.int64),
        chance=float(frequencies.max() / frequencies.sum().clamp_min(1)),
    )


def ignored_class(twin: Twin) -> int | None:
    """The class that its loss leaves out, as padding (`ignore_index`); None if there is not just one."""
    calls = [node for node in twin.program.graph.nodes if operator_name(node.target) in _WITH_CLASSES]
    given = {
        node.args[4] if len(node.args) > 4 else node.kwargs.get("ignore_index", _NO_CLASS) for node in calls
    }
    only = given.pop() if len(given) == 1 else _NO_CLASS
    return only if isinstance(only, int) and only >= 0 else None


def on_validation(twin: Twin, state: State, batches: Sequence[Any]) -> Measurement:
    """Quality of a twin with these tensors on the batches that masks are judged by.

    Samples that can be judged one by one go through together. Otherwise losses are paired, of small parts.
    """
    run, parts = run_twin(twin, state), in_chunks(twin, usable(twin, batches))
    if not parts:
        return Measurement()
    # The target may say which samples belong together, and no class is right or wrong then. A graph that is
    # alone has nothing but its nodes to be judged by.
    if twin.is_coupled and (twin.is_batch_dynamic or len(parts) > 1):
        return replace(evaluate(run, parts), correctness=None)
    # One part tells which it is, unless a later one differs.
    if evaluate(run, parts[:1]).correctness is not None:
        quality = evaluate(run, joined(twin, batches), ignored_class(twin))
        if quality.correctness is not None:
            return quality
    return evaluate(run, parts, ignored_class(twin))


def on_better_statistics(
    twin: Twin, state: State, fresh: State, batches: Sequence[Any]
) -> tuple[Measurement, dict[str, Tensor]]:
    """Quality of a twin with its own running statistics or with fresh ones, whichever are better.

    Args:
        twin: the network with its loss.
        state: its tensors.
        fresh: the same tensors, but for running statistics measured anew.
        batches: as for `on_validation`.

    Returns:
        The quality, and what of `fresh` it takes: by name, empty where the own ones are better.
    """
    own, changed = on_validation(twin, state, batches), {n: t for n, t in fresh.items() if t is not state[n]}
    if not changed:
        return own, {}
    other = on_validation(twin, fresh, batches)
    return (other, changed) if other.loss < own.loss else (own, {})


def run_twin(twin: Twin, state: State) -> Run:
    """For `evaluate`: a twin with these tensors."""
    return partial(twin.loss, state)


def run_live(model: nn.Module, loss: Loss) -> Run:
    """For `evaluate`: the network itself, in the mode that it is in."""
    device = device_of(model)

    def run(batch: Any) -> tuple[Tensor, Tensor]:
        args, kwargs, target = split_sample(on_device(batch, device), with_target=True, model=bare(model))
        output = model(*args, **kwargs)
        return loss(output, target).reshape(()), primary_output(output)

    return run


def in_chunks(twin: Twin, batches: Sequence[Any]) -> list[Any]:
    """Small parts of the batches, whose losses can be compared in pairs."""
    can_split = twin.is_divisible
    return [part for batch in batches for part in divided(batch, CHUNK_SAMPLES, can_split=can_split)]


def joined(twin: Twin, batches: Sequence[Any]) -> tuple[Any, ...]:
    """The same samples in larger batches, as the twin can take them."""
    return tuple(usable(twin, merged(batches, RECALIBRATION_SAMPLES) if twin.is_divisible else batches))


def usable(twin: Twin, batches: Sequence[Any]) -> list[Any]:
    """The batches as the twin can take them: of the one size it works with, where it works with one only.

    Raises:
        EvidenceError: there are too few samples for one such batch.
    """
    if twin.is_batch_dynamic or not batches:
        return list(batches)
    fitting = (
        [b for b in batches if sizes_of(b) == {twin.batch}]
        if twin.is_coupled
        else resized(batches, twin.batch)
    )
    if not fitting:
        raise EvidenceError(
            f"This network works with batches of {twin.batch} samples only, and a part of the held-out"
            " samples is smaller. Give a larger probe, or write the network so that it takes any batch size."
        )
    return fitting


def fitting(twin: Twin, batches: Sequence[Any]) -> list[Any]:
    """The batches whose sizes the twin is right for; all, if none fits or it is for one number of samples.

    The code may fix an axis that varies from batch to batch, such as the length of texts.
    """
    if not twin.is_batch_dynamic and all(len(sizes_of(batch)) == 1 for batch in batches):
        return list(batches)
    try:
        fitting = [batch for batch in batches if twin.takes(batch)]
    except EvidenceError:  # not built alike: told where the batches are checked
        return list(batches)
    return fitting or list(batches)


def ablation_rises(
    twin: Twin, anatomy: Anatomy, state: State, batches: Sequence[Any], units: IntArray
) -> FloatArray:
    """Rise of the loss on every batch when each unit alone is removed: [units, batches]; NaN if not read."""
    ablation, columns = Ablation(twin, anatomy, units), []
    for batch in batches:
        base, losses = ablation.losses(state, batch)
        columns.append(losses - base)
    rises: FloatArray = torch.stack(columns, dim=1).double().cpu().numpy()
    return rises


def correct(output: Tensor, target: Any, ignored: int | None = None) -> list[float] | None:
    """Share of right predictions per sample, where output and target are a classification; None otherwise.

    Targets that are no class are those that losses ignore (-100, 255), and the `ignored` class: they count
    neither way, and a sample that has no other is left out, before and after a mask alike.
    """
    axis = class_axis(output, target)
    if axis is None:
        return None
    target = target.to(output.device)
    # [samples, predictions of each]: what is no class counts neither way.
    hits = (output.argmax(axis) == target).double().reshape(len(target), -1)
    weights = _is_class(target, output.shape[axis], ignored).double().reshape(len(target), -1)
    told = weights.sum(1) > 0
    share = (hits * weights).sum(1)[told] / weights.sum(1)[told]
    return [float(x) for x in share]


def _is_class(target: Tensor, classes: int, ignored: int | None) -> Tensor:
    is_class = (target >= 0) & (target < classes)
    return is_class if ignored is None else is_class & (target != ignored)


def _frequencies(output: Tensor, target: Tensor, ignored: int | None) -> Tensor:
    """How often every class is the right one: [classes]; zero where this is no classification."""
    axis = class_axis(output, target)
    if axis is None:
        return torch.zeros(1)
    classes = output.shape[axis]
    return torch.bincount(target[_is_class(target, classes, ignored)].cpu(), minlength=classes)


def _added(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two counts, of which one may have more classes."""
    most = max(len(one), len(other))
    return sum((F.pad(counts, (0, most - len(counts))) for counts in (one, other)), torch.zeros(most))
