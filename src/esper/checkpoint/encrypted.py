"""Files that only a holder of the key ring can read: AES-256-GCM in chunks, each file by a key of its own.

    mark (16)  file id (16)  slot (124)  slot (124)  chunks

A slot is the file's key, wrapped by a key of the ring: key id (64, zeros at its end), nonce (12), wrapped
key (48). A chunk is 1 MiB of content (the last one less, perhaps nothing) with its tag (16). Its nonce is its
number and whether it is the last one, and the file id is authenticated with it: a chunk that is cut off,
moved, or from another file does not open. Both slots say the same: one is whole while the other is written.
"""

from __future__ import annotations

import hashlib
import hmac
import mmap
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from esper.checkpoint.crypto import KEY_ID, Key, KeyRing, KeyState, UnknownKey
from esper.checkpoint.digests import FileHash
from esper.checkpoint.reading import open_regular
from esper.checkpoint.storage import POSIX, Storage, write_over
from esper.errors import CheckpointCorrupt

CHUNK_BYTES = 1 << 20
_MARK = b"esper-encrypted1"
_ID_BYTES = 16
_TAG_BYTES = 16
_SEALED_BYTES = CHUNK_BYTES + _TAG_BYTES
_SLOT = struct.Struct(">64s12s48s")
_SLOTS_AT = len(_MARK) + _ID_BYTES
HEADER_BYTES = _SLOTS_AT + 2 * _SLOT.size
SLOTS = {"first": slice(_SLOTS_AT, _SLOTS_AT + _SLOT.size), "second": slice(-_SLOT.size, None)}
"""Where in the header the two copies of the file's key lie, by the names that people are told."""

_PURPOSE = b"esper file key"


