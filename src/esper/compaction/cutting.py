"""One cut at once: by a mask that is given, or by a choice that is made anew where a part is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn
from torch.export import ExportedProgram
from torch.optim import Optimizer

from esper.anatomy import Anatomy
from esper.anatomy.cut import Form, Snapshot, cut, cut_program, feasible
from esper.anatomy.graph import Traced, bare
from esper.anatomy.proof import Inputs
from esper.arrays import BoolArray
from esper.compaction.choice import Chosen
from esper.compaction.compacted import Compacted, outcome
from esper.compaction.configuration import Description, describe
from esper.compaction.obstacles import program_takes, refusal_explained, what_holds
from esper.emrakul import Settings
from esper.emrakul.plan import Situation, choose_by_magnitude
from esper.errors import SurgeryError

_SHORT = 0.01
"""A target that is missed by less than this share is met."""


@dataclass(frozen=True, eq=False)
class Cutting:
    """A network that is about to be cut at once, in place or as a program.

    Attributes:
        model: the network as it was given, perhaps compiled.
        traced: its trace.
        anatomy: its anatomy.
        inputs: to prove equality on.
        optimizer: follows a cut in place.
        in_place: False cuts the exported program and leaves the network as it is.
    """

    model: nn.Module
    traced: Traced
    anatomy: Anatomy
    inputs: Inputs
    optimizer: Optimizer | None
    in_place: bool

    @property
    def network(self) -> nn.Module:
        return bare(self.model)

    def by_mask(self, given: Chosen) -> Compacted:
        """Cuts exactly this mask, or nothing.

        Raises:
            SurgeryError: it cannot be cut; the message names the groups that cannot go, and the way out.
        """
        try:
            return self._cut(given, {})
        except SurgeryError as error:
            if not self.in_place:
                raise
            raise refusal_explained(error, self.network, self.anatomy, given.keep, self.inputs) from error

    def by_choice(
        self, choose: Callable[[Mapping[str, str]], Chosen], settings: Settings, refused: Mapping[str, str]
    ) -> Compacted:
        """Cuts what is chosen; a group that turns out not to go is left whole, and the choice made again.

        Args:
            choose: a choice that leaves the groups in its argument whole.
            settings: target and floors of the choice.
            refused: groups that are known to stay, and why.

        Raises:
            SurgeryError: it cannot be cut, and no group is the reason.
        """
        while True:  # ends: every round leaves one more group whole, and a mask of nothing can be cut
            chosen = choose(refused)
            told = tuple(self._shortfall(chosen.keep, settings, refused))
            try:
                return self._cut(replace(chosen, notes=(*chosen.notes, *told)), refused)
            except SurgeryError:
                more = self._refused_of(chosen.keep)
                if not more.keys() - refused.keys():
                    raise
                refused = {**refused, **more}

    def _refused_of(self, keep: BoolArray) -> Mapping[str, str]:
        return feasible(self.network, self.anatomy, keep, self.inputs)[1] if self.in_place else {}

    def _shortfall(self, keep: BoolArray, settings: Settings, refused: Mapping[str, str]) -> Iterator[str]:
        """Where a mask removes less than the target: what holds the rest, and the way out."""
        target = settings.target
        if target is None:
            return
        removed = Situation.whole(self.anatomy).under(keep).removed_fraction(target.cost)
        if removed >= target.fraction - _SHORT:
            return
        yield what_holds(self.traced, self.anatomy, keep, settings, refused)
        if not refused:
            return
        whole = choose_by_magnitude(self.anatomy, dict(self.network.named_parameters()), settings)
        if whole.removed_fraction > removed and program_takes(
            self.network, self.anatomy, whole.keep, self.inputs
        ):
            yield (
                f"As a program, which does not run this code, {whole.removed_fraction:.1%} can go: cut with "
                "in_place=False."
            )

    def _cut(self, chosen: Chosen, refused: Mapping[str, str]) -> Compacted:
        """Cuts with the new values that belong to the choice; if it fails, they are taken back too."""
        keep, notes = chosen.keep, chosen.notes
        program: ExportedProgram | None = None
        form: Form | None = None
        description: Description | None = None
        result, network = self.model, self.network
        with chosen.applied(network, for_good=self.in_place):
            if self.in_place:
                before = Snapshot.of(network)
                optimizers = () if self.optimizer is None else (self.optimizer,)
                made = cut(self.model, self.anatomy, keep, self.inputs, optimizers)
                try:
                    form = Form.between(before, network, [made.kept])
                except SurgeryError as error:
                    notes = (*notes, str(error))
                proof, description = made.equivalence, describe(network, self.anatomy, keep, self.inputs)
            else:
                cut_one = cut_program(network, self.anatomy, keep, self.inputs)
                proof, program, result = cut_one.equivalence, cut_one.program, cut_one.program.module()
            return outcome(
                result,
                self.anatomy,
                keep,
                self.inputs,
                proof,
                refused=refused,
                notes=notes,
                quality=chosen.quality,
                program=program,
                form=form,
                description=description,
            )
