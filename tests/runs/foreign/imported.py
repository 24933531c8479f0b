"""The life of a folder that an import writes, after the confined process has answered."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as tensor_bytes

from esper.checkpoint import Storage
from esper.runs.foreign.bringing import _written
from esper.runs.foreign.reading import LENGTH
from tests.faults.folders import judge_folder
from tests.faults.life import Life, Tell


def _answer() -> BytesIO:
    """What a confined process answers for a file with one tensor."""
    text = json.dumps({"kind": "tensors", "left_out": {}, "tensors": 1, "content": {}}).encode()
    return BytesIO(LENGTH.pack(len(text)) + text + tensor_bytes({"a": torch.arange(300.0)}))


def _live_of_an_import(root: Path, storage: Storage, tell: Tell) -> None:
    _written(root / "net.pt", root / "in" / "out", _answer(), "", storage)
    tell("imported ")


def _judge_import(root: Path, told: str) -> str:
    out = root / "in" / "out"
    was_there = out.exists()
    wrong = judge_folder(out, ["tensors.safetensors", "content.json"], told, "imported")
    if was_there and not wrong and load_file(out / "tensors.safetensors")["a"].tolist() != list(range(300)):
        return "a tensor is another one"
    return wrong


IMPORT = Life("the folder of an import", _live_of_an_import, _judge_import)
