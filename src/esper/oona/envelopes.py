"""Records of the bus: envelopes around messages, and what one must look like to be taken."""

from __future__ import annotations

import math
import re

from google.protobuf.message import Message

from esper.errors import ContractError
from esper.leyline.wire import VERSION, messages

PRIORITIES = (
    messages.PRIORITY_CRITICAL,
    messages.PRIORITY_HIGH,
    messages.PRIORITY_NORMAL,
    messages.PRIORITY_LOW,
)
"""The highest first, as they are read."""
MAX_BYTES = 1 << 20
MAX_KEY_BYTES = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_MAX_NAME = 128


def envelope_of(
    message: Message,
    *,
    at_seconds: float,
    key: str = "",
    topic: str = "",
    priority: messages.Priority = messages.PRIORITY_NORMAL,
    lives_seconds: float = 0.0,
) -> messages.EventEnvelope:
    """A record around a message.

    Args:
        message: of Leyline.
        at_seconds: now, seconds since 1970.
        key: the same whenever the same thing is said again; empty: nothing is recognized.
        topic: the name of the message's kind unless given.
        priority: what is read first, and shed last.
        lives_seconds: after which it is not delivered any more; 0: never.
    """
    kind = message.DESCRIPTOR.name
    return messages.EventEnvelope(
        version=VERSION,
        topic=topic or kind,
        type=kind,
        idempotency_key=key,
        priority=priority,
        at_seconds=at_seconds,
        lives_seconds=lives_seconds,
        payload=message.SerializeToString(),
    )


def checked_name(name: str, what: str) -> str:
    """A name of a topic or a group.

    Raises:
        ContractError: it cannot be one.
    """
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise ContractError(
            f"{name!r} cannot name a {what}: letters, digits, - and _ can, with dots between, "
            f"at most {_MAX_NAME} characters."
        )
    return name


def raw_of(envelope: messages.EventEnvelope) -> bytes:
    """The bytes of a record that may go on the bus.

    Raises:
        ContractError: it may not; the message says why.
    """
    checked_name(envelope.topic, "topic")
    if envelope.version != VERSION:
        raise ContractError(f"A record has version {envelope.version}; this bus takes version {VERSION}.")
    if envelope.priority not in PRIORITIES:
        raise ContractError(f"A record for {envelope.topic} has no priority: low, normal, high or critical.")
    if len(envelope.idempotency_key.encode()) > MAX_KEY_BYTES:
        raise ContractError(f"A key has more than {MAX_KEY_BYTES} bytes: {envelope.idempotency_key[:40]}...")
    times = (envelope.at_seconds, envelope.lives_seconds)
    if not all(math.isfinite(seconds) and seconds >= 0 for seconds in times):
        raise ContractError(f"A record for {envelope.topic} is of {times[0]} s and lives {times[1]} s.")
    raw = envelope.SerializeToString()
    if len(raw) > MAX_BYTES:
        raise ContractError(
            f"A record for {envelope.topic} has {len(raw)} bytes, and {MAX_BYTES} fit: leave arrays in files."
        )
    return raw


def until_of(envelope: messages.EventEnvelope) -> float:
    """When it expires, seconds since 1970; infinity: never."""
    return envelope.at_seconds + envelope.lives_seconds if envelope.lives_seconds else math.inf
