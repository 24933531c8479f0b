"""Damage to any file that Esper believes: is it noticed, or does somebody get other bytes than were saved?"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from esper.checkpoint import (
    CheckpointCatalog,
    CheckpointStore,
    FileContent,
    KeyRing,
    bundled,
    open_key_ring,
    replace_key_ring,
    write_bundle,
)
from esper.checkpoint.audit import AuditReader
from esper.errors import EsperError
from esper.nissa import acts
from tests.checkpoint.runs import content, holds
from tests.faults.regimes.regime import Regime

_PAGE = 512
_WHOLE_SEARCH = 64
"""In one of so many cases it is also asked whether the checkpoint before is found."""


@dataclass(frozen=True)
class Victim:
    """A file to be damaged.

    Attributes:
        path: of it.
        others: bytes that could be put in its place: of other files, older checkpoints, other runs.
        is_silent: whether what was saved cannot be had any more and nobody says so.
        share: how often it is chosen, beside others.
    """

    path: Path
    others: tuple[bytes, ...]
    is_silent: Callable[[], bool]
    share: int
    falls_back: bool = False
    """Whether a good checkpoint must be found whatever becomes of it."""


class Damaged:
    """A run with checkpoints, masks, twins, an audit and keys, another run, and a folder of a network."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.run, self.out = folder / "run", folder / "out"
        self.ring = open_key_ring(self.run, create=True, environment={})
        _fill(folder / "other", self.ring, (1, 2))
        _fill(self.run, self.ring, (1,))
        added = self.ring.add()
        self.ring = added.promote(added.keys[-1].id)
        replace_key_ring(self.run / "keys" / "ring.json", self.ring)
        _fill(self.run, self.ring, (2,))
        write_bundle(self.out, {"network.pt2": b"program" * 90, "form.json": b"{}\n"})
        self.saved = self._read(self.ring) or {}
        """What the newest checkpoint holds, and all that lies beside it."""
        self._told = self._entries(self.ring)
        self._bundled = {path.name: path.read_bytes() for path in self.out.iterdir()}
        self.victims = tuple(self._victims(folder / "other"))
        self._raw = {victim.path: victim.path.read_bytes() for victim in self.victims}
        self._shares = [victim.share for victim in self.victims]

    def hurt(self, number: int) -> str:
        """One case: damages a file, looks, and puts it right again."""
        rng = random.Random(f"damage {number}")
        (victim,) = rng.choices(self.victims, self._shares)
        raw = self._raw[victim.path]
        damage = rng.choice(list(DAMAGES))
        damaged = DAMAGES[damage](raw, victim.others, rng)
        if damaged == raw:  # a page of zeros was one before
            damaged = _flipped(raw, (), rng)
        victim.path.write_bytes(damaged)
        where = f"{victim.path.name} ({damage}, case {number})"
        try:
            is_silent = victim.is_silent()
            is_asked = victim.falls_back and number % _WHOLE_SEARCH == 0
            found = CheckpointCatalog(self.run, self.ring).latest() if is_asked else None
        except Exception as error:  # noqa: BLE001  (not foreseen: that is what is looked for)
            return f"{type(error).__name__}: {error}: {where}"
        finally:
            victim.path.write_bytes(raw)
        if is_silent:
            return f"silent: {where}"
        if is_asked and (found is None or not holds(found, found.step)):
            return f"no good checkpoint was found: {where}"
        return ""

    def _victims(self, other: Path) -> Iterator[Victim]:
        newest, before = sorted((self.run / "checkpoints").glob("step-*"), reverse=True)
        for folder, older in ((newest, before), (newest / "mask-01", before / "mask-01")):
            files = [path for path in sorted(folder.iterdir()) if path.is_file()]
            for path in files:
                beside = tuple(one.read_bytes() for one in files if one != path)
                foreign = (other / path.relative_to(self.run)).read_bytes()
                older_bytes = (older / path.name).read_bytes()
                others = (*beside, foreign, older_bytes)
                yield Victim(path, others, self._is_silent, 10, falls_back=True)
        (twin,) = (path for path in (self.run / "twin").iterdir() if b"2" in path.read_bytes())
        yield Victim(twin, (b"program 1", b""), self._is_silent, 10)
        identity = self.run / "checkpoints" / "RUN.json"
        foreign = (other / "checkpoints" / "RUN.json").read_bytes()
        yield Victim(identity, (foreign, (newest / "MANIFEST.json").read_bytes()), self._is_silent, 10)
        ring = self.run / "keys" / "ring.json"
        yield Victim(ring, (foreign, b"{}"), self._is_ring_silent, 4)
        audit = self.run / "audit.sqlite"
        yield Victim(audit, ((other / "audit.sqlite").read_bytes(), b""), self._is_audit_silent, 2)
        for path in sorted(self.out.iterdir()):
            beside = tuple(one.read_bytes() for one in self.out.iterdir() if one != path)
            yield Victim(path, beside, self._is_bundle_silent, 10)

    def _is_silent(self) -> bool:
        try:
            return self._read(self.ring) not in (None, self.saved)
        except EsperError:
            return False

    def _is_ring_silent(self) -> bool:
        try:
            ring = open_key_ring(self.run, environment={})
            if ring == self.ring:
                return False
            catalog = CheckpointCatalog(self.run, ring)
            return len(catalog.list().checkpoints) == 2 and self._read(ring) is not None
        except EsperError:
            return False

    def _is_audit_silent(self) -> bool:
        try:
            return self._entries(self.ring) not in (None, self._told)
        except EsperError:
            return False

    def _is_bundle_silent(self) -> bool:
        try:
            for name in ("network.pt2", "form.json"):
                file = bundled(self.out, name)
                if file is None or file.problem():
                    return False
                if file.read_bytes() != self._bundled[name]:
                    return True
        except (EsperError, OSError):
            pass
        return False

    def _read(self, ring: KeyRing) -> Mapping[str, bytes] | None:
        """All that the newest checkpoint holds, as whoever resumes gets it; None: something is told of it."""
        catalog = CheckpointCatalog(self.run, ring)
        path = self.run / "checkpoints" / "step-000000002"
        if not catalog.verify(path).is_ok:
            return None
        ref = catalog.at(2)
        attached = catalog.attachments(ref)
        if attached.rejected or len(attached.found) != 1:
            return None
        commits = {"": ref, "mask-01/": attached.found[0]}
        found = {
            f"{where}{name}": file.read_bytes()
            for where, commit in commits.items()
            for name, file in commit.files.items()
        }
        return {**found, "twin": catalog.blob(ref, "twin").read_bytes()}

    def _entries(self, ring: KeyRing) -> list[str] | None:
        reader = AuditReader(CheckpointCatalog(self.run, ring), ring)
        return None if reader.report.findings else [stored.digest for stored in reader.entries()]


