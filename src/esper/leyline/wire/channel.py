"""A channel on which only signed messages are sent, and only believed ones are received."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator

from google.protobuf.message import Message

from esper.errors import ContractError
from esper.leyline.wire.carriers import Carrier
from esper.leyline.wire.envelope import MAX_SENDERS, Letter, Opener, Signer
from esper.leyline.wire.keys import BelievedKeys


class SignedChannel:
    """Sends and receives under one name in one conversation. Belongs to one thread.

    Args:
        carrier: takes envelopes to others.
        keys: of the conversation.
        boot: of whoever keeps the conversation; the same for all who take part.
        name: under which this end is known, and no other under this boot.
        clock: seconds since 1970.
        refused: is told of every envelope that is not believed.
    """

    def __init__(
        self,
        carrier: Carrier,
        keys: BelievedKeys,
        boot: bytes,
        name: str,
        *,
        clock: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = os.urandom,
        refused: Callable[[ContractError], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.refusals: Counter[str] = Counter()
        """How many envelopes were not believed, by the name of the error."""
        self._carrier, self._keys, self._boot = carrier, keys, boot
        self._clock, self._random_bytes, self._refused = clock, random_bytes, refused
        self._opener = Opener(keys, boot, name, clock)
        self._signers: dict[str, Signer] = {}

    def rotate(self, keys: BelievedKeys) -> None:
        """Signs with another primary key from now on, and believes the keys that are given."""
        self._keys = keys
        self._opener.rotate(keys)
        for signer in self._signers.values():
            signer.rotate(keys)

    def send(self, receiver: str, message: Message) -> None:
        """Signs a message and sends it."""
        signer = self._signers.get(receiver)
        if signer is None:
            if len(self._signers) >= MAX_SENDERS:
                self._signers.pop(next(iter(self._signers)))  # who wrote once, long ago
            signer = Signer(self._keys, self._boot, self.name, receiver, self._clock, self._random_bytes)
            self._signers[receiver] = signer
        envelope = signer.seal(message.DESCRIPTOR.name, message.SerializeToString())
        self._carrier.put(receiver, envelope)

    def receive(self) -> Iterator[Letter]:
        """What has arrived and can be believed; everything else is counted and told, and goes no further."""
        for raw in self._carrier.take(self.name):
            try:
                letter = self._opener.open(raw)
            except ContractError as error:
                self.refusals[type(error).__name__] += 1
                self._refused(error)
            else:
                yield letter
