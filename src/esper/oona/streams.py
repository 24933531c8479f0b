"""A bus in Redis Streams: for several machines, as durable as the server is set up to be."""

from __future__ import annotations

import itertools
import math
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any

from esper.errors import BusError, ConfigError, ContractError
from esper.leyline import Clock
from esper.leyline.wire import messages, parsed
from esper.oona.bus import Counts, DeadLetter, Delivery, Limits, Receipt
from esper.oona.envelopes import PRIORITIES, checked_name, raw_of, until_of

PASSWORD = "ESPER_REDIS_PASSWORD"  # noqa: S105 - where it stands
"""The variable of the environment that holds the password of the server, if it has one."""
_PREFIX = "esper:bus"
_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 30.0
_LONGEST_BLOCK_SECONDS = 1.0
"""Between two looks for abandoned records."""


class RedisBus:
    """Keeps everything in a Redis server of version 7 or newer.

    A call that publishes is one script: all or none. With `appendonly yes` and `appendfsync always` in the
    server's settings it is synced to the server's disk before it returns; with its defaults, what came in
    the last second or since the last snapshot can be lost.

    Args:
        address: redis://host:port/db, rediss://... or unix:///path, without a password.
        limits: how much, and how long; all who share a server should agree.
        clock: seconds since 1970; who share a server compare their clocks where records expire.

    Raises:
        ConfigError: the library is not installed, or the address is none.
        BusError: nobody answers there, or the server cannot be used.
    """

    def __init__(self, address: str, limits: Limits | None = None, clock: Clock = time.time) -> None:
        self._address, self._limits, self._clock = address, limits or Limits(), clock
        self._client = _client(address)
        script = resources.files("esper.oona").joinpath("publish.lua").read_text()
        self._publish: Any = self._client.register_script(script)
        try:
            with self._clearly():
                self._check_version()
        except BaseException:
            self.close()
            raise

    def publish(self, envelopes: Sequence[messages.EventEnvelope]) -> Receipt:
        groups: dict[str, list[tuple[int, Sequence[Any]]]] = {}
        for position, envelope in enumerate(envelopes):
            raw, until = raw_of(envelope), until_of(envelope)
            # Lua reads the largest number as what never comes.
            values = (
                envelope.priority,
                repr(until) if until < math.inf else "1e300",
                envelope.idempotency_key,
                raw,
            )
            groups.setdefault(envelope.topic, []).append((position, values))
        stored, known, displaced, shed = 0, 0, 0, list[int]()
        for topic, coming in groups.items():
            arguments = itertools.chain.from_iterable(one for _, one in coming)
            with self._clearly():
                one = self._publish(
                    keys=[*_streams(topic)[::-1], f"{_place(topic)}:keys", f"{_place(topic)}:counts"],
                    args=[self._limits.max_records, repr(self._clock()), *arguments],
                )
            stored, known, displaced = stored + one[0], known + one[1], displaced + one[2]
            shed += [coming[at][0] for at in one[3]]
        return Receipt(stored, known, tuple(sorted(shed)), displaced)

    def subscribe(self, topic: str, group: str) -> RedisSubscription:
        checked_name(topic, "topic")
        checked_name(group, "group")
        with self._clearly():
            for stream in _streams(topic):
                self._make_group(stream, group)
        return RedisSubscription(self, topic, group)

    def dead(self, topic: str, group: str) -> list[DeadLetter]:
        with self._clearly():
            entries = self._client.xrange(f"{_place(topic)}:dead:{group}")
        return [_dead_letter(fields) for _, fields in entries]

    def counts(self, topic: str) -> Counts:
        with self._clearly():
            pipeline = self._client.pipeline(transaction=True)
            for stream in _streams(topic):
                pipeline.xlen(stream)
            pipeline.hgetall(f"{_place(topic)}:counts")
            *lengths, lost = pipeline.execute()
        named = {name: int(lost.get(name.encode(), 0)) for name in ("shed", "expired", "forgotten")}
        return Counts(sum(lengths), **named)

    def close(self) -> None:
        self._client.close()

    def receive(self, topic: str, group: str, reader: str, most: int, wait_seconds: float) -> list[Delivery]:
        """Takes records for one reader of a group."""
        end, streams = time.monotonic() + wait_seconds, _streams(topic)
        while True:
            left = end - time.monotonic()
            with self._clearly():
                # Before looking, so that what comes after the look ends the wait.
                lasts = self._lasts(streams) if left > 0 else {}
                taken = self._abandoned(topic, group, reader, most)
                for stream in streams:
                    if len(taken) < most:
                        taken += self._new(topic, group, reader, stream, most - len(taken))
                if taken or left <= 0:
                    return taken
                block = min(left, _LONGEST_BLOCK_SECONDS, self._limits.lease_seconds)
                self._client.xread(lasts, count=1, block=max(int(block * 1000), 1))

    def ack(self, topic: str, group: str, deliveries: Iterable[Delivery]) -> int:
        """Says that these are done for a group."""
        with self._clearly():
            pipeline = self._client.pipeline(transaction=True)
            for stream, entries in _by_stream(topic, deliveries).items():
                pipeline.xack(stream, group, *entries)
            return sum(pipeline.execute())

    def _check_version(self) -> None:
        version = str(self._client.info("server")["redis_version"])
        if int(version.partition(".")[0]) < 7:
            raise BusError(f"Redis at {self._address} has version {version}; the bus needs 7 or newer.")

    def _make_group(self, stream: str, group: str) -> None:
        import redis

        try:
            self._client.xgroup_create(stream, group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):  # it is there already
                raise

    def _lasts(self, streams: Sequence[str]) -> dict[str, bytes]:
        pipeline = self._client.pipeline(transaction=False)
        for stream in streams:
            pipeline.xinfo_stream(stream)
        answers = zip(streams, pipeline.execute(), strict=True)
        return {stream: one["last-generated-id"] for stream, one in answers}

    def _new(self, topic: str, group: str, reader: str, stream: str, most: int) -> list[Delivery]:
        found = self._client.xreadgroup(group, reader, {stream: ">"}, count=most)
        new = [(entry, fields, 1) for entry, fields in _entries(found)]
        return self._opened(topic, group, stream, new)

    def _abandoned(self, topic: str, group: str, reader: str, most: int) -> list[Delivery]:
        idle = int(self._limits.lease_seconds * 1000)
        taken = list[Delivery]()
        for stream in _streams(topic):
            if len(taken) >= most:
                break
            late = self._client.xpending_range(stream, group, "-", "+", most - len(taken), idle=idle)
            attempts = {one["message_id"]: int(one["times_delivered"]) for one in late}
            if not attempts:
                continue
            # Of two who claim the same, one gets it: claiming sets its idle time to zero.
            claimed = self._client.xclaim(stream, group, reader, idle, list(attempts))
            known = [(entry, fields, attempts[entry] + 1) for entry, fields in claimed]
            taken += self._opened(topic, group, stream, known)
        return taken

    def _opened(
        self, topic: str, group: str, stream: str, entries: list[tuple[bytes, dict[bytes, bytes], int]]
    ) -> list[Delivery]:
        """What is given to the reader; the rest is dead or expired, and done by that."""
        taken, now = list[Delivery](), self._clock()
        for entry, fields, attempt in entries:
            place = f"{stream} {entry.decode()}"
            if float(fields[b"u"]) <= now:
                self._client.hincrby(f"{_place(topic)}:counts", "expired", 1)
            elif attempt > self._limits.max_deliveries:
                why = f"nobody acknowledged it in {attempt - 1} deliveries"
                self._bury(topic, group, fields[b"r"], attempt - 1, why)
            else:
                try:
                    taken.append(Delivery(parsed(messages.EventEnvelope, fields[b"r"]), attempt, place))
                    continue
                except ContractError:
                    self._bury(topic, group, fields[b"r"], attempt - 1, "its bytes are damaged")
            self._client.xack(stream, group, entry)
        return taken

    def _bury(self, topic: str, group: str, raw: bytes, deliveries: int, reason: str) -> None:
        place = f"{_place(topic)}:dead:{group}"
        now = repr(self._clock())
        self._client.xadd(place, {"r": raw, "d": str(deliveries), "t": now, "w": reason})
        gone = self._client.xtrim(place, maxlen=self._limits.max_dead, approximate=False)
        if gone:
            self._client.hincrby(f"{_place(topic)}:counts", "forgotten", gone)

    @contextmanager
    def _clearly(self) -> Iterator[None]:
        import redis

        try:
            yield
        except redis.AuthenticationError as error:
            raise BusError(
                f"Redis at {self._address} refuses: {error}. Put its password into {PASSWORD}."
            ) from error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            said = str(error).rstrip(".")
            raise BusError(
                f"No Redis answers at {self._address}: {said}. Start one there, or name another bus."
            ) from error
        except redis.RedisError as error:
            said = str(error).rstrip(".")
            raise BusError(f"Redis at {self._address} refuses: {said}.") from error


