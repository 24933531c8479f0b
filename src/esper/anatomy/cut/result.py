"""What a cut did: the proof, the coordinates that stayed, unit numbers before and after, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.optim import Optimizer

from esper.anatomy.cut.optimizers import StateLayouts
from esper.anatomy.cut.origin import origin_of
from esper.anatomy.graph import bare, gathered, named_tensors, renew
from esper.anatomy.proof import Equivalence, Undo, resize, spread_out
from esper.anatomy.structure import Anatomy
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
        """For every unit of the network after the cut, which one it was before; see `origin_of`."""
        return origin_of(self.anatomy, after, self.kept)
