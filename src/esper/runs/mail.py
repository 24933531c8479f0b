"""Speaking with a run that trains: signed messages that lie for seconds in a folder of its directory.

Whoever can write into the folder and has no key of the ring can lose messages, and nothing else: what he
forges, repeats, keeps back or turns around is refused. A run speaks under a name of its own for each start
(`boot`), so what was said before a restart is not believed after it. Who still waits then signs it anew, with
the same idempotency key, so that it is answered and not done again.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from esper.errors import BusError, CheckpointError, ContractError
from esper.leyline import IdempotencyKey, Level, decode, encode, stable_id
from esper.leyline.wire import BelievedKeys, FolderCarrier, SignedChannel, messages, parsed
from esper.runs.story import RunState, state_of_writer

if TYPE_CHECKING:
    from esper.checkpoint import KeyRing

MAIL = "mail"
TRAINER = "trainer"
_ASKER = "ask-"
_NOTE, _PURPOSE = "boot.json", "esper boot"
_AGAIN_SECONDS = 15.0
"""A message that nobody takes is signed anew before it is too old to be believed."""
_LOOK_SECONDS = 0.05
_FOLLOW_SECONDS = 1.0
"""How often is looked whether the run was restarted."""


@dataclass(frozen=True)
class Boot:
    """One start of one run, as its sealed note tells of it.

    Attributes:
        id: 16 random bytes in hex.
        run: id of the run.
        pid: of the process that trains.
    """

    id: str
    run: str
    pid: int


class Mailbox:
    """The folder as the run that trains keeps it; only the holder of the writer lock may open one.

    Args:
        run_dir: of the run.
        ring: the keys that are believed as long as it is open; the primary one signs.
        run: id of the run.
        refused: is told of every message that is not believed.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(
        self, run_dir: Path, ring: KeyRing, run: str, refused: Callable[[ContractError], None]
    ) -> None:
        self.folder = run_dir / MAIL
        self._pid = os.getpid()
        self._clear({_ASKER, TRAINER})  # of a run that was killed
        boot = Boot(secrets.token_hex(16), run, self._pid)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        carrier = FolderCarrier(self.folder)
        carrier.open_box(TRAINER)
        self.channel = SignedChannel(
            carrier, ring.believed(), bytes.fromhex(boot.id), TRAINER, refused=refused
        )
        self._write(ring.seal(_PURPOSE, json.dumps(encode(boot)).encode()))

    def close(self) -> None:
        """Nobody is there any more; last answers lie where they are until those who asked have read them.

        A fork of the process that has opened it does nothing.
        """
        if os.getpid() == self._pid:
            self._clear({TRAINER})

    def _write(self, note: bytes) -> None:
        draft = self.folder / f".{_NOTE}"
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(note)
        draft.rename(self.folder / _NOTE)

    def _clear(self, boxes: set[str]) -> None:
        """Removes what was put there under names that begin so, and nothing that is not ours."""
        folder = self.folder
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise OSError(errno.ENOTDIR, "Not a directory of this run", str(folder))
        if not folder.is_dir():
            return
        for path in folder.iterdir():
            if path.name.startswith(tuple(boxes)):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name in (_NOTE, f".{_NOTE}"):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # somebody who has asked is still there
            folder.rmdir()


