"""What seeds are in a network: made, moved from stage to stage, handed over, taken out, remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from esper.errors import CheckpointError, UnknownPathError
from esper.kasmina.seeds.layer import KasminaLayer
from esper.kasmina.seeds.lifecycle import ALIVE, GROWS_ONCE, Action, SeedEvent, departure
from esper.kasmina.seeds.nursery import Nursery
from esper.kasmina.seeds.owners import HOST, Owners, SeedOptimizer, group_for, take_from
from esper.kasmina.seeds.place import Place
from esper.kasmina.seeds.recipe import Recipe
from esper.kasmina.seeds.settings import GrowthSettings
from esper.kasmina.seeds.slot import Slot, Track, track_of
from esper.kasmina.seeds.world import World
from esper.leyline import SeedLifecycleStage as Stage
from esper.nissa import Event, seed_events

_VERSION = 1
_TOLD: Mapping[tuple[Stage, SeedEvent], type[seed_events.OfSeed]] = {
    (Stage.DORMANT, SeedEvent.GERMINATE): seed_events.SeedGerminated,
    (Stage.PROBATIONARY, SeedEvent.FOSSILIZE): seed_events.SeedFossilized,
    (Stage.FOSSILIZED, SeedEvent.TERMINATE): seed_events.SeedEnded,
    (Stage.DORMANT, SeedEvent.TERMINATE): seed_events.PlaceClosed,
}
"""What is told of an event, where it is more than a move."""


class SeedBed:
    """The slots of one network, with owners and optimizers.

    Args:
        model: the network.
        optimizer: of the host.
        nursery: where seeds come from.
        settings: of all seeds.
        tell: tells what happens, first: what cannot be written down is not done.
        world: the processes that train the network.
        copies: of the network, in which the same grows.

    Attributes:
        slots: by path.
        owners: the registry.
        epoch: epochs that have ended.
        nursery: as given.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        nursery: Nursery,
        settings: GrowthSettings,
        tell: Callable[[Event], None],
        world: World,
        copies: Sequence[nn.Module],
    ) -> None:
        self._model, self._optimizer, self._world, self._copies = model, optimizer, world, copies
        self.nursery, self._settings, self.tell = nursery, settings, tell
        self.slots: dict[str, Slot] = {}
        self.owners = Owners(model)
        self.epoch = 0
        self._fossils: list[str] = []
        """Paths in the order in which the host's optimizer got what is theirs."""
        self._actions: Mapping[Action, Callable[[Slot], None]] = {
            **dict.fromkeys(Action, Slot.settle),
            Action.HAND_OVER: self._hand_over,
            Action.REMOVE: self._remove,
        }

    def living(self) -> list[Slot]:
        """Those with a seed that the host does not own."""
        return [slot for slot in self.slots.values() if slot.stage in ALIVE]

    def spread_statistics(self) -> None:
        """Running statistics of seeds are those of the first process, as those of the host are."""
        for slot in self.slots.values():
            if slot.layer is not None:
                self._world.spread(slot.layer.seed.buffers())

    def slot_at(self, path: str) -> Slot:
        """The slot at a module; a new one is DORMANT, and not entered before something is planted there.

        Raises:
            UnknownPathError: there is no such module.
        """
        if path in self.slots:
            return self.slots[path]
        slot = self._opened(Track(path))
        slot.enter(departure(slot.stage, SeedEvent.OPEN, path).to)
        return slot

    def is_free(self, path: str) -> bool:
        """Whether something could germinate at a place."""
        return not self.why_taken(path)

    def why_taken(self, path: str) -> str:
        """Why nothing could germinate at a place; '' if something could."""
        try:
            stage = self.slot_at(path).stage
        except UnknownPathError:
            return f"the place lies in something that has grown, and {GROWS_ONCE}"
        if stage in (Stage.FOSSILIZED, Stage.TERMINATED):
            return f"something has grown here already, and {GROWS_ONCE}"
        return "" if stage is Stage.DORMANT else f"the place is taken: its slot is {stage.name}"

    def build(self, slot: Slot, seed: nn.Module | None = None) -> None:
        """Makes the seed that a slot's track describes; the network does not know it yet.

        Args:
            slot: for it.
            seed: was made already; None: it is made here.

        Raises:
            ConfigError: the blueprint is unknown or fails, or the host's optimizer cannot be made again.
        """
        track = slot.track
        if seed is None:
            seed = self.nursery.make(track.recipe, slot.place.device)
        slot.layer = KasminaLayer(slot.place.module, seed, slot.place.device)
        trained = [parameter for parameter in seed.parameters() if parameter.requires_grad]
        if trained:
            group = group_for(self._optimizer, slot.place.module)
            slot.learner = SeedOptimizer(
                trained, self._optimizer, group, lr=track.lr, clip=self._settings.clip, world=self._world
            )

    def plant(self, slot: Slot, evidence: str) -> None:
        """A seed that was built has passed G0.

        Raises:
            LifecycleError: one of its parameters has an owner; the network is as it was.
        """
        self.owners.take(slot.path, slot.parameters())
        try:
            self.move(slot, SeedEvent.GERMINATE, evidence)
        except BaseException:
            self.owners.release(slot.own())
            raise
        self.slots[slot.path] = slot

    def move(self, slot: Slot, event: SeedEvent, evidence: str = "") -> None:
        """Something happens to a seed.

        Raises:
            IllegalTransitionError: it cannot; nothing was changed.
        """
        line, track = departure(slot.stage, event, slot.path), slot.track
        if event is not SeedEvent.CULL:  # told with its reason
            told = _TOLD.get((slot.stage, event), seed_events.SeedMoved)
            # First: what the audit cannot hold is not done.
            self.tell(told(self.epoch, slot.path, track.blueprint, slot.stage.name, line.to.name, evidence))
        slot.enter(line.to)  # first, so that an action that fails is not tried again
        self._actions[line.action](slot)

    def cull(self, slot: Slot, why: str, *, at_once: bool = False) -> None:
        """A seed has to go.

        Args:
            slot: holds it.
            why: in words.
            at_once: even where the host is used to it; otherwise its share goes back to nothing step by step.

        Raises:
            IllegalTransitionError: there is none that the host does not own.
        """
        departure(slot.stage, SeedEvent.CULL, slot.path)
        before, after = slot.stage.name, Stage.CULLED.name
        self.tell(seed_events.SeedCulled(self.epoch, slot.path, slot.track.blueprint, before, after, why))
        if at_once or slot.is_isolated or slot.track.is_paused:
            slot.track.position = 0
        slot.track.evidence = slot.track.culled = why
        self.move(slot, SeedEvent.CULL)
        if slot.track.position == 0:
            self.move(slot, SeedEvent.EMBARGO)

    def state(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "epoch": self.epoch,
            "slots": [slot.state() for slot in self.slots.values()],
            "fossils": list(self._fossils),
        }

    def check(self, state: Mapping[str, Any]) -> None:
        if state.get("version") != _VERSION:
            raise CheckpointError(
                f"The state of growing has version {state.get('version')!r}, expected {_VERSION}. Nothing "
                "was changed. Load it with the version of Esper that wrote it."
            )
        for saved in state["slots"]:
            track = track_of(saved)
            if track.blueprint:
                self.nursery.check_saved(track.recipe, saved["tensors"])

    def check_places(self, state: Mapping[str, Any]) -> None:
        for saved in state["slots"]:
            Place(self._model, track_of(saved).path)

    def clear(self) -> None:
        """Takes out every seed that is looked after here; the host is what it is without them."""
        for slot in self.slots.values():
            if not slot.track.is_settled:
                self._remove(slot)
        self.slots, self._fossils, self.epoch = {}, [], 0

    def follow(self) -> None:
        """The network has another structure, and no seed is in it: owners and places are found again."""
        self.owners.renew(self._model)
        for path, slot in list(self.slots.items()):
            try:
                slot.place = Place(self._model, path, self._copies)
            except UnknownPathError:  # it went with its layer
                del self.slots[path]

    @property
    def is_under_way(self) -> bool:
        """Whether there is a seed that is not a plain part of the network yet."""
        return bool(self._fossils) or bool(self.living())

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """The network without any seed that is under way."""
        layers = [(slot.place, slot.layer) for slot in self.slots.values() if slot.layer is not None]
        standing = [(place, layer) for place, layer in layers if place.module is layer]
        for place, layer in standing:
            place.stand(layer.host)
        try:
            yield
        finally:
            for place, layer in standing:
                place.stand(layer)

    def settle(self) -> Iterator[Recipe]:
        """Seeds that have become plain parts of the network, in their order: each is given away once.

        Those that follow one are out of the network while it is given away, so that whoever makes them parts
        of another network, one after the other, comes by the same networks.
        """
        settled = [path for path in self._fossils if self.slots[path].layer is None]
        later = [(slot.place, slot.place.module) for slot in map(self.slots.__getitem__, settled)]
        for place, _ in later:
            place.stand(place.host)
        try:
            for path in settled:
                self.slots[path].track.is_settled = True
                self._fossils.remove(path)
                place, grown = later.pop(0)
                place.stand(grown)
                yield self.slots[path].track.recipe
        finally:
            for place, grown in later:
                place.stand(grown)

    def load(self, state: Mapping[str, Any]) -> None:
        self.clear()
        self.owners.renew(self._model)
        self.epoch = state["epoch"]
        for saved in state["slots"]:
            slot = self._opened(track_of(saved))
            self.slots[slot.path] = slot
            if slot.stage in ALIVE or slot.path in state["fossils"]:
                self.build(slot)
                self.owners.take(slot.path, slot.parameters())
        for path in state["fossils"]:
            self._hand_over(self.slots[path])
        for saved in state["slots"]:
            self.slots[track_of(saved).path].load(saved)

    def _opened(self, track: Track) -> Slot:
        return Slot(self._model, track, self._settings, self._copies)

    def _hand_over(self, slot: Slot) -> None:
        if slot.learner is not None:
            slot.learner.move_to_host()
        slot.learner = slot.host_norm = None
        self.owners.hand_over(slot.path, HOST)
        self._fossils.append(slot.path)
        slot.settle()
        self._world.follow()

    def _remove(self, slot: Slot) -> None:
        own = slot.own()
        self.owners.release(own)
        take_from(self._optimizer, own)
        slot.remove()
