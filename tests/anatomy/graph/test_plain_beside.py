"""Lists and dicts that hold a copy of a network are known by what they hold."""

from __future__ import annotations

import copy

from torch import nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from esper.anatomy.graph import plain_copies_beside


class Shadow:
    """Keeps an average in a list."""

    def __init__(self, model: nn.Module) -> None:
        self.shadow_params = [p.detach().clone() for p in model.parameters() if p.requires_grad]


def test_lists_and_dicts_of_copies_are_known_by_what_they_are_called() -> None:
    model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))
    model.get_submodule("0").requires_grad_(False)
    assert not plain_copies_beside(model)
    shadow = Shadow(model)
    assert plain_copies_beside(model) == [("list", "Shadow.shadow_params")]
    shadow.shadow_params.pop()
    named = {"ema": {f"module.{name}": tensor.clone() for name, tensor in model.state_dict().items()}}
    assert plain_copies_beside(model) == [("dict", "ema")]
    named["ema"]["module.3.weight"].add_(1.0)
    assert not plain_copies_beside(model)


def test_what_a_module_or_an_optimizer_holds_is_no_copy_by_itself() -> None:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
    average = AveragedModel(model)
    held = model.state_dict(), list(model.parameters()), average.module.state_dict()
    optimizers = AdamW(average.parameters()), AdamW(copy.deepcopy(model).parameters())
    assert not plain_copies_beside(model)
    del held, optimizers
