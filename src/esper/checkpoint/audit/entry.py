"""One entry of the audit: what happened, when and by whom, sealed, and linked to the entry before."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from esper.checkpoint.crypto import KeyRing
from esper.leyline import decode, encode
from esper.nissa import Event, kind_of

PURPOSE = "esper audit entry"
NOTHING = "0" * 64
"""What the first entry names in place of one before it."""
_AS_JSON = json.JSONEncoder(allow_nan=False).encode
_LINK = re.compile(rb"([0-9a-f]{16}) (\d{1,15}) ([0-9a-f]{64})\n")


@dataclass(frozen=True)
class Link:
    """The place of an entry, as its sealed bytes say it.

    Attributes:
        run: id of the run.
        number: from 1 on.
        before: digest of the entry before; `NOTHING` for the first.
    """

    run: str
    number: int
    before: str

    @classmethod
    def of(cls, sealed: bytes) -> Link | None:
        """What an entry says of its place, believed or not; None if it is none."""
        match = _LINK.match(sealed)
        return None if match is None else cls(match[1].decode(), int(match[2]), match[3].decode())


@dataclass(frozen=True)
class Entry:
    """What the audit tells of one event.

    Attributes:
        at_seconds: when, since 1970, by the clock of whoever wrote it.
        kind: which event: the name of its class, as `rolled_back`.
        severity: how much it matters: `detail`, `news` or `problem`.
        by: the part that acts or decides; `user` is a person.
        who: the account and the host of the process.
        epoch: number of epochs that had ended; None where that does not matter.
        text: what happened, in words.
        facts: every field of the event.
    """

    at_seconds: float
    kind: str
    severity: str
    by: str
    who: str
    epoch: int | None
    text: str
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, event: Event, at_seconds: float) -> Entry:
        facts = encode(event)
        kind, severity = kind_of(type(event)), event.severity.name.lower()
        return cls(at_seconds, kind, severity, event.by, account(), facts.get("epoch"), event.text, facts)

    def sealed(self, link: Link, ring: KeyRing) -> bytes:
        """Its bytes at one place, with the seal of the primary key."""
        place = f"{link.run} {link.number} {link.before}\n"
        return ring.seal(PURPOSE, (place + _AS_JSON(vars(self))).encode())

    @classmethod
    def read(cls, sealed: bytes) -> Entry:
        """The entry in sealed bytes, which are not checked here.

        Raises:
            ContractError, ValueError: they are none.
        """
        body = sealed[:-1].rpartition(b"\n")[0].partition(b"\n")[2]
        return decode(cls, json.loads(body))


@cache
def account() -> str:
    """Who this process belongs to, as the system knows it: `name@host`."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a number without a name
        name = f"uid-{os.getuid()}"
    return f"{name}@{socket.gethostname()}"
