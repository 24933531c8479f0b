"""A process of its own that saves into a run directory until its input ends."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.checkpoint.runs import content, open_store


def main(run_dir: str) -> None:
    stop = threading.Event()

    def wait_for_a_word() -> None:
        sys.stdin.readline()
        stop.set()

    threading.Thread(target=wait_for_a_word).start()
    with open_store(Path(run_dir), keep_last=2) as store:
        step = 0
        while not stop.is_set():
            step += 1
            store.save(step, 0, content(step))
            sys.stdout.write(f"{step}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
