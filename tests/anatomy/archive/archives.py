"""One small program with a bit of everything, exported once, and its archive with something else in it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from esper.anatomy.archive import write_program
from esper.anatomy.twin import deployed

MODEL = "archive/models/model.json"
WEIGHTS = "archive/data/weights/model_weights_config.json"
CONSTANTS = "archive/data/constants/model_constants_config.json"


class Small(nn.Module):
    """Parameters, running statistics, constants, a named input, a free batch and a dict of results."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.shift = torch.ones(6)

    def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, Any]:
        hidden = self.norm(self.first(x)).relu() + self.shift
        return {"y": hidden.reshape(-1, 3) * scale, "more": (hidden.sum() + torch.tensor([1.0]),)}


X, SCALE = torch.arange(12.0).reshape(3, 4), torch.full((3,), 2.0)


@cache
def stored() -> bytes:
    """The archive of a `Small` in eval mode."""
    torch.manual_seed(0)
    return write_program(deployed(Small(), (X,), {"scale": SCALE}))


def entries_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def packed(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return out.getvalue()


def with_json(change: Callable[[Any], None], member: str = MODEL) -> bytes:
    """The archive with one of its JSON members changed."""
    entries = entries_of(stored())
    value = json.loads(entries[member])
    change(value)
    entries[member] = json.dumps(value).encode()
    return packed(entries)


def dicts_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping inside a value of JSON."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from dicts_in(inner)
