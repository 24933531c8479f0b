"""Copies of a network that must follow its cuts: running averages of its weights, teachers, snapshots.

A companion is any module that holds a copy of the network: the copy itself, or for example
`torch.optim.swa_utils.AveragedModel`, which holds it under `module`. It is cut by the same indices and proven
equal to its own masked self.
"""

from __future__ import annotations

from torch import nn

from esper.anatomy.graph import bare, named_tensors
from esper.anatomy.proof import live_tensors
from esper.anatomy.structure import Anatomy
from esper.errors import SurgeryError


def copy_in(companion: nn.Module, model: nn.Module, anatomy: Anatomy) -> nn.Module:
    """The copy of the network that a companion holds.

    Args:
        companion: what follows the network.
        model: the network.
        anatomy: its anatomy.

    Raises:
        SurgeryError: it holds no copy, or shares tensors with the network.
    """
    why = "it has no tensors"
    for module in companion.modules():
        if bare(module) is not module:
            continue
        try:
            live_tensors(module, anatomy)
        except SurgeryError as error:
            why = str(error) if module is companion else why
            continue
        _check_apart(module, model)
        return module
    raise SurgeryError(
        f"The companion {type(companion).__name__} holds no copy of {type(model).__name__} as it is now, so "
        "it cannot follow a cut. Nothing was changed. Companions must have the network's own parameter names "
        f"and shapes; give them when the network is attached, before its first cut. ({why})"
    )


def _check_apart(copied: nn.Module, model: nn.Module) -> None:
    own = {id(tensor): name for name, tensor in named_tensors(bare(model)).items()}
    shared = [own[id(tensor)] for tensor in named_tensors(copied).values() if id(tensor) in own]
    if shared:
        raise SurgeryError(
            f"The companion {type(copied).__name__} shares {len(shared)} tensor(s) with the network itself "
            f"({', '.join(shared[:3])}), so both would be cut twice. Nothing was changed. Give a deep copy; "
            "what shares tensors follows by itself."
        )
