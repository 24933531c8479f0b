"""One thread at a time in torch's exporter, which fails otherwise."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch
from torch import nn

from esper.anatomy.graph import exporting, trace

THREADS = 2


def test_threads_that_trace_at_once_all_get_their_program() -> None:
    together = Barrier(THREADS)

    def traced(width: int) -> list[int]:
        together.wait()
        network = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))
        programs = [trace(network, (torch.randn(2, 4),)) for _ in range(8)]
        return [len(program.program.state_dict) for program in programs]

    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(traced, [8, 16])) == [[4] * 8, [4] * 8]


def test_a_thread_of_the_users_that_compiles_waits_too() -> None:
    import torch._dynamo.convert_frame

    lock = torch._dynamo.convert_frame.compile_lock
    with ThreadPoolExecutor(1) as other:

        def is_free() -> bool:
            free = lock.acquire(blocking=False)
            if free:
                lock.release()
            return free

        with exporting():
            assert not other.submit(is_free).result()
        assert other.submit(is_free).result()