class RedisSubscription:
    """One reader of a group of a `RedisBus`."""

    def __init__(self, bus: RedisBus, topic: str, group: str) -> None:
        self._bus, self._topic, self._group = bus, topic, group
        self._reader = secrets.token_hex(8)

    def receive(self, most: int, wait_seconds: float = 0.0) -> list[Delivery]:
        return self._bus.receive(self._topic, self._group, self._reader, most, wait_seconds)

    def ack(self, deliveries: Iterable[Delivery]) -> int:
        return self._bus.ack(self._topic, self._group, deliveries)


def missing(address: str) -> str:
    """What people are told where the library is not installed."""
    return f"The bus {address} needs redis, which is not installed: pip install 'esper-torch[redis]'."


def _client(address: str) -> Any:
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ModuleNotFoundError as error:
        raise ConfigError(missing(address)) from error
    try:
        return redis.Redis.from_url(
            address,
            password=os.environ.get(PASSWORD),
            protocol=2,  # in which entries are lists
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),  # whoever publishes without a key must not do it twice
        )
    except ValueError as error:
        raise ConfigError(f"{address!r} is no address of a Redis server: {error}.") from error


def _place(topic: str) -> str:
    """Of everything of a topic; the braces keep it on one node of a cluster."""
    return f"{_PREFIX}:{{{topic}}}"


def _streams(topic: str) -> list[str]:
    """One for each priority, the highest first."""
    return [f"{_place(topic)}:{priority:d}" for priority in PRIORITIES]


def _entries(found: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """What XREADGROUP has found in one stream."""
    return [entry for _, entries in found or () for entry in entries]


def _by_stream(topic: str, deliveries: Iterable[Delivery]) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for delivery in deliveries:
        stream, _, entry = delivery.place.partition(" ")
        places.setdefault(stream, []).append(entry)
    return {stream: places[stream] for stream in _streams(topic) if stream in places}


def _dead_letter(fields: Mapping[bytes, bytes]) -> DeadLetter:
    try:
        envelope = parsed(messages.EventEnvelope, fields[b"r"])
    except ContractError:
        envelope = messages.EventEnvelope()
    return DeadLetter(envelope, int(fields[b"d"]), float(fields[b"t"]), fields[b"w"].decode())
