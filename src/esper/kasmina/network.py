"""The live network: its anatomy and twin, what is masked, what was cut, and how to go back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy import Anatomy, Cut, Loss, Probe, anatomy_of, cut, split_sample, trace, uncut
from esper.anatomy.admission import changed_inputs
from esper.anatomy.companions import copy_in
from esper.anatomy.feasibility import refused_groups
from esper.anatomy.structure import BoolArray, IntArray
from esper.anatomy.twin import Twin
from esper.anatomy.wrappers import bare
from esper.errors import CheckpointError, StructureError, SurgeryError, UntraceableError
from esper.kasmina.masks import MaskKeeper

PROOF_SAMPLES = 8


@dataclass(frozen=True, eq=False)
class PastCut:
    """One cut of this process: enough to take it back, and to make it again in another process."""

    anatomy: Anatomy
    keep: BoolArray
    made: Cut

    def record(self) -> dict[str, Any]:
        """For a checkpoint: which units of which anatomy went."""
        return {"anatomy": self.anatomy.digest, "removed": np.flatnonzero(~self.keep).tolist()}


class LiveNetwork:
    """A network in training, with everything about its structure.

    Args:
        model: the user's network.
        optimizer: the optimizer that trains it.
        sample: one batch `(input, target)`.
        loss: `loss(output, target)`.
        companions: modules that hold a copy of the network, and are masked and cut with it.

    Attributes:
        model: the network itself.
        given: the network as the user has it, perhaps compiled or in `DistributedDataParallel`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        sample: Any,
        loss: Loss,
        companions: Sequence[nn.Module] = (),
    ) -> None:
        self.given, self.model = model, bare(model)
        self.companions = tuple(companions)
        self.optimizer = optimizer
        self.cuts: list[PastCut] = []
        self.original: nn.Module | None = None
        """A copy from before the first cut, to compare with."""
        self._sample = sample
        self.loss = loss
        self.probe: Probe
        """Inputs to prove cuts on."""
        self.anatomy: Anatomy
        self.twin: bytes
        self.graph: Twin
        """The twin, to run on live tensors."""
        self.masks: MaskKeeper
        self._look()
        self.refused: dict[str, str] = refused_groups(self.model, self.anatomy, self.probe)
        """Groups that the network's own code does not let be cut, and why: by name, for the whole run."""

    def cuttable_units(self) -> BoolArray:
        """Units whose group can be cut: bool [units]."""
        per_group = np.array([group.name not in self.refused for group in self.anatomy.groups], np.bool_)
        return per_group[self.anatomy.group_of]

    def _look(self) -> None:
        """Traces the network as it is now."""
        traced = trace(self.model, self._sample, self.loss)
        for name, line in changed_inputs(traced.program).items():
            raise UntraceableError(
                f"The network (or its loss) writes into its input {name} ({line}), so held-out batches would "
                "be different at every look. Nothing was changed. Write `x = x * 2` instead of `x.mul_(2)`, "
                "or begin with `x = x.clone()`."
            )
        anatomy, twin = anatomy_of(traced, self.model), Twin.of(traced)
        self.anatomy, self.twin, self.graph = anatomy, twin.to_bytes(), twin
        args, kwargs, _ = split_sample(self._sample, with_target=True)
        probe = Probe(args, kwargs)
        self.probe = probe.first(PROOF_SAMPLES) if twin.is_batch_dynamic else probe
        self.masks = MaskKeeper(self.model, self.anatomy, (self.optimizer,), self.companions)

    def cut_masked(self, left: BoolArray | None = None) -> tuple[Cut, IntArray]:
        """Removes masked units for good.

        Args:
            left: bool [units]; the masked units that it marks True stay masked. None: all go.

        Returns:
            What was done, and for every old unit its new number or -1.

        Raises:
            SurgeryError: it cannot be done; the network is still masked, as before.
        """
        before, masks, masked = self.anatomy, self.masks, self.masks.keep.copy()
        keep = masked.copy() if left is None else masked | left
        if self.original is None:
            self.original = copy.deepcopy(self.model)
        masks.unmask(but=keep)  # what stays masked is hidden again below, with the values of the new shapes
        try:
            made = self._cut(before, keep)
        except SurgeryError:
            masks.apply(masked)
            raise
        masks.detach()
        self.cuts.append(PastCut(before, keep, made))
        numbers = new_numbers(before, keep, self.anatomy)
        self.masks.apply(renumbered(masked, numbers, self.anatomy.num_units))
        return made, numbers

    def _cut(self, before: Anatomy, keep: BoolArray) -> Cut:
        def look_again() -> None:
            try:
                self._look()
            except StructureError as error:
                raise SurgeryError(
                    f"The cut network cannot be traced, so the cut was undone: {error}"
                ) from error

        return cut(self.given, before, keep, self.probe, (self.optimizer,), self.companions, then=look_again)

    def take_back_cuts(self, remaining: int) -> None:
        """Takes back all but the first `remaining` cuts: shapes, attributes and classes are those of then.

        Values are not, until a checkpoint is restored.
        """
        if remaining >= len(self.cuts):
            return
        self.masks.detach()
        while len(self.cuts) > remaining:
            past = self.cuts.pop()
            uncut(self.given, past.anatomy, past.made, (self.optimizer,))
        self._look()

    def renew_masks(self) -> None:
        """Forgets all masks without restoring anything: a checkpoint is about to be."""
        self.masks.detach()
        self.masks = MaskKeeper(self.model, self.anatomy, (self.optimizer,), self.companions)

    def make_cuts(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Makes recorded cuts in a fresh network, so that a checkpoint from after them can be restored.

        Raises:
            CheckpointError: the network is not the one that was cut.
        """
        for record in records:
            if record["anatomy"] != self.anatomy.digest:
                raise CheckpointError(
                    "This network is not the one that the run started with: its structure differs from the "
                    "one that was cut. Build the model exactly as for the first run and resume again."
                )
            keep = np.ones(self.anatomy.num_units, dtype=np.bool_)
            keep[record["removed"]] = False
            self.masks.apply(keep)
            self.cut_masked()

    def tensors(self) -> dict[str, Tensor]:
        """The live parameters and buffers by name, for the graph."""
        live = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        return {name: value.detach() for name, value in live.items()}

    def adjust(self, changes: Mapping[str, Tensor], sign: int = 1) -> None:
        """Adds `sign` times these changes to parameters, by name; copies of the network get them too."""
        copies = [copy_in(companion, self.model, self.anatomy) for companion in self.companions]
        for network in (self.model, *copies):
            tensors = dict(network.named_parameters())
            for name, change in changes.items():
                tensors[name].detach().add_(change, alpha=sign)

    def parameter_names(self) -> list[str]:
        """The names of the optimizer's parameters, in the order in which its state numbers them."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        return [names.get(id(p), "") for group in self.optimizer.param_groups for p in group["params"]]

    def named_parameters(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def detach(self) -> None:
        self.masks.detach()


def new_numbers(before: Anatomy, keep: BoolArray, after: Anatomy) -> IntArray:
    """For every unit of the old anatomy its number in the new one, or -1: groups keep name and order."""
    numbers = np.full(before.num_units, -1, np.int64)
    starts = {group.name: int(after.offsets[n]) for n, group in enumerate(after.groups)}
    widths = {group.name: group.width for group in after.groups}
    for number, group in enumerate(before.groups):
        span = before.unit_slice(number)
        left = np.flatnonzero(keep[span]) + span.start
        if widths.get(group.name) == left.size:
            numbers[left] = starts[group.name] + np.arange(left.size)
    return numbers


def renumbered(keep: BoolArray, numbers: IntArray, num_units: int) -> BoolArray:
    """A mask about the network before a cut, in the numbers of after it: shape [`num_units`]."""
    left = np.ones(num_units, dtype=np.bool_)
    gone = numbers[~keep]
    left[gone[gone >= 0]] = False
    return left