def _fill(run: Path, ring: KeyRing, steps: tuple[int, ...]) -> None:
    with CheckpointStore(run, keyring=ring, model="net") as store:
        for step in steps:
            store.audit.emit(acts.WentBack(step, step))
            twin = store.put_blob("twin", f"program {step}".encode() * 30)
            files = {**content(step), "importance.safetensors": f"important {step}".encode() * 20}
            ref = store.save(step, 0, files, blobs={"twin": twin})
            masks: dict[str, FileContent] = {
                "masks.bin": bytes([step] * 64),
                "originals.safetensors": {"w": torch.ones(step)},
            }
            store.commit_attachment(ref, "mask-01", masks)


def _flipped(raw: bytes, _: tuple[bytes, ...], rng: random.Random) -> bytes:
    changed = bytearray(raw)
    changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _burst(raw: bytes, _: tuple[bytes, ...], rng: random.Random) -> bytes:
    start = rng.randrange(len(raw))
    return raw[:start] + rng.randbytes(min(8, len(raw) - start)) + raw[start + 8 :]


def _zeros(raw: bytes, _: tuple[bytes, ...], rng: random.Random) -> bytes:
    start = rng.randrange(len(raw)) // _PAGE * _PAGE
    length = min(_PAGE * rng.randint(1, 8), len(raw) - start)
    return raw[:start] + bytes(length) + raw[start + length :]


def _digit(raw: bytes, others: tuple[bytes, ...], rng: random.Random) -> bytes:
    """Another digit under the old seal."""
    digits = [place for place, one in enumerate(raw) if 48 <= one <= 57]
    if not digits:
        return _flipped(raw, others, rng)
    place = rng.choice(digits)
    return raw[:place] + bytes([48 + (raw[place] - 47) % 10]) + raw[place + 1 :]


DAMAGES: dict[str, Callable[[bytes, tuple[bytes, ...], random.Random], bytes]] = {
    "a bit flipped": _flipped,
    "eight bytes changed": _burst,
    "pages of zeros": _zeros,
    "cut short": lambda raw, _, rng: raw[: rng.randrange(len(raw))],
    "longer": lambda raw, _, rng: raw + rng.randbytes(rng.randint(1, 64)),
    "another file in its place": lambda raw, others, rng: rng.choice(others),
    "another digit under the old seal": _digit,
    "halves swapped": lambda raw, _, rng: raw[len(raw) // 2 :] + raw[: len(raw) // 2],
}


def _cases(folder: Path, first: int, goal: int) -> Iterator[str]:
    damaged = Damaged(folder / "damaged")
    for number in range(first, goal):
        yield damaged.hurt(number)


CORRUPTION = Regime(
    "corruption", "corruption of a file of a run or of a saved network", 1_000_000, _cases, bad="silent"
)
