"""One cut at once: by a mask that is given, or by a choice that is made anew where a part is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn
from torch.optim import Optimizer

from esper.anatomy.cut import Cut, Form, Look, Snapshot, cut, cut_program, feasible
from esper.anatomy.graph import bare, standalone
from esper.arrays import BoolArray
from esper.compaction.choice import Chosen
from esper.compaction.compacted import Compacted, outcome
from esper.compaction.configuration import Description, describe, wordless
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
        look: what was seen of it, without the layers that go first.
        optimizers: follow a cut in place.
        in_place: False cuts the exported program and leaves the network as it is.
        blocks: names of residual layers that go too.
    """

    model: nn.Module
    look: Look
    optimizers: tuple[Optimizer, ...]
    in_place: bool
    blocks: tuple[str, ...] = ()

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
            raise refusal_explained(error, self.look, given.keep) from error

    def by_choice(
        self,
        choose: Callable[[Mapping[str, str]], Chosen],
        settings: Settings,
        search: Callable[[], Mapping[str, str]],
        *,
        is_tried_first: bool,
    ) -> Compacted:
        """Cuts what is chosen; a group that turns out not to go is left whole, and the choice made again.

        Args:
            choose: a choice that leaves the groups in its argument whole.
            settings: target and floors of the choice.
            search: tries which groups cannot go in place, and says why.
            is_tried_first: search before the first choice, not only when a cut has failed.

        Raises:
            SurgeryError: it cannot be cut, and no group is the reason.
        """
        refused = search() if is_tried_first else {}
        is_known = is_tried_first or not self.in_place
        while True:  # ends: every round leaves one more group whole, and a mask of nothing can be cut
            chosen = choose(refused)
            shortfall = tuple(self._shortfall(chosen.keep, settings, refused))
            try:
                return self._cut(replace(chosen, notes=(*chosen.notes, *shortfall)), refused)
            except SurgeryError:
                more = {} if is_known else search()
                more, is_known = more or self._refused_of(chosen.keep), True
                if not more.keys() - refused.keys():
                    raise
                refused = {**refused, **more}

    def _refused_of(self, keep: BoolArray) -> Mapping[str, str]:
        look = self.look
        return feasible(look.network, look.anatomy, keep, look.inputs)[1] if self.in_place else {}

    def _shortfall(self, keep: BoolArray, settings: Settings, refused: Mapping[str, str]) -> Iterator[str]:
        """Where a mask removes less than the target: what holds the rest, and the way out."""
        target = settings.target
        if target is None:
            return
        anatomy, network = self.look.anatomy, self.look.network
        removed = Situation.whole(anatomy).under(keep).removed_fraction(target.cost)
        if removed >= target.fraction - _SHORT:
            return
        yield what_holds(self.look.traced, Situation.whole(anatomy), keep, settings, refused)
        if not refused:
            return
        whole = choose_by_magnitude(anatomy, dict(network.named_parameters()), settings)
        if whole.removed_fraction > removed and program_takes(self.look, whole.keep):
            yield (
                f"As a program, which does not run this code, {whole.removed_fraction:.1%} can go: cut with "
                "in_place=False."
            )

    def _cut(self, chosen: Chosen, refused: Mapping[str, str]) -> Compacted:
        """Cuts with the new values that belong to the choice; if it fails, they are taken back too."""
        notes, network = chosen.notes, bare(self.model)
        args = (self.look.anatomy, chosen.keep, self.look.inputs)
        form: Form | None = None
        description: Description | None = None
        with chosen.applied(network, for_good=self.in_place):
            if self.in_place:
                before = Snapshot.of(network)
                result = cut(self.model, *args, self.optimizers, blocks=self.blocks)
                try:
                    form = Form.between(before, network, [result.kept])
                except SurgeryError as error:
                    notes = (*notes, str(error))
                description = describe(network, *args) if not result.blocks else wordless(network)
            else:
                result = cut_program(network, *args, blocks=self.blocks)
        return outcome(
            self.model if result.exported is None else standalone(result.program),
            result,
            self.look.inputs,
            refused=refused,
            notes=(*notes, *_left_over(result)),
            quality=chosen.quality,
            form=form,
            description=description,
        )


def _left_over(made: Cut) -> tuple[str, ...]:
    if not made.leftover:
        return ()
    first, *others = made.leftover
    what = f"{first} and {len(others)} more" if others else first
    return (f"{what}: of the layers that went, but in modules that do something else too; not removed.",)
