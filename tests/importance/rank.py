"""One rank that measures importance on its own data and merges; started as a process by the tests.

Usage: python -m tests.importance.rank PORT DIRECTORY RANK; what it found goes to DIRECTORY/rank-RANK.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from esper.errors import RankDivergence
from tests.importance.networks import two
from tests.importance.steps import sgd, step, tracker_of


def main(port: str, directory: Path, rank: int) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    network, anatomy = two(width=3)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    torch.manual_seed(rank)
    for _ in range(3 + 2 * rank):
        step(network, optimizer, torch.randn(4, 3))
    alone = tracker.fisher().tolist()
    tracker.merge_ranks()
    other, other_anatomy = two(width=3 + rank)
    refused = ""
    try:
        tracker_of(other, other_anatomy, sgd(other)).merge_ranks()
    except RankDivergence as error:
        refused = f"RankDivergence: {error}"
    report = {
        "alone": alone,
        "merged": tracker.fisher().tolist(),
        "samples": tracker.state()["samples"].tolist(),
        "refused": refused,
    }
    (directory / f"rank-{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
