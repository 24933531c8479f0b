"""Any order of sending, replaying, restarting and waiting: what is accepted was sent, fresh, and is new."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from esper.errors import ContractError
from esper.leyline import ManualClock
from esper.leyline.wire import BelievedKeys, Opener, Signer

KEYS = BelievedKeys("k", {"k": b"k" * 32})
SENDERS = ("a", "b", "c")


class Conversation(RuleBasedStateMachine):
    """Three senders, a receiver that remembers two, and somebody who copies everything."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.boots = ManualClock(1e9), 0
        self.seen: list[tuple[bytes, int, float]] = []
        self.accepted: list[bytes] = []
        self.restart()

    @rule()
    def restart(self) -> None:
        self.boots += 1
        boot = self.boots.to_bytes(16, "big")
        self.opener = Opener(KEYS, boot, "you", self.clock, max_senders=2)
        self.signers = {name: Signer(KEYS, boot, name, "you", self.clock) for name in SENDERS}

    @rule(name=st.sampled_from(SENDERS), is_kept=st.booleans())
    def send(self, name: str, is_kept: bool) -> None:
        raw = self.signers[name].seal("Note", name.encode())
        self.seen.append((raw, self.boots, self.clock()))
        if not is_kept:
            self.deliver(raw)

    @rule(number=st.integers(0, 10**6))
    def replay(self, number: int) -> None:
        if self.seen:
            raw, boot, at = self.seen[number % len(self.seen)]
            if self.deliver(raw):
                assert boot == self.boots
                assert self.clock() - at <= 60.0

    @rule(seconds=st.sampled_from([1.0, 59.0, 61.0, 301.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def nothing_is_accepted_twice(self) -> None:
        assert len(set(self.accepted)) == len(self.accepted)

    def deliver(self, raw: bytes) -> bool:
        try:
            self.opener.open(raw)
        except ContractError:
            return False
        self.accepted.append(raw)
        return True


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
