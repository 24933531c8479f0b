"""A bus inside one process: gone with it, and what code is tried with that speaks to a durable one."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from esper.leyline import Clock
from esper.leyline.wire import messages, parsed
from esper.oona.bus import Counts, DeadLetter, Delivery, Limits, Receipt
from esper.oona.envelopes import PRIORITIES, checked_name, raw_of, until_of
from esper.oona.shedding import shedding


class MemoryBus:
    """Keeps everything in memory.

    Args:
        limits: how much, and how long.
        clock: seconds since 1970.
    """

    def __init__(self, limits: Limits | None = None, clock: Clock = time.time) -> None:
        self._limits, self._clock = limits or Limits(), clock
        self._topics: defaultdict[str, _Topic] = defaultdict(_Topic)
        self._changed = threading.Condition()

    def publish(self, envelopes: Sequence[messages.EventEnvelope]) -> Receipt:
        items = [_Item.of(envelope) for envelope in envelopes]
        stored, known, shed, displaced = 0, 0, list[int](), 0
        with self._changed:
            for topic in dict.fromkeys(item.topic for item in items):
                one = self._topics[topic]
                coming = [(at, item) for at, item in enumerate(items) if item.topic == topic]
                new = one.new(coming)
                known += len(coming) - len(new)
                one.make_room(len(new), self._limits.max_records, self._clock())
                plan = shedding(one.held(), [item.priority for _, item in new], self._limits.max_records)
                shed += [new[position][0] for position in plan.shed]
                gone = set(plan.shed)
                one.add([item for position, (_, item) in enumerate(new) if position not in gone])
                one.displace(plan.displaced)
                one.shed += len(gone)
                stored += len(new) - len(gone)
                displaced += plan.displaced.total()
            self._changed.notify_all()
        return Receipt(stored, known, tuple(sorted(shed)), displaced)

    def subscribe(self, topic: str, group: str) -> MemorySubscription:
        checked_name(topic, "topic")
        checked_name(group, "group")
        with self._changed:
            one = self._topics[topic]
            if group not in one.groups:
                one.groups[group] = made = _Group()
                for priority, queue in one.queues.items():
                    made.waiting[priority].extend(queue)
                    for item in queue.values():
                        item.open_groups += 1
        return MemorySubscription(self._changed, one, one.groups[group], self._limits, self._clock)

    def dead(self, topic: str, group: str) -> list[DeadLetter]:
        with self._changed:
            made = self._topics[topic].groups.get(group)
            return list(made.dead) if made else []

    def counts(self, topic: str) -> Counts:
        with self._changed:
            one = self._topics[topic]
            return Counts(sum(one.held().values()), one.shed, one.expired, one.forgotten)

    def close(self) -> None:
        """There is nothing to let go of."""


class MemorySubscription:
    """One reader of a group of a `MemoryBus`."""

    def __init__(
        self, changed: threading.Condition, topic: _Topic, group: _Group, limits: Limits, clock: Clock
    ) -> None:
        self._changed, self._topic, self._group = changed, topic, group
        self._limits, self._clock = limits, clock

    def receive(self, most: int, wait_seconds: float = 0.0) -> list[Delivery]:
        end = time.monotonic() + wait_seconds
        with self._changed:
            while True:
                taken = self._abandoned(most)
                taken += self._new(most - len(taken))
                left = end - time.monotonic()
                if taken or left <= 0:
                    return taken
                self._changed.wait(min(left, self._limits.lease_seconds))

    def ack(self, deliveries: Iterable[Delivery]) -> int:
        with self._changed:
            return sum(self._done(int(delivery.place)) for delivery in deliveries)

    def _abandoned(self, most: int) -> list[Delivery]:
        now, taken = self._clock(), list[Delivery]()
        late = [number for number, lease in self._group.leases.items() if lease.ends <= now]
        late.sort(key=lambda number: (-self._topic.items[number].priority, number))
        for number in late:
            item, lease = self._topic.items[number], self._group.leases[number]
            if item.until <= now:
                self._topic.expired += 1
                self._done(number)
            elif lease.attempt >= self._limits.max_deliveries:
                self._bury(item, lease.attempt, now)
                self._done(number)
            elif len(taken) < most:
                taken.append(self._lend(number, lease.attempt + 1, now))
        return taken

    def _new(self, most: int) -> list[Delivery]:
        now, taken = self._clock(), list[Delivery]()
        for priority in PRIORITIES:
            waiting = self._group.waiting[priority]
            while waiting and len(taken) < most:
                number = waiting.popleft()
                item = self._topic.items.get(number)
                if item is None:
                    continue  # it was shed
                if item.until <= now:
                    self._topic.expired += 1
                    item.open_groups -= 1
                else:
                    taken.append(self._lend(number, 1, now))
        return taken

    def _lend(self, number: int, attempt: int, now: float) -> Delivery:
        self._group.leases[number] = _Lease(now + self._limits.lease_seconds, attempt)
        raw = self._topic.items[number].raw
        return Delivery(parsed(messages.EventEnvelope, raw), attempt, str(number))

    def _done(self, number: int) -> bool:
        if self._group.leases.pop(number, None) is None:
            return False
        if number in self._topic.items:
            self._topic.items[number].open_groups -= 1
        return True

    def _bury(self, item: _Item, deliveries: int, now: float) -> None:
        dead = self._group.dead
        reason = f"nobody acknowledged it in {deliveries} deliveries"
        dead.append(DeadLetter(parsed(messages.EventEnvelope, item.raw), deliveries, now, reason))
        while len(dead) > self._limits.max_dead:
            dead.popleft()
            self._topic.forgotten += 1


@dataclass
class _Item:
    topic: str
    priority: int
    key: str
    until: float
    raw: bytes
    open_groups: int = 0
    """Groups that it is not done for."""

    @classmethod
    def of(cls, envelope: messages.EventEnvelope) -> _Item:
        raw = raw_of(envelope)
        key = envelope.idempotency_key
        return cls(envelope.topic, envelope.priority, key, until_of(envelope), raw)


class _Lease(NamedTuple):
    ends: float
    attempt: int


@dataclass
class _Group:
    waiting: defaultdict[int, deque[int]] = field(default_factory=lambda: defaultdict(deque))
    leases: dict[int, _Lease] = field(default_factory=dict)
    dead: deque[DeadLetter] = field(default_factory=deque)


class _Topic:
    """The records of a topic, numbered as they came, and its groups."""

    def __init__(self) -> None:
        self.items: dict[int, _Item] = {}
        self.queues: dict[int, dict[int, _Item]] = {priority: {} for priority in PRIORITIES}
        self.groups: dict[str, _Group] = {}
        self.shed = self.expired = self.forgotten = 0
        self._keys: set[str] = set()
        self._count = 0

    def held(self) -> dict[int, int]:
        return {priority: len(queue) for priority, queue in self.queues.items()}

    def new(self, coming: list[tuple[int, _Item]]) -> list[tuple[int, _Item]]:
        """Those whose key is not known, and is not that of one before."""
        keys, new = set(self._keys), list[tuple[int, _Item]]()
        for at, item in coming:
            if item.key not in keys:
                new.append((at, item))
            if item.key:
                keys.add(item.key)
        return new

    def add(self, items: list[_Item]) -> None:
        for item in items:
            self._count += 1
            self.items[self._count] = self.queues[item.priority][self._count] = item
            item.open_groups = len(self.groups)
            if item.key:
                self._keys.add(item.key)
            for group in self.groups.values():
                group.waiting[item.priority].append(self._count)

    def displace(self, numbers: dict[int, int]) -> None:
        for priority, count in numbers.items():
            for number in list(self.queues[priority])[:count]:
                self._remove(number)
            self.shed += count

    def make_room(self, coming: int, most: int, now: float) -> None:
        """Where it is full: takes out what is expired, and of what is done as much as half of it may hold."""
        if len(self.items) + coming <= most:
            return
        for number, item in list(self.items.items()):
            if item.until <= now:
                self.expired += item.open_groups > 0 or not self.groups
                self._remove(number)
        done = [number for number, item in self.items.items() if self.groups and item.open_groups == 0]
        for number in done[: max(len(self.items) + coming - most // 2, 0)]:
            self._remove(number)

    def _remove(self, number: int) -> None:
        item = self.items.pop(number)
        del self.queues[item.priority][number]
        self._keys.discard(item.key)
        for group in self.groups.values():
            group.leases.pop(number, None)