class Asker:
    """Somebody who speaks to a run that trains, and to the same run when it was killed and goes on.

    Args:
        run_dir: of the run.
        ring: with a key that the run had when it started.

    Raises:
        CheckpointError: the note of the run is not what it has written.
        BusError: nobody trains there, or no message can be left.
    """

    def __init__(self, run_dir: Path, ring: KeyRing) -> None:
        self._run_dir, self._ring, self._folder = run_dir, ring, run_dir / MAIL
        self._name = f"{_ASKER}{secrets.token_hex(8)}"
        self._box = self._folder / self._name
        self._wishes = 0
        self.boot, key = _boot(self._folder / _NOTE, ring)
        self._carrier, self._channel = self._connected(key)

    def _connected(self, key: str) -> tuple[FolderCarrier, SignedChannel]:
        """A box of our own, and what is believed in this boot of the run."""
        carrier = FolderCarrier(self._folder)
        try:
            with suppress(FileExistsError):  # of the boot before, if nobody has cleared it away
                carrier.open_box(self._name)
        except OSError as error:
            raise BusError(
                f"No message can be left in {self._folder}: {error.strerror}. Nothing was asked of the run."
            ) from error
        # The run believes the keys that it had: after a rotation, the one that its note is sealed with.
        keys = BelievedKeys(key, self._ring.believed().secrets)
        return carrier, SignedChannel(carrier, keys, bytes.fromhex(self.boot.id), self._name)

    def follow(self) -> bool:
        """Speaks to the run's new boot if it has one; returns whether it has.

        Raises:
            CheckpointError: the note of the run is not what it has written.
        """
        try:
            boot, key = _boot(self._folder / _NOTE, self._ring)
        except BusError:  # nobody trains at this moment
            return False
        if boot == self.boot:
            return False
        self.boot = boot
        self._carrier, self._channel = self._connected(key)
        return True

    @property
    def is_alone(self) -> bool:
        """Whether the process that trained here is gone, as after a kill; of other machines nobody knows."""
        return state_of_writer(self._run_dir) is RunState.STOPPED

    def ask(
        self,
        command: messages.AdaptationCommand,
        wait_seconds: float,
        waits: Callable[[messages.AdaptationReport], None] = lambda _: None,
        alone: Callable[[], None] = lambda: None,
    ) -> messages.AdaptationReport:
        """Asks, until there is an answer; the run does the same command only once, also if it is restarted.

        Args:
            command: what is wanted.
            wait_seconds: how long to wait for the answer.
            waits: is told when the run has accepted the command and does it later.
            alone: is told when nobody trains there, so that only a resume can answer.

        Returns:
            The last answer; `COMMAND_STATUS_WAITING` if the time was over before it was done.

        Raises:
            BusError: nobody has answered; the command was taken back, unless the run has just taken it.
        """
        end, again, follow = time.monotonic() + wait_seconds, 0.0, 0.0
        answer: messages.AdaptationReport | None = None
        was_alone = False
        while time.monotonic() < end:
            if time.monotonic() >= follow:
                follow = time.monotonic() + _FOLLOW_SECONDS
                if self.follow():
                    answer, again = None, 0.0
                is_alone = self.is_alone
                if is_alone and not was_alone:
                    alone()
                was_alone = is_alone
            if answer is None and time.monotonic() >= again:
                self.send(command)
                again = time.monotonic() + _AGAIN_SECONDS
            for report in self.answers(command):
                if report.status != messages.COMMAND_STATUS_WAITING:
                    return report
                if answer is None:
                    waits(report)
                answer = report
            time.sleep(_LOOK_SECONDS)
        self._carrier.withdraw()
        if answer is None:
            why = (
                "Nobody trains there any more, and nobody has resumed it"
                if was_alone
                else "It looks for messages where an optimizer step ends: it may be evaluating, or have been "
                "killed, or clocks differ by more than a minute"
            )
            raise BusError(
                f"The run in {self._run_dir} (process {self.boot.pid}) has not answered in "
                f"{wait_seconds:g} s. {why}. The message was "
                f"taken back. Its key was {command.idempotency_key}: with that key it is done once, however "
                "often it is sent."
            )
        return answer

    def send(self, command: messages.AdaptationCommand) -> None:
        """Leaves a command, in the place of the last one if nobody has taken that.

        It is given an idempotency key if it has none; with the same one it is done once, however often sent.
        """
        command.idempotency_key = command.idempotency_key or self.key_for(command)
        self._carrier.withdraw()
        self._channel.send(TRAINER, command)

    def key_for(self, command: messages.AdaptationCommand) -> str:
        """A key that no other wish has: two equal commands, one after the other, are two.

        It names the newest checkpoint, which is what whoever asks can know of the network. Level `layer`: a
        command is about whole seeds, or about all of the network.
        """
        from esper.checkpoint import CheckpointCatalog

        self._wishes += 1
        newest = CheckpointCatalog(self._run_dir, self._ring).list().checkpoints[-1:]
        epoch, model = (newest[0].epoch, newest[0].digest) if newest else (0, self.boot.run)
        wish = stable_id(content_of(command), self._name, str(self._wishes))
        return str(IdempotencyKey(epoch, model, wish, Level.LAYER))

    def answers(self, command: messages.AdaptationCommand) -> list[messages.AdaptationReport]:
        """What the run has said of a command since this was asked last."""
        letters = [one for one in self._channel.receive() if one.sender == TRAINER]
        reports = [parsed(messages.AdaptationReport, letter.payload) for letter in letters]
        return [report for report in reports if report.idempotency_key == command.idempotency_key]

    def close(self) -> None:
        shutil.rmtree(self._box, ignore_errors=True)
        if not (self._box.parent / _NOTE).exists():
            with suppress(OSError):  # another is still there
                self._box.parent.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def content_of(command: messages.AdaptationCommand) -> str:
    """What a command asks for, as an id: the same for equal wishes, whoever has them, by any key."""
    wish = messages.AdaptationCommand()
    wish.CopyFrom(command)
    wish.idempotency_key = wish.by = ""
    return stable_id(wish.SerializeToString(deterministic=True).hex())


def _boot(note: Path, ring: KeyRing) -> tuple[Boot, str]:
    """What a run that trains tells of itself, and the key that it was sealed with."""
    from esper.checkpoint import read_regular, sealed_by

    try:
        raw = read_regular(note, 1 << 12)
    except FileNotFoundError as error:
        raise BusError(
            f"Nobody trains in {note.parents[1]}: there is no {note}. A run can be spoken to from "
            "esper.attach or esper.resume to session.finish or detach."
        ) from error
    except OSError as error:
        raise BusError(f"{note} cannot be read: {error.strerror}. Nothing was asked of the run.") from error
    try:
        boot = decode(Boot, json.loads(ring.unseal(_PURPOSE, raw)))
    except (CheckpointError, ContractError, ValueError) as error:
        raise CheckpointError(
            f"{note} was not written by this run: {error}. Nothing was asked. If its key was rotated or "
            "disabled since the run began, resume the run."
        ) from error
    return boot, sealed_by(raw) or ring.primary.id
