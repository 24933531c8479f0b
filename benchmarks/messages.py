"""Signed messages: how many a core makes and opens, how small they are, and what an attacker gets accepted.

    python benchmarks/messages.py [--messages 200000] [--attacks 1000000]

Printed: microseconds for the state of a run with one seed (built, written, read), its size, and the same
message sealed in an envelope and opened again, beside JSON with itsdangerous and PyJWT (HMAC-SHA256 as well),
which check a signature and its age and remember no message, and beside the bare MAC of the library, which is
the floor; and a look into the folder where a run's messages come, once a second. Every figure is of
processor time, the median of 20 rounds in turns, so that what else the machine does hits all alike, and comes
with the fastest round. Then envelopes are forged and replayed, across restarts too; what is accepted is
counted, and honest ones between them show that anything is.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import itsdangerous
import jwt
from google.protobuf.json_format import MessageToDict

from esper.errors import ContractError
from esper.leyline import ManualClock
from esper.leyline.wire import BelievedKeys, FolderCarrier, Opener, Signer, messages, parsed

KEYS = BelievedKeys("k-0123456789ab", {"k-0123456789ab": bytes(range(32))})
BOOT = b"0123456789abcdef"
ROUNDS = 20
MESSAGE_LIMIT, BYTES_LIMIT = 5.0, 300


def packet(number: int) -> messages.SystemStatePacket:
    """The state of a run that has one seed on its way."""
    return messages.SystemStatePacket(
        version=1,
        run="0123456789abcdef",
        at_seconds=1.8e9 + number,
        epoch=12,
        step=number,
        phase=messages.PRUNING_PHASE_MEASURING,
        breaker=messages.BREAKER_STATE_CLOSED,
        metrics={"accuracy": 0.91, "loss": 0.31},
        seeds=[
            messages.SeedState(
                slot="backbone.layer3.1",
                stage=messages.SEED_STAGE_PROBATIONARY,
                blueprint="bottleneck",
                generation=1,
                alpha=1.0,
                steps_in_stage=400,
                epochs_in_stage=1,
                gate=messages.SEED_GATE_G3_INTERFACE,
                evidence="output moves by 0.012 of its size, at most 0.1",
            )
        ],
        units=4096,
        masked_units=512,
        removed_fraction=0.41,
        cost="flops",
        parameters=25_557_032,
    )


class Contest:
    """Times several pieces of work in turns, and remembers processor seconds per call of each round."""

    def __init__(self, count: int) -> None:
        self._count = max(count // ROUNDS, 1)
        self._work: dict[str, Callable[[int], None]] = {}
        self.seconds: dict[str, list[float]] = {}

    def enter(self, name: str, work: Callable[[int], None]) -> None:
        """Work that is told how often it is to be done."""
        self._work[name], self.seconds[name] = work, []

    def run(self) -> None:
        for _ in range(ROUNDS):
            for name, work in self._work.items():
                begun = time.process_time()
                work(self._count)
                self.seconds[name].append((time.process_time() - begun) / self._count)

    def micro(self, name: str) -> float:
        return median(self.seconds[name]) * 1e6

    def show(self, name: str, limit: float | None = None) -> None:
        middle, best = self.micro(name), min(self.seconds[name]) * 1e6
        goal = "" if limit is None else f"   target {limit:.1f}: {'met' if middle <= limit else 'MISSED'}"
        print(f"{name:44} {middle:7.2f} us {1e6 / middle:10,.0f} /s   fastest round {best:6.2f} us{goal}")


def costs(count: int, folder: Path) -> None:
    raw = packet(1).SerializeToString()
    document = MessageToDict(packet(1))
    signer, opener = Signer(KEYS, BOOT, "ask", "trainer"), Opener(KEYS, BOOT, "trainer")
    secret = bytes(range(32))
    stamp = itsdangerous.TimestampSigner(secret, digest_method=hashlib.sha256)
    sealed = signer.seal("SystemStatePacket", raw)
    opener.open(sealed)
    envelopes: list[bytes] = []

    def seal(times: int) -> None:
        envelopes[:] = [signer.seal("SystemStatePacket", raw) for _ in range(times)]

    def open_(times: int) -> None:
        for envelope in envelopes[:times]:
            opener.open(envelope)

    def repeated(work: Callable[[], object]) -> Callable[[int], None]:
        def run(times: int) -> None:
            for _ in range(times):
                work()

        return run

    signed, token = stamp.sign(raw), jwt.encode(document, secret, "HS256")
    contest = Contest(count)
    whole = packet(1)
    contest.enter("packet: write", repeated(whole.SerializeToString))
    contest.enter("packet: build from values, write", repeated(lambda: packet(1).SerializeToString()))
    contest.enter("packet: read", repeated(lambda: parsed(messages.SystemStatePacket, raw)))
    contest.enter("packet in JSON (a dict to text)", repeated(lambda: json.dumps(document).encode()))
    contest.enter("envelope: seal", seal)
    contest.enter("envelope: open", open_)
    carrier = FolderCarrier(folder)
    carrier.open_box("trainer")
    contest.enter("folder: a look into an empty one", repeated(lambda: [*carrier.take("trainer")]))
    contest.enter("floor: hmac.digest of its bytes", repeated(lambda: hmac.digest(secret, sealed, "sha256")))
    contest.enter("itsdangerous: sign", repeated(lambda: stamp.sign(raw)))
    contest.enter("itsdangerous: unsign, max_age", repeated(lambda: stamp.unsign(signed, max_age=3600)))
    contest.enter("PyJWT: encode", repeated(lambda: jwt.encode(document, secret, "HS256")))
    contest.enter("PyJWT: decode", repeated(lambda: jwt.decode(token, secret, ["HS256"])))
    contest.run()
    verdict = "met" if len(raw) <= BYTES_LIMIT else "MISSED"
    print(f"{'packet of a run with one seed':44} {len(raw):7} bytes   target {BYTES_LIMIT}: {verdict}")
    others = f"signed by itsdangerous {len(signed)}, by PyJWT {len(token)}"
    print(f"{'sealed in an envelope':44} {len(sealed):7} bytes; {others}")
    for name in contest.seconds:
        contest.show(name, MESSAGE_LIMIT if name.startswith(("packet: ", "envelope: ")) else None)


class Victim:
    """A receiver that restarts now and then, and what its attacker has seen."""

    def __init__(self, chance: random.Random) -> None:
        self.clock, self.chance = ManualClock(1.8e9), chance
        self.boots = 0
        self.seen: list[bytes] = []
        self.restart()

    def restart(self) -> None:
        self.boots += 1
        boot = self.boots.to_bytes(16, "big")
        self.opener = Opener(KEYS, boot, "trainer", self.clock)
        self.honest = Signer(KEYS, boot, f"ask-{self.boots}", "trainer", self.clock)

    def honest_letter(self) -> bool:
        raw = self.honest.seal("SystemStatePacket", packet(self.boots).SerializeToString())
        self.seen.append(raw)
        del self.seen[:-1000]
        return self.accepts(raw)

    def accepts(self, raw: bytes) -> bool:
        try:
            self.opener.open(raw)
        except ContractError:
            return False
        return True

    def forged(self) -> bytes:
        """Something that nobody has signed: bits turned, cut, parts of two, or signed with another key."""
        chance, raw = self.chance, bytearray(self.chance.choice(self.seen))
        kind = chance.randrange(4)
        if kind == 0:
            for _ in range(chance.randint(1, 3)):
                raw[chance.randrange(len(raw))] ^= chance.randint(1, 255)
        elif kind == 1:
            del raw[chance.randrange(len(raw)) :]
        elif kind == 2:
            other, at = chance.choice(self.seen), chance.randrange(1, len(raw))
            raw[at:] = other[at:]
        else:
            raw[-32:] = chance.randbytes(32)
        return bytes(raw)


def attacks(count: int) -> None:
    chance = random.Random(0)
    victim, accepted, honest = Victim(chance), {"forged": 0, "replayed": 0}, [0, 0]
    tried = dict.fromkeys(accepted, 0)
    begun = time.perf_counter()
    for number in range(count):
        if number % 1000 == 0:  # a restart, a second or two minutes later
            victim.clock.advance(chance.choice((1.0, 120.0)))
            victim.restart()
        if number % 10 == 0:
            honest[0] += victim.honest_letter()
            honest[1] += 1
        kind = "forged" if number % 2 else "replayed"
        raw = victim.forged() if kind == "forged" else chance.choice(victim.seen)
        # Parts of two may add up to one of them; that is a replay then, and no less refused.
        tried[kind] += 1
        accepted[kind] += victim.accepts(raw)
    seconds = time.perf_counter() - begun
    for kind, times in tried.items():
        print(f"{kind:10} accepted {accepted[kind]} of {times:,}")
    print(f"honest     accepted {honest[0]:,} of {honest[1]:,}, {victim.boots:,} boots, {seconds:.0f} s")
    if any(accepted.values()) or honest[0] != honest[1]:
        raise SystemExit("MISSED: something was accepted that must not be, or refused that must be accepted.")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--messages", type=int, default=200_000)
    arguments.add_argument("--attacks", type=int, default=1_000_000)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        costs(options.messages, Path(name))
    attacks(options.attacks)


if __name__ == "__main__":
    main()
