"""One suite for every carrier: what is accepted was sent, and comes once and in order."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.errors import ContractError
from esper.leyline import ManualClock
from esper.leyline.wire import BelievedKeys, FolderCarrier, SignedChannel, messages
from esper.leyline.wire.carriers import Carrier, MemoryCarrier

OLD = BelievedKeys("k-1", {"k-1": b"1" * 32})
BOTH = BelievedKeys("k-2", {"k-1": b"1" * 32, "k-2": b"2" * 32})
NEW = BelievedKeys("k-2", {"k-2": b"2" * 32})


class Wire:
    """A carrier whose boxes an attacker holds in his hands."""

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier

    def seized(self) -> list[bytes]:
        """Takes away what is on its way to `you`."""
        return list(self.carrier.take("you"))

    def plant(self, *raws: bytes) -> None:
        """Puts bytes before `you`."""
        for raw in raws:
            self.carrier.put("you", raw)


def folder_carrier(folder: Path) -> FolderCarrier:
    carrier = FolderCarrier(folder)
    carrier.open_box("you")
    return carrier


@pytest.fixture(params=["memory", "folder"])
def wire(request: pytest.FixtureRequest, tmp_path: Path) -> Wire:
    return Wire(MemoryCarrier() if request.param == "memory" else folder_carrier(tmp_path))


class Ends:
    def __init__(self, wire: Wire, keys: BelievedKeys = OLD, boot: bytes = b"boot") -> None:
        self.clock = ManualClock(1e9)
        self.told: list[ContractError] = []
        self.me = SignedChannel(wire.carrier, keys, boot, "me", clock=self.clock)
        self.you = SignedChannel(wire.carrier, keys, boot, "you", clock=self.clock, refused=self.told.append)

    def say(self, *numbers: int) -> None:
        for number in numbers:
            self.me.send("you", messages.ConsensusProposal(version=1, round=number))

    def heard(self) -> list[int]:
        return [messages.ConsensusProposal.FromString(letter.payload).round for letter in self.you.receive()]


def test_what_is_sent_arrives_in_order_and_once(wire: Wire) -> None:
    ends = Ends(wire)
    ends.say(1, 2, 3)
    assert ends.heard() == [1, 2, 3]
    assert ends.heard() == []
    assert not ends.told


def test_a_forger_is_heard_by_nobody(wire: Wire) -> None:
    ends, chance = Ends(wire), random.Random(0)
    ends.say(1)
    (honest,) = wire.seized()
    wire.plant(honest)
    for _ in range(200):
        raw = bytearray(honest)
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(len(raw))] ^= chance.randint(1, 255)
        wire.plant(bytes(raw))
    thief = SignedChannel(
        wire.carrier, BelievedKeys("k-1", {"k-1": b"?" * 32}), b"boot", "me", clock=ends.clock
    )
    thief.send("you", messages.ConsensusProposal(version=1, round=13))
    assert ends.heard() == [1]
    assert len(ends.told) == sum(ends.you.refusals.values()) == 201


def test_a_replayer_gets_nothing_accepted_twice(wire: Wire) -> None:
    ends = Ends(wire)
    ends.say(1, 2, 3)
    seized = wire.seized()
    wire.plant(*seized + seized + seized[::-1])
    assert ends.heard() == [1, 2, 3]
    ends.say(4)
    assert ends.heard() == [4]
    assert ends.you.refusals == {"ReplayError": 6}


def test_a_reorderer_may_lose_messages_and_never_turns_two_around(wire: Wire) -> None:
    ends, chance = Ends(wire), random.Random(1)
    ends.say(*range(50))
    seized = wire.seized()
    chance.shuffle(seized)
    wire.plant(*seized)
    heard = ends.heard()
    assert heard == sorted(set(heard))
    assert heard[-1] == 49


def test_what_is_kept_back_too_long_is_refused(wire: Wire) -> None:
    ends = Ends(wire)
    ends.say(1)
    ends.clock.advance(61.0)
    ends.say(2)
    assert ends.heard() == [2]
    assert ends.you.refusals == {"ReplayError": 1}


def test_a_slow_clock_is_not_believed(wire: Wire) -> None:
    ends = Ends(wire)
    slow = SignedChannel(wire.carrier, OLD, b"boot", "slow", clock=ManualClock(1e9 - 90.0))
    slow.send("you", messages.ConsensusProposal(version=1, round=1))
    assert ends.heard() == []
    assert ends.you.refusals == {"ReplayError": 1}


def test_nothing_that_was_said_before_a_restart_is_believed_after_it(wire: Wire) -> None:
    before = Ends(wire)
    before.say(1, 2)
    seized = wire.seized()
    after = Ends(wire, boot=b"next boot")
    wire.plant(*seized)
    assert after.heard() == []
    assert after.you.refusals == {"SignatureError": 2}


def test_what_one_end_has_said_cannot_be_turned_back_at_it(wire: Wire) -> None:
    ends = Ends(wire)
    ends.you.send("you", messages.ConsensusProposal(version=1, round=1))
    ends.me.send("somebody", messages.ConsensusProposal(version=1, round=2))
    assert ends.heard() == [1]  # to oneself is a conversation of its own
    echo = Ends(wire)
    wire.plant(*list(wire.carrier.take("somebody")))
    assert echo.heard() == []


def test_keys_are_rotated_with_an_overlap_and_no_message_is_lost_or_repeated(wire: Wire) -> None:
    ends = Ends(wire)
    ends.say(1)
    ends.you.rotate(BOTH)  # believes both
    ends.say(2)
    ends.me.rotate(BOTH)  # signs with the new one
    ends.say(3)
    seized = wire.seized()
    wire.plant(*seized)
    assert ends.heard() == [1, 2, 3]
    ends.you.rotate(NEW)  # the old one is believed no more
    wire.plant(*seized)
    ends.say(4)
    assert ends.heard() == [4]
    assert ends.you.refusals == {"SignatureError": 2, "ReplayError": 1}


def hostile_files(box: Path) -> Iterator[Path]:
    """What somebody who may write into a folder puts into it."""
    names = (box / f"{number:08d}-{'0' * 16}" for number in range(1, 99))
    (link := next(names)).symlink_to("/etc/hostname")
    yield link
    os.mkfifo(pipe := next(names))
    yield pipe
    (large := next(names)).touch()
    os.truncate(large, 1 << 40)
    yield large
    (empty := next(names)).touch()
    yield empty
    (folder := next(names)).mkdir()
    yield folder


def test_files_that_are_no_messages_hold_nobody_up(tmp_path: Path) -> None:
    ends = Ends(Wire(folder_carrier(tmp_path)))
    files = list(hostile_files(tmp_path / "you"))
    (tmp_path / "you" / "readme.txt").write_text("not ours")
    ends.say(1)
    assert ends.heard() == [1]
    assert [path.name for path in files if os.path.lexists(path)] == [files[-1].name]  # a folder lies there
    assert (tmp_path / "you" / "readme.txt").exists()


def test_what_is_sent_to_nobody_is_lost_and_what_nobody_took_can_be_taken_back(tmp_path: Path) -> None:
    carrier = FolderCarrier(tmp_path)
    carrier.put("nobody", b"raw")
    assert carrier.last is None
    carrier.open_box("you")
    carrier.put("you", b"raw")
    carrier.withdraw()
    assert list(carrier.take("you")) == []
