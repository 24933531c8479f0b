"""Proves that two computations are the same, in their outputs and in their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from esper.anatomy.proof.observe import OUTPUTS, TRAINED, Mode, Observation, Subject
from esper.anatomy.proof.tensors import select
from esper.anatomy.proof.tolerance import QUICK_LIMIT, Equivalence, Tolerance, may_be_rounding
from esper.errors import NotEquivalentError

IN_TRAINING = "The network ran as it is trained."
"""Noted with an error that its code raised then."""
Kept = Mapping[str, Mapping[int, Tensor]]
"""Coordinates that stayed, by tensor and axis."""


@dataclass(frozen=True)
class Reference:
    """What was computed before: in float32, in float64, and in float64 by batch statistics.

    Gradients are those of eval mode alone. By batch statistics every layer reads the same weights in the same
    way, and of a few samples such statistics can leave nothing of a gradient: two become -1 and 1 whatever
    they were.
    """

    single: Observation
    double: Observation | None
    training: Observation | None
    note: str = ""
    approximation: float | None = None
    rounding: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0)
    """Measures what its code rounds in float64, by naming a shorter type: in outputs, in gradients."""
    is_quick: bool = False
    """Outputs in float32 alone, for a trial."""
    can_train: bool = False
    """Whether it also runs as it is trained; it may need targets for that."""

    @classmethod
    def of(cls, subject: Subject, *, with_gradients: bool = True, is_quick: bool = False) -> Reference:
        """Observes what another computation will be compared with.

        Raises:
            NotEquivalentError: it computes NaN.
        """
        single = subject.see(OUTPUTS)
        if _holds_nan(single):
            raise NotEquivalentError(
                "With these units masked the network computes NaN on the inputs of the proof, so nothing can "
                "be compared. Nothing was changed. Give inputs that the network can take, or look for a "
                "division by zero."
            )
        if is_quick:
            return cls(single, None, None, "outputs in float32 alone", is_quick=True)
        can_train = _runs_as_trained(subject)
        try:
            double = subject.see(Mode(torch.float64, with_gradients=with_gradients))
        except RuntimeError as error:
            note = f"not measured in float64: {str(error).splitlines()[0]}"
            return cls(single, None, None, note, can_train=can_train)
        if _holds_nan(double):
            note = "not measured in float64: the network computes NaN there"
            return cls(single, None, None, note, can_train=can_train)
        training = None
        if subject.has_batch_statistics and with_gradients:
            training = subject.see(Mode(torch.float64, batch_statistics=True, with_gradients=False))
        note = "" if double.gradients is not None else "gradients not compared"
        return cls(single, double, training, note, can_train=can_train)


def _runs_as_trained(subject: Subject) -> bool:
    if not subject.can_train:
        return False
    try:
        subject.see(TRAINED)
    except Exception:  # noqa: BLE001  it may need targets, or more samples, and say so in any way
        return False
    return True


def _holds_nan(seen: Observation) -> bool:
    return any(bool(output.isnan().any()) for output in seen.outputs)


def prove(ours: Subject, expected: Reference, kept: Kept | None = None) -> Equivalence:
    """Compares what is computed now with what was computed before.

    Args:
        ours: what computes now.
        expected: what was computed before.
        kept: for tensors that have lost something, the coordinates that stayed.

    Raises:
        NotEquivalentError: they differ by more than rounding. Whatever the code of `ours` raises passes
            through.
    """
    equivalence = _compared(ours, expected, kept or {})
    tolerance = Tolerance(single=QUICK_LIMIT) if expected.is_quick else Tolerance()
    exceeded = tolerance.exceeded(equivalence)
    # Only a small difference can be rounding, and to find out takes further runs.
    if exceeded and may_be_rounding(equivalence):
        exceeded = _tolerance_of(ours, expected).exceeded(equivalence)
    if exceeded:
        raise NotEquivalentError(
            f"The cut network differs from the masked one: {'; '.join(exceeded)}. {ours.advice}"
        )
    if expected.can_train:  # last: what is wrong in both modes is told as what is wrong as it is used
        try:
            ours.see(TRAINED)
        except Exception as error:
            error.add_note(IN_TRAINING)
            raise
    return equivalence


def _compared(ours: Subject, expected: Reference, kept: Kept) -> Equivalence:
    single = outputs_differ(ours.see(OUTPUTS), expected.single)
    double: list[float] = []
    gradients: list[float] = []
    for theirs in (expected.double, expected.training):
        if theirs is not None:
            with_gradients = theirs.gradients is not None
            by_batch = theirs is expected.training
            now = ours.see(Mode(torch.float64, batch_statistics=by_batch, with_gradients=with_gradients))
            double.append(outputs_differ(now, theirs))
            if with_gradients:
                gradients.append(gradients_differ(now, theirs, kept))
    samples = max((output.shape[0] for output in expected.single.outputs if output.dim()), default=0)
    largest, steepest = max(double, default=None), max(gradients, default=None)
    return Equivalence(single, largest, steepest, samples, expected.note, expected.approximation)


def _tolerance_of(ours: Subject, expected: Reference) -> Tolerance:
    """What rounding explains in a network that enlarges it: by its code, and by a nudge of its weights."""
    outputs, gradients = [0.0], [0.0]
    for by_batch in (False, True) if expected.training is not None else (False,):
        # All weights larger by one rounding step: what that does to the outputs, rounding can do as well.
        as_it_is, nudged = (
            ours.see(Mode(torch.float64, batch_statistics=by_batch, with_gradients=not by_batch, nudge=nudge))
            for nudge in (0.0, 2.0**-52)
        )
        outputs.append(outputs_differ(nudged, as_it_is))
        gradients.append(gradients_differ(nudged, as_it_is, {}))
    return Tolerance().widened(expected.rounding(), (max(outputs), max(gradients)))


def same_outputs(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> bool:
    """Whether outputs that were computed in float32 are those of the same computation."""
    return not Tolerance().exceeded(Equivalence(largest_difference(ours, theirs), None, None, 0))


def outputs_differ(ours: Observation, theirs: Observation) -> float:
    """Largest difference between outputs, relative; infinite if they are not the same ones."""
    return largest_difference(ours.outputs, theirs.outputs)


def gradients_differ(ours: Observation, theirs: Observation, kept: Kept) -> float:
    """The same of gradients, `theirs` at the coordinates in `kept`; `theirs` may have more of them."""
    own, others = ours.gradients or {}, theirs.gradients or {}
    if not own.keys() <= others.keys():
        return float("inf")
    # Of the other network's gradients, only coordinates that stayed have a counterpart.
    pairs = ((gradient, select(others[name], _kept_of(name, theirs, kept))) for name, gradient in own.items())
    return max((difference(*pair) for pair in pairs), default=0.0)


def _kept_of(name: str, theirs: Observation, kept: Kept) -> Mapping[int, Tensor]:
    if name not in theirs.places:
        return kept.get(name, {})
    weight, weight_axis, axis = theirs.places[name]
    index = kept.get(weight, {}).get(weight_axis)
    return {} if index is None else {axis: index}


def largest_difference(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Largest difference between tensors, relative; infinite if there are none, or not as many."""
    first, second = tuple(ours), tuple(theirs)
    if len(first) != len(second):
        return float("inf")
    return max(map(difference, first, second), default=float("inf"))


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference over the largest finite value (at least 1e-3, so that zeros compare).

    The same infinity at the same place is no difference (scores that a network masks); NaN always is one.
    """
    ours, theirs = ours.detach(), theirs.detach()
    if ours.shape != theirs.shape:
        return float("inf")
    apart = ours != theirs
    if not bool(apart.any()):
        return 0.0
    scale = max(float(theirs.abs().masked_fill(~theirs.isfinite(), 0.0).max()), 1e-3)
    error = float((ours - theirs)[apart].abs().max()) / scale
    # NaN differs from everything, itself included.
    return error if error == error else float("inf")
