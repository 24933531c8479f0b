"""What a cut did: the proof, the coordinates that stayed, unit numbers before and after, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.optim import Optimizer

from esper.anatomy.cut.optimizers import StateLayouts
from esper.anatomy.graph import bare, gathered, named_tensors, renew
from esper.anatomy.proof import Equivalence, Undo, resize, spread_out
from esper.anatomy.structure import Anatomy, Kind
from esper.arrays import BoolArray, IntArray
from esper.errors import SurgeryError


@dataclass(frozen=True, eq=False)
class Cut:
    """What a cut did, in place or as a program.

    Attributes:
        anatomy: the network before.
        keep: the units that stayed, bool [units before].
        equivalence: how equal the cut network is to the masked one.
        kept: coordinates that stayed, by tensor and axis, of every tensor that lost some.
        parameters_before: parameters, tied ones counted once.
        parameters_after: the same of the cut network.
        blocks: residual layers that went.
        leftover: parameters of those layers that stay, because they lie in modules that do something else
            too; nothing reads what they make.
        rewritten: sizes beside the weights that had to follow, as `path.attribute = new`.
        exported: the cut network without code; None where it was cut in place.
        copies: the copies inside of companions that were cut too.
    """

    anatomy: Anatomy
    keep: BoolArray
    equivalence: Equivalence
    kept: Mapping[str, Mapping[int, Tensor]]
    parameters_before: int
    parameters_after: int
    blocks: tuple[str, ...] = ()
    leftover: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()
    exported: ExportedProgram | None = None
    copies: tuple[nn.Module, ...] = ()
    _attributes: Undo = field(default_factory=Undo)
    """Takes back what modules say of their sizes."""
    _layers: Undo = field(default_factory=Undo)
    """Gives removed modules their tensors and optimizers their parameters back."""

    @property
    def program(self) -> ExportedProgram:
        """The cut network without code.

        Raises:
            SurgeryError: it was cut in place.
        """
        if self.exported is None:
            raise SurgeryError("This network was cut in place, and its own code runs it. Ask for a program.")
        return self.exported

    def undo(self, model: nn.Module, optimizers: tuple[Optimizer, ...] = ()) -> None:
        """Gives network and companions the shapes they had before, so that a checkpoint from then fits.

        Coordinates that the cut removed come back as zeros, in parameters, buffers and optimizer state alike.
        Cuts are taken back last first; a program leaves nothing to take back.

        Args:
            model: the network as the cut left it.
            optimizers: the same as for the cut.
        """
        shapes = {info.name: info.shape for info in self.anatomy.tensors}
        with ExitStack() as whole:
            whole.enter_context(gathered(bare(model), optimizers))
            for copied in self.copies:
                whole.enter_context(gathered(copied))
            states = [StateLayouts(optimizer, {}) for optimizer in optimizers]
            for tensors in map(named_tensors, (bare(model), *self.copies)):
                for name, axes in self.kept.items():
                    # State before the parameter: its layout is told by the shape that this still has.
                    for state in states:
                        state.spread(tensors[name], axes, shapes[name])
                    resize(tensors[name], spread_out(tensors[name], axes, shapes[name]), Undo())
            self._attributes.run()
            self._layers.run()
        for changed in (model, *self.copies):
            renew(changed)

    def origin(self, after: Anatomy) -> IntArray:
        """For every unit of the network after the cut, which one it was before: int [units after].

        -1 where a unit could not go before. Tensors tell, because names may change: a group is named after
        one of its tensors, and that may have gone with a layer. Where a layer tied units together that come
        apart without it, all of them were the one.

        Args:
            after: the anatomy of the network as the cut left it.
        """
        owners = self._owners()
        names = {alias: info.name for info in self.anatomy.tensors for alias in (info.name, *info.aliases)}
        layers = {group.name: int(self.anatomy.offsets[n]) for n, group in enumerate(self.anatomy.groups)}
        origin = np.full(after.num_units, -1, np.int64)
        for number, group in enumerate(after.groups):
            span = after.unit_slice(number)
            if group.kind is Kind.LAYER:  # named after its own last weight
                origin[span] = layers.get(group.name, -1)
                continue
            for member in group.members:
                owner = owners.get((group.kind, names.get(member.tensor, member.tensor), member.axis))
                if owner is not None:
                    # -1 where a coordinate was no unit's; any owner outweighs that. [units of the group]
                    origin[span] = np.maximum(origin[span], owner[member.index].max(axis=1))
        return origin

    def _owners(self) -> dict[tuple[Kind, str, int], IntArray]:
        """The unit of every coordinate that is left of an axis, by kind: a head holds channels of its own."""
        shapes = {info.name: info.shape for info in self.anatomy.tensors}
        owners: dict[tuple[Kind, str, int], IntArray] = {}
        for number, group in enumerate(self.anatomy.groups):
            if group.kind is Kind.LAYER:
                continue
            units = self.anatomy.offsets[number] + np.arange(group.width)
            for member in group.members:
                key = (group.kind, member.tensor, member.axis)
                owner = owners.setdefault(key, np.full(shapes[member.tensor][member.axis], -1, np.int64))
                owner[member.index] = units[:, None]
        # Along every axis as the cut left it.
        for kind, name, axis in owners:
            if (stays := self.kept.get(name, {}).get(axis)) is not None:
                owners[kind, name, axis] = owners[kind, name, axis][stays.numpy()]
        return owners
