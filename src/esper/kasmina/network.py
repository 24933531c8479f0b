"""The live network: its anatomy and twin, what is masked, what was cut, and how to go back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy import Anatomy
from esper.anatomy.cut import (
    Look,
    WeightCopies,
    cut,
    feasible,
    refusals,
)
from esper.anatomy.graph import Loss, bare, changed_inputs, copied, loss_tensors
from esper.anatomy.proof import Inputs
from esper.anatomy.twin import Twin
from esper.arrays import BoolArray
from esper.errors import CheckpointError, StructureError, SurgeryError, UntraceableError
from esper.kasmina.changes import Change, UnitsCut, check_records, redo_all, shared_changes
from esper.kasmina.earlier import EarlierWeights
from esper.kasmina.held import HANDS
from esper.kasmina.masks import MaskKeeper

_STATISTICS = ("running_mean", "running_var")
_ANOTHER = (
    "This network is not the one that the run started with: its structure differs from the one that was cut. "
    "Build the model exactly as for the first run and resume again."
)


class LiveNetwork:
    """A network in training, with everything about its structure.

    Args:
        model: the user's network.
        optimizer: the optimizer that trains it.
        sample: one batch `(input, target)`.
        loss: `loss(output, target)`.
        companions: modules that hold a copy of the network, and are masked and cut with it.
        layers: whether whole residual layers are units too.
        blueprints: the user's own ones, by name.
        free: axes of inputs whose size may differ from batch to batch; see `trace`.
        followers: frozen copies and what each follows, where they are known from when the run began; None:
            what holds the same now.
        is_coupled: whether samples were seen to meet in the loss then.

    Raises:
        ConfigError: a session holds the network or its optimizer already.
        UntraceableError: it cannot be traced.

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
        *,
        layers: bool = False,
        blueprints: Mapping[str, Callable[..., nn.Module]] | None = None,
        free: frozenset[tuple[int, int]] = frozenset(),
        followers: Mapping[str, str] | None = None,
        is_coupled: bool = False,
    ) -> None:
        HANDS.refuse_held(bare(model), (optimizer,))
        self.given, self.model = model, bare(model)
        self.companions = tuple(companions)
        self.optimizer = optimizer
        self.changes: list[Change] = []
        """Since the network was new, in their order."""
        self.original: nn.Module | None = None
        """A copy from before the first cut, to compare with."""
        self.loss = loss
        self.anatomy: Anatomy
        self.graph: Twin
        """The twin, to run on live tensors."""
        self.seen: Look
        """What the last look saw."""
        self.inputs: Inputs
        """Inputs to prove cuts on."""
        self.masks: MaskKeeper
        self.look_seconds = 0.0
        """How long the last look at the network took: about what the next cut takes."""
        self.blueprints = dict(blueprints or {})
        """What seeds can be beside our own."""
        self.still: frozenset[str] = frozenset()
        """Running statistics that training does not move, by name."""
        self.free = free
        """Axes of inputs whose size may differ from batch to batch."""
        self._sample, self._layers = sample, layers
        self.followers: Mapping[str, str] | None = followers
        """Frozen copies and what each follows, as the first look saw it: averages drift apart."""
        self.is_coupled = is_coupled
        """Whether samples of a batch meet in the loss, as the first look saw it: training moves losses."""
        self._look((optimizer,))
        self.refused = refusals(self.model, self.anatomy, self.inputs)
        """Groups that the network's own code does not let be cut, and why: by name, until something grows."""
        self.earlier = EarlierWeights(self, self.masks.in_companions)
        """Keeps what a script would load of before a cut out of the network."""
        self.earlier.watch(optimizer)
        HANDS.take(self)

    @property
    def twin(self) -> bytes:
        """The twin for other processes; the same object as long as nothing in it has changed."""
        return self.graph.archive()

    def cuttable_units(self) -> BoolArray:
        """Units whose group can be cut, and that are not gone with their layer: bool [units]."""
        per_group = np.array([group.name not in self.refused for group in self.anatomy.groups], np.bool_)
        return per_group[self.anatomy.group_of] & ~self.anatomy.inside_removed(self.masks.keep)

    @property
    def copies(self) -> tuple[nn.Module, ...]:
        """Those of the network that its companions hold."""
        return tuple(self.masks.in_companions)

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """Those that train it: the given one, and every other that has stepped one of its parameters."""
        return self.masks.optimizers

    def adopt(self, optimizer: Optimizer) -> None:
        """Looks after a further optimizer: masks, cuts, and states from before a cut that it would load."""
        self.masks.adopt(optimizer)
        self.earlier.watch(optimizer)

    @contextmanager
    def attended(self) -> Iterator[None]:
        """While it is acted upon: what loops keep as plain tensors is followed as it is now."""
        self.masks.follow()
        try:
            yield
        finally:
            for copy in self.masks.plain_copies:
                copy.settle()

    def _look(self, optimizers: Sequence[Optimizer]) -> None:
        """Traces the network: from now on this is what it is, and nothing is masked."""
        begun = time.perf_counter()
        look = self._seen_now()
        for name, line in changed_inputs(look.traced.program).items():
            raise UntraceableError(
                f"The network (or its loss) writes into its input {name} ({line}), so held-out batches would "
                "be different at every look. Nothing was changed. Write `x = x * 2` instead of `x.mul_(2)`, "
                "or begin with `x = x.clone()`."
            )
        self.seen, self.anatomy, self.inputs = look, look.anatomy, look.inputs
        self.followers = look.traced.followers
        self.graph = Twin.of(look.traced)
        self.is_coupled = self.graph.is_coupled
        self.masks = MaskKeeper(self.model, self.anatomy, optimizers, self.companions)
        self.look_seconds = time.perf_counter() - begun

    def _seen_now(self) -> Look:
        """The network as a look sees it, for batches and with copies as when the run began."""
        return Look.at(
            self.model,
            self._sample,
            self.loss,
            layers=self._layers,
            free=self.free,
            followers=self.followers,
            is_coupled=self.is_coupled,
        )

    def cut_masked(self, left: BoolArray | None = None) -> UnitsCut:
        """Removes masked units for good.

        Args:
            left: bool [units]; the masked units that it marks True stay masked. None: all go.

        Raises:
            SurgeryError: it cannot be done; the network is still masked, as before.
        """
        before, masks, masked = self.anatomy, self.masks, self.masks.keep.copy()
        keep = masked.copy() if left is None else masked | left
        if self.original is None:
            self.original = copied(self.model)
        masks.unmask(but=keep)  # what stays masked is hidden again below, with the values of the new shapes
        optimizers, companions = self.optimizers, self.companions
        try:
            made = cut(self.given, before, keep, self.inputs, optimizers, companions, then=self._look_again)
        except SurgeryError:
            masks.apply(masked)
            raise
        masks.detach()
        change = UnitsCut(made, made.origin(self.anatomy))
        self.changes.append(change)
        self.masks.apply(change.carried(masked))
        return change

    def admits(self) -> str:
        """Why the network as it stands could not be looked after ('' if it could): tried, not kept."""
        try:
            self._seen_now()
        except StructureError as error:
            return f"the network with it cannot be traced: {error}"
        return ""

    def changed(self, make: Callable[[Anatomy, Anatomy], Change]) -> Change:
        """Looks at the network, whose structure is another one by now; no unit may have been masked.

        Args:
            make: the change, of the anatomy before and the one after.

        Raises:
            UntraceableError: it cannot be traced; what is known of it is still what it was before.
        """
        before, masks = self.anatomy, self.masks
        self._look(self.optimizers)
        masks.detach()
        self.changes.append(change := make(before, self.anatomy))
        self.refused = refusals(self.model, self.anatomy, self.inputs)
        return change

    def feasible(self, left: BoolArray | None = None) -> tuple[BoolArray, dict[str, str]]:
        """The part of the mask that the network's code lets be cut, and why the groups in the rest stay.

        Args:
            left: as for `cut_masked`.

        Raises:
            SurgeryError: the network cannot be copied.
        """
        keep = self.masks.keep if left is None else self.masks.keep | left
        return feasible(self.model, self.anatomy, keep, self.inputs)

    def _look_again(self) -> None:
        try:
            self._look(self.optimizers)
        except StructureError as error:
            raise SurgeryError(f"The cut network cannot be traced, so the cut was undone: {error}") from error

    def renew_masks(self) -> None:
        """Forgets all masks without restoring anything: a checkpoint is about to be."""
        self.masks.detach()
        self.masks = MaskKeeper(self.model, self.anatomy, self.optimizers, self.companions)

    def tensors(self) -> dict[str, Tensor]:
        """The live parameters and buffers by name, for the graph: the network's, and those of its loss."""
        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        live = {**own, **loss_tensors(self.loss)}
        return {name: value.detach() for name, value in live.items()}

    def not_numbers(self) -> str:
        """The name of a tensor that is nan or infinite; '' if there is none.

        A buffer may be infinite: a mask of attention is -inf where nothing may be seen.
        """
        trained, shown = self.named_parameters().keys(), {}
        for name, value in self.tensors().items():
            # Torch compares no 8-bit floats.
            is_float = value.is_floating_point() and value.dtype.itemsize > 1
            if value.numel() and (is_float or value.is_complex()):
                least, most = torch.aminmax(torch.view_as_real(value) if value.is_complex() else value)
                # nan where a value is nan, and in a parameter also where one is infinite: 0 * inf is nan
                shown[name] = 0 * least + 0 * most if name in trained else least
        device = next((value.device for value in shown.values()), None)
        broken = [value.to(device, torch.float32).isnan() for value in shown.values()]
        where = torch.stack(broken).tolist() if broken else []  # one wait for the device, not one for each
        return next((name for name, is_broken in zip(shown, where, strict=True) if is_broken), "")

    def mask(self, keep: BoolArray) -> None:
        """Masks exactly the units that `keep` marks False: bool [units]; see `MaskKeeper.apply`."""
        self.masks.apply(keep)

    def unmask(self, but: BoolArray) -> None:
        """Brings masked units back exactly, all but those that `but` marks False: bool [units]."""
        self.masks.unmask(but)

    def note_still(self) -> None:
        """Notes whose running statistics stand still; to be asked at an optimizer step, while it trains."""
        self.still = frozenset(
            f"{path}.{name}" if path else name
            for path, module in self.model.named_modules()
            if not module.training
            for name, _ in module.named_buffers(recurse=False)
            if name in _STATISTICS
        )

    def versions(self) -> list[dict[str, Tensor]]:
        """The tensors for the graph, by name: of the network, then with those of each copy in a companion."""
        live = self.tensors()
        copies = [
            {**dict(copy.named_parameters()), **dict(copy.named_buffers())}
            for copy in self.masks.in_companions
        ]
        # In the network's type and on its device: it is run with batches that fit the network. What is tied
        # there, and apart in a copy, has one name more in the copy than the graph knows.
        known = [{n: t.detach().to(live[n]) for n, t in own.items() if n in live} for own in copies]
        return [live, *({**live, **own} for own in known)]

    def set_buffers(self, values: Mapping[str, Tensor], version: int = 0) -> None:
        """Gives buffers new values, such as running statistics, by name: of one of the `versions`."""
        buffers = dict((self.model, *self.masks.in_companions)[version].named_buffers())
        with torch.no_grad():
            for name, value in values.items():
                buffers[name].copy_(value)

    def adjust(self, changes: Mapping[str, Tensor], sign: int = 1) -> None:
        """Adds `sign` times these changes to parameters, by name; copies of them get them too.

        Not where the parameter that one is for is no longer there: a script may have rebuilt a layer.
        """
        parameters = self.named_parameters()
        shapes = {name: parameter.shape for name, parameter in parameters.items()}
        changes = {name: one for name, one in changes.items() if shapes.get(name) == one.shape}
        for network in (self.model, *self.masks.in_companions):
            tensors = dict(network.named_parameters())
            for name, change in changes.items():
                tensors[name].detach().add_(change.to(tensors[name].device), alpha=sign)
        in_state = WeightCopies(self.optimizers)
        with torch.no_grad():
            for name, change in changes.items():
                in_state.add(parameters[name], change, sign)

    def parameter_names(self) -> list[str]:
        """The names of the optimizer's parameters, in the order in which its state numbers them."""
        tensors = {**loss_tensors(self.loss), **self.named_parameters()}
        names = {id(tensor): name for name, tensor in tensors.items()}
        return [names.get(id(p), "") for group in self.optimizer.param_groups for p in group["params"]]

    def named_parameters(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def detach(self) -> None:
        HANDS.let_go(self)
        self.earlier.stop()
        self.masks.detach()

    def state(self) -> dict[str, Any]:
        """Its structure: what was changed, in itself and in its companions, and what stands still."""
        changes = [change.record() for change in self.changes]
        return {"changes": changes, "companions": len(self.companions), "still": sorted(self.still)}

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuses the changes of another network, or of one with other companions; changes nothing.

        Raises:
            CheckpointError: it says what is different.
            ConfigError: a seed in it is made by a blueprint that nobody knows here.
        """
        if len(self.companions) != state["companions"]:
            raise CheckpointError(
                f"The checkpoint holds {state['companions']} companion(s), and {len(self.companions)} were "
                "given. Give the same ones in the same order as when the run began, as `companions=`. "
                "Nothing was changed."
            )
        check_records(state["changes"], self.blueprints)
        whole = self.changes[0].before if self.changes else self.anatomy
        if state["changes"] and state["changes"][0]["anatomy"] != whole.digest:
            raise CheckpointError(f"{_ANOTHER} Nothing was changed.")

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes back the changes that are not among those, and makes the others again.

        Where that changes anything, nothing is masked afterwards, and values are those of no moment until a
        checkpoint's are loaded.

        Raises:
            CheckpointError: the network is not the one that was changed.
        """
        self.still = frozenset(state.get("still", ()))  # older runs do not say it
        records: Sequence[Mapping[str, Any]] = state["changes"]
        shared = shared_changes(self.changes, records)
        undone = self.changes[shared:]
        if undone:
            self.masks.detach()
            while len(self.changes) > shared:
                self.changes.pop().undo(self.given, self.optimizers)
            self._look(self.optimizers)
        if shared < len(records):
            self.renew_masks()
        if not redo_all(self, records[shared:]):
            raise CheckpointError(_ANOTHER)
        if any(change.kind != UnitsCut.kind for change in (*undone, *self.changes[shared:])):
            self.refused = refusals(self.model, self.anatomy, self.inputs)