class FileKey:
    """The key of one file: it opens this file and no other. What is in it is not shown when it is printed."""

    def __init__(self, file_id: bytes, secret: bytes) -> None:
        self.file_id = file_id
        self._secret = secret
        self._cipher = AESGCM(secret)

    @classmethod
    def fresh(cls, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> FileKey:
        """A new one; no two files ever have the same."""
        return cls(random_bytes(_ID_BYTES), random_bytes(32))

    @classmethod
    def from_text(cls, text: str) -> FileKey:
        """From what `text` gave."""
        raw = bytes.fromhex(text)
        return cls(raw[:_ID_BYTES], raw[_ID_BYTES:])

    def text(self) -> str:
        """As text, for a worker process, which has no key of the ring."""
        return (self.file_id + self._secret).hex()

    def header(self, ring: KeyRing, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
        """The header of the file, wrapped by the primary key."""
        key, nonce = ring.primary, random_bytes(12)
        wrapped = AESGCM(_wrapping(key)).encrypt(nonce, self._secret, _MARK + self.file_id + key.id.encode())
        return _MARK + self.file_id + 2 * _SLOT.pack(key.id.encode(), nonce, wrapped)

    def encrypt(self, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
        """The chunks of the file, without its header; what was yielded is valid until the next one.

        There are `sealed_size` bytes of them.
        """
        chunk, out = bytearray(), bytearray(_SEALED_BYTES)
        number = 0

        def closed(content: bytearray | memoryview, *, is_last: bool = False) -> memoryview:
            room = memoryview(out)[: len(content) + _TAG_BYTES]
            self._cipher.encrypt_into(_nonce(number, is_last), content, self.file_id, room)
            return room

        for piece in pieces:
            flat = piece.cast("B")
            while len(flat):
                if not chunk and len(flat) >= CHUNK_BYTES:  # a whole chunk: it is not copied
                    yield closed(flat[:CHUNK_BYTES])
                    flat = flat[CHUNK_BYTES:]
                else:
                    room = CHUNK_BYTES - len(chunk)
                    chunk += flat[:room]
                    flat = flat[room:]
                    if len(chunk) < CHUNK_BYTES:
                        continue
                    yield closed(chunk)
                    chunk.clear()
                number += 1
        yield closed(chunk, is_last=True)

    def decrypt(self, file: FileIO, size: int, hashing: FileHash | None = None) -> mmap.mmap | bytes:
        """The content of a file of `size` bytes, read once; `SealedContent` says how.

        The chunks as they lie in the file go through `hashing`.

        Raises:
            CheckpointCorrupt: a chunk does not open: it was altered, moved, or cut off.
        """
        content = SealedContent(self, file, size)
        for number in range(content.chunks):
            content.open_chunk(number, hashing)
        return content.opened

    def decrypt_chunk(self, number: int, sealed: memoryview, place: memoryview, *, is_last: bool) -> None:
        """Opens one chunk into its place.

        Raises:
            CheckpointCorrupt: it does not open.
        """
        nonce = _nonce(number, is_last)
        try:
            if len(place):
                self._cipher.decrypt_into(nonce, sealed, self.file_id, place)
            else:
                self._cipher.decrypt(nonce, bytes(sealed), self.file_id)
        except InvalidTag:
            raise CheckpointCorrupt(
                f"chunk {number} does not open: it was altered, moved, or what followed was cut off"
            ) from None


class SealedContent:
    """The content of an encrypted file, of which as many chunks are opened as are asked for.

    It is in memory that other processes do not see and that a cap of private memory leaves out. What was not
    opened reads as zeros and takes no memory.

    Raises:
        CheckpointCorrupt: a file of this size was cut off.
    """

    def __init__(self, key: FileKey, file: FileIO, size: int) -> None:
        whole, self._rest = divmod(size - HEADER_BYTES, _SEALED_BYTES)
        if size < HEADER_BYTES or self._rest < _TAG_BYTES:
            raise CheckpointCorrupt("it was cut off")
        self._key, self._file = key, file
        self._sealed = memoryview(bytearray(_SEALED_BYTES))
        self._is_open = [False] * (whole + 1)
        length = whole * CHUNK_BYTES + self._rest - _TAG_BYTES
        self.opened: mmap.mmap | bytes = mmap.mmap(-1, length) if length else b""

    @property
    def chunks(self) -> int:
        """How many there are, at least one."""
        return len(self._is_open)

    def open(self, start: int, stop: int) -> None:
        """Opens the chunks that hold these bytes, as far as there are any.

        Raises:
            CheckpointCorrupt: as for `open_chunk`.
        """
        for number in range(start // CHUNK_BYTES, min(-(-stop // CHUNK_BYTES), self.chunks)):
            if not self._is_open[number]:
                self.open_chunk(number)

    def open_chunk(self, number: int, hashing: FileHash | None = None) -> None:
        """Reads and opens one chunk.

        Raises:
            CheckpointCorrupt: it does not open: it was altered, moved, or cut off.
        """
        is_last = number == self.chunks - 1
        sealed = self._sealed[: self._rest] if is_last else self._sealed
        self._file.seek(HEADER_BYTES + number * _SEALED_BYTES)
        if _fill(self._file, sealed) < len(sealed):
            raise CheckpointCorrupt(f"it was cut off in chunk {number}")
        if hashing is not None:
            hashing.update(sealed)
        start = number * CHUNK_BYTES
        place = memoryview(self.opened)[start : start + len(sealed) - _TAG_BYTES]
        self._key.decrypt_chunk(number, sealed, place, is_last=is_last)
        self._is_open[number] = True


@dataclass(frozen=True)
class NewKey:
    """What encrypts one file that is to be written: whoever has it needs no key of the ring for that.

    Attributes:
        text: the key of the file (`FileKey.text`).
        header: of the file; the same key is in there, wrapped.
    """

    text: str = field(repr=False)
    header: bytes = field(repr=False)

    @classmethod
    def fresh(cls, ring: KeyRing) -> NewKey:
        """A new one, wrapped by the primary key of a ring."""
        key = FileKey.fresh()
        return cls(key.text(), key.header(ring))


def sealed_size(size: int) -> int:
    """How many bytes so many bytes of content take, without the header."""
    return size + (size // CHUNK_BYTES + 1) * _TAG_BYTES


def open_header(path: Path, ring: KeyRing) -> FileKey:
    """The key of an encrypted file, by a key of the ring.

    Raises:
        UnknownKey: the ring does not hold the key that it needs.
        CheckpointCorrupt: that key is disabled, or the header was altered or cannot be read.
    """
    return _opened(path, ring)[0]


def weakness(path: Path, ring: KeyRing) -> str:
    """Which copy of the key of an encrypted file does not open while the other one does, and why; or "".

    Raises:
        CheckpointCorrupt: none opens, as `open_header` says.
    """
    problems = _opened(path, ring)[1]
    return "".join(
        f"the {name} of the two copies of its key does not open ({why})" for name, why in problems.items()
    )


def wrapped_by(path: Path) -> frozenset[str]:
    """The ids of the keys that open an encrypted file, believed or not."""
    return frozenset(_slot_key(_SLOT.unpack(slot)[0]) for slot in _read_header(path)[1].values())


def rewrap(path: Path, ring: KeyRing, storage: Storage = POSIX) -> bool:
    """Wraps the key of a file by the primary key, in its header; nothing else of the file is touched.

    One slot is written after the other, each durable before the next, so that one of them always opens.

    Returns:
        False if both copies opened by the primary key already.

    Raises:
        CheckpointCorrupt: no key of the ring opens it; nothing was changed.
        OSError: it could not be written; it still opens by the old key or the new one.
    """
    key, problems = _opened(path, ring)
    if not problems and wrapped_by(path) == {ring.primary.id}:
        return False
    header = key.header(ring)
    # The copy that does not open by now goes first: the other one is all that there is.
    order = ("first", "second") if "first" in problems else ("second", "first")
    descriptor = storage.open_to_overwrite(path)
    try:
        for name in order:
            place = SLOTS[name].indices(HEADER_BYTES)[0]
            write_over(storage, descriptor, memoryview(header)[SLOTS[name]], place)
            storage.sync(descriptor)
    finally:
        storage.close(descriptor)
    return True


@dataclass(frozen=True)
class Rewrapped:
    """What became of the encrypted ones of some files.

    Attributes:
        count: headers that were written.
        healed: files among them of which one copy of the key did not open, and why not.
        failed: files whose header could not be written, with the reason.
    """

    count: int
    healed: tuple[str, ...]
    failed: tuple[str, ...]


def rewrap_all(paths: Iterable[Path], ring: KeyRing, storage: Storage = POSIX) -> Rewrapped:
    """Wraps the keys of those of some files that are encrypted by the primary key."""
    count, healed, failed = 0, [], []
    for path in paths:
        try:
            if not path.is_file() or not is_encrypted(path):
                continue
            weak = weakness(path, ring)
            count += rewrap(path.resolve(), ring, storage)  # a link leads to what is read there
            healed += [f"{path}: {weak}"] if weak else []
        except (CheckpointCorrupt, OSError) as error:
            failed.append(f"{path}: {error}")
    return Rewrapped(count, tuple(healed), tuple(failed))


def is_encrypted(path: Path) -> bool:
    """Whether a file begins as encrypted ones do."""
    with open_regular(path) as file:
        return file.read(len(_MARK)) == _MARK


def _opened(path: Path, ring: KeyRing) -> tuple[FileKey, dict[str, CheckpointCorrupt]]:
    """The key by the first copy that opens, and why others do not, by name."""
    file_id, slots = _read_header(path)
    keys: list[FileKey] = []
    problems: dict[str, CheckpointCorrupt] = {}
    for name, slot in slots.items():
        try:
            keys.append(_unwrapped(file_id, slot, ring))
        except CheckpointCorrupt as problem:
            problems[name] = problem
    if not keys:
        raise problems["first"]
    return keys[0], problems


def _read_header(path: Path) -> tuple[bytes, dict[str, bytes]]:
    """The id of the file, and its slots by name."""
    try:
        with open_regular(path) as file:
            raw = file.read(HEADER_BYTES)
    except OSError as error:
        raise CheckpointCorrupt(f"it cannot be read: {error.strerror}") from error
    if len(raw) < HEADER_BYTES or not raw.startswith(_MARK):
        raise CheckpointCorrupt("it was saved encrypted, and what is there now is not")
    return raw[len(_MARK) : _SLOTS_AT], {name: raw[place] for name, place in SLOTS.items()}


def _unwrapped(file_id: bytes, slot: bytes, ring: KeyRing) -> FileKey:
    raw_id, nonce, wrapped = _SLOT.unpack(slot)
    key_id = _slot_key(raw_id)
    if not KEY_ID.fullmatch(key_id):
        raise CheckpointCorrupt("the header was altered: it names no key")
    key = next((key for key in ring.keys if key.id == key_id), None)
    if key is None:
        raise UnknownKey(
            f"it is encrypted by key {key_id!r}, which is not in this key ring. Without that key nobody can "
            "read it: if it was destroyed, the content is lost for good"
        )
    if key.state is KeyState.DISABLED:
        raise CheckpointCorrupt(f"it is encrypted by key {key_id!r}, which is disabled")
    try:
        secret = AESGCM(_wrapping(key)).decrypt(nonce, wrapped, _MARK + file_id + raw_id.rstrip(b"\0"))
    except InvalidTag:
        raise CheckpointCorrupt(
            f"its key does not open by key {key_id!r}: the header was altered, or the ring holds another key "
            "under that name"
        ) from None
    return FileKey(file_id, secret)


def _slot_key(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("ascii", "replace")


def _wrapping(key: Key) -> bytes:
    """What wraps keys of files: derived, so that no secret is used for two purposes."""
    return hmac.digest(key.secret, _PURPOSE, hashlib.sha256)


def _nonce(number: int, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([is_last])


def _fill(file: FileIO, target: memoryview) -> int:
    """Reads until there is no more, or no more room; returns how much there was."""
    size = 0
    while size < len(target) and (count := file.readinto(target[size:])):
        size += count
    return size
