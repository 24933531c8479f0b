"""What has grown around a layer gives it a longer name: the names of before and after are told apart here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def seed_paths(structure: Mapping[str, Any]) -> list[str]:
    """Where seeds have become parts of the network, by the structure that a checkpoint holds."""
    return [change["seed"]["path"] for change in structure.get("changes", ()) if "seed" in change]


def former_name(name: str, seeds: Sequence[str]) -> str:
    """What a group was called before seeds grew around its layers."""
    for path in seeds:
        if name == f"{path}.host" or name.startswith(f"{path}.host."):
            name = path + name.removeprefix(f"{path}.host")
    return name
