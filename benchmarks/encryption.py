"""How fast checkpoint files are encrypted and opened, beside the cipher alone and beside plain files.

    python benchmarks/encryption.py --megabytes 512

Prints GB (10^9 bytes) per second of the processor, on one thread, the median of five rounds. The cipher alone
is AES-256-GCM of the same library over one chunk that stays in the cache: nothing on one thread is faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from esper.checkpoint import KeyRing, file_pieces
from esper.checkpoint.encrypted import CHUNK_BYTES, HEADER_BYTES, FileKey, rewrap

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    size = asked.megabytes << 20
    tensors = {
        "w": torch.frombuffer(bytearray(os.urandom(1 << 20)), dtype=torch.uint8).repeat(asked.megabytes)
    }
    ring, key = KeyRing.fresh(), FileKey.fresh()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        path = Path(folder) / "w"
        with path.open("wb") as file:
            file.write(key.header(ring))
            for chunk in key.encrypt(file_pieces(tensors)):
                file.write(chunk)
        print(f"{'cipher alone':28}{speed(size, lambda: cipher(size)):8.2f} GB/s")
        print(f"{'encrypted, streamed':28}{speed(size, lambda: encrypted(key, tensors)):8.2f} GB/s")
        print(f"{'opened, with BLAKE3':28}{speed(size, lambda: opened(key, path)):8.2f} GB/s")
        other = ring.add()
        rings = [other.promote(other.keys[-1].id), other]
        start = time.perf_counter()
        for number in range(100):
            assert rewrap(path, rings[number % 2])
        took = (time.perf_counter() - start) / 100
        print(f"{'key wrapped by another':28}{took * 1e3:8.2f} ms, {HEADER_BYTES} bytes")


def speed(size: int, work: Callable[[], None]) -> float:
    """GB per second of the processor, the median of some rounds."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return size / 1e9 / statistics.median(seconds)


def cipher(size: int) -> None:
    """The library's cipher on one chunk, again and again."""
    aes, content, room = AESGCM(bytes(32)), bytes(CHUNK_BYTES), bytearray(CHUNK_BYTES + 16)
    for number in range(size // CHUNK_BYTES):
        aes.encrypt_into(number.to_bytes(12, "big"), content, b"", room)


def encrypted(key: FileKey, tensors: dict[str, torch.Tensor]) -> None:
    """A tensor file as it is streamed to the disk."""
    for _ in key.encrypt(file_pieces(tensors)):
        pass


def opened(key: FileKey, path: Path) -> None:
    """A file read from memory, hashed and decrypted."""
    with path.open("rb", buffering=0) as file:
        file.seek(HEADER_BYTES)
        key.decrypt(file, path.stat().st_size)


if __name__ == "__main__":
    main()
