"""What encryption at rest costs: streamed in memory, and opening a file, beside what the machine can do.

    python benchmarks/encryption.py [--mb 512] [--folder DIR]

Printed, in GB/s of content on one core, best and worst of several passes: chunks encrypted as a save streams
them (target 4); the peer, the same cipher of the library in one call for the whole content; a file that was
just written, opened with all its bytes decrypted and hashed; and what that is made of, each alone: the file
read, the cipher into memory that was there before, and fresh shared memory filled for the first time.
"""

from __future__ import annotations

import argparse
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from esper.checkpoint import CheckpointStore, FileKey, open_key_ring

CHUNK, TAG, PASSES, TARGET = 1 << 20, 16, 5, 4.0


class Meter:
    """Takes passes over so many bytes and prints a line of each kind."""

    def __init__(self, size: int) -> None:
        self._size = size

    def line(self, name: str, work: Callable[[], object]) -> float:
        """Prints best and worst, and returns the best, in GB/s."""
        rates = []
        for _ in range(PASSES):
            begun = time.perf_counter()
            work()
            rates.append(self._size / (time.perf_counter() - begun) / 1e9)
        print(f"{name:52} {max(rates):6.2f} GB/s  (worst {min(rates):.2f})")
        return max(rates)


def in_memory(meter: Meter, content: memoryview) -> None:
    """The stream beside the library's cipher in one call."""
    key = FileKey.fresh()
    cipher, nonce = AESGCM(os.urandom(32)), os.urandom(12)
    streamed = meter.line("encrypted, streamed", lambda: [None for _ in key.encrypt([content])])
    meter.line("peer: AESGCM.encrypt of all in one call", lambda: cipher.encrypt(nonce, content, None))
    print(f"target {TARGET} GB/s streamed: {'reached' if streamed >= TARGET else 'missed'}")


def opened(meter: Meter, folder: Path, content: memoryview) -> None:
    """A file of a checkpoint, opened, and what that is made of."""
    with CheckpointStore(folder, keyring=open_key_ring(folder, create=True), model="net") as store:
        file = store.save(1, 1, {"trainer.json": bytes(content)}).file("trainer.json")
    meter.line("opened: read, hashed, decrypted", file.decrypted)
    room = bytearray(CHUNK)

    def read() -> None:
        with file.path.open("rb", buffering=0) as source:
            while source.readinto(room):
                pass

    cipher, nonce = AESGCM(os.urandom(32)), os.urandom(12)
    sealed = cipher.encrypt(nonce, content[:CHUNK], None)
    count = len(content) // CHUNK

    def fill() -> None:
        fresh = mmap.mmap(-1, len(content))
        for number in range(count):
            fresh[number * CHUNK : (number + 1) * CHUNK] = room
        fresh.close()

    meter.line("  the file read", read)
    meter.line(
        "  the cipher, into memory that was there",
        lambda: [cipher.decrypt_into(nonce, sealed, None, room) for _ in range(count)],
    )
    meter.line("  fresh shared memory, filled once", fill)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--mb", type=int, default=512)
    arguments.add_argument("--folder", type=Path, default=None)
    options = arguments.parse_args()
    content = memoryview(os.urandom(CHUNK) * options.mb)
    meter = Meter(len(content))
    in_memory(meter, content)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        opened(meter, Path(name), content)


if __name__ == "__main__":
    main()
