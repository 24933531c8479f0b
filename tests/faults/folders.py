"""The life of a folder of files that leaves its run, such as a cut network."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from esper.checkpoint import FileContent, Storage, bundled, write_bundle
from tests.faults.life import Life, Tell

_SUMS = "BLAKE3SUMS"
FILES: dict[str, FileContent] = {
    "network.pt2": b"program" * 300,
    "model.safetensors": {"w": torch.ones(3)},
    "form.json": b"{}\n",
}


def _live_of_a_bundle(root: Path, storage: Storage, tell: Tell) -> None:
    write_bundle(root / "made" / "out", FILES, storage=storage)
    tell("written ")


def _judge_bundle(root: Path, told: str) -> str:
    return judge_folder(root / "made" / "out", list(FILES), told, "written")


def judge_folder(out: Path, names: list[str], told: str, word: str) -> str:
    """A folder must be whole or not there, and the next writer of it leaves nothing of an earlier one."""
    was_there = out.exists()
    if word in told and not was_there:
        return "the folder is gone"
    with suppress(OSError):  # one that is there is not written again
        write_bundle(out, FILES)
    names = names if was_there else list(FILES)
    files = [bundled(out, name) for name in names]
    if None in files or any(file.problem() for file in files if file is not None):
        return "the folder is not whole"
    if {path.name for path in out.iterdir()} != {*names, _SUMS}:
        return f"the folder holds {sorted(path.name for path in out.iterdir())}"
    left = {path.name for path in out.parent.iterdir()} - {out.name}
    return f"debris: {left}" if left else ""


BUNDLE = Life("the folder of a cut network", _live_of_a_bundle, _judge_bundle)
