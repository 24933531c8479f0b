"""The same network cut by Torch-Pruning's Taylor scores, with the recipe of its documentation."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from architectures.checks import flops
from pretrained_networks.case import Batch, Case

_TRIES = 9


@dataclass(frozen=True)
class Taylor:
    """Gradients of the labeled loss, gathered once on the batches that Esper looks at, or labeled ones.

    Attributes:
        case: the network.
        gradients: by parameter name, the sum over the batches.
    """

    case: Case
    gradients: Mapping[str, Tensor]

    @classmethod
    def of(cls, case: Case) -> Taylor:
        model = copy.deepcopy(case.model)
        loss = case.labeled_loss or case.loss
        for batch, target in case.labeled or case.deciding:
            loss(called(model, batch), target).backward()
        return cls(
            case, {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
        )

    def cut(
        self, share: float, flops: Callable[[nn.Module], float], *, is_global: bool, most: float
    ) -> nn.Module:
        """The network with the share of its FLOPs gone that comes closest.

        Args:
            share: of the FLOPs.
            flops: counts them.
            is_global: units of all layers compete; else every layer loses the same share.
            most: largest share of a layer that goes.
        """
        whole, low, high = flops(self.case.model), 0.0, 0.9
        best: tuple[float, nn.Module] | None = None
        for _ in range(_TRIES):
            ratio = (low + high) / 2
            model = self._pruned(ratio, is_global, most)
            gone = 1 - flops(model) / whole
            if best is None or abs(gone - share) < best[0]:
                best = (abs(gone - share), model)
            low, high = (ratio, high) if gone < share else (low, ratio)
        assert best is not None
        return best[1]

    def _pruned(self, ratio: float, is_global: bool, most: float) -> nn.Module:
        import torch_pruning as tp

        model = copy.deepcopy(self.case.model)
        for name, parameter in model.named_parameters():
            parameter.grad = self.gradients[name].clone()
        modules = dict(model.named_modules())
        names = {module: name for name, module in self.case.model.named_modules()}
        heads = {modules[names[module]]: count for module, count in self.case.heads.items()}
        batch = pytree.tree_map(lambda leaf: leaf[:2], self.case.batches[0][0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = tp.pruner.BasePruner(
                model,
                batch,
                importance=tp.importance.GroupTaylorImportance(),
                global_pruning=is_global,
                pruning_ratio=ratio,
                max_pruning_ratio=most,
                ignored_layers=[modules[names[module]] for module in self.case.results],
                num_heads=heads,
                round_to=self.case.round_to,
                prune_num_heads=bool(heads),
                prune_head_dims=not heads,
                head_pruning_ratio=ratio,
                output_transform=lambda output: [
                    leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)
                ],
            )
            pruner.step()
        return model.eval()


def cut_on_the_way(
    model: nn.Module,
    batches: Sequence[Batch],
    loss: Callable[[Any, Any], Tensor],
    *,
    results: Sequence[str],
    heads: Mapping[str, int],
    share: float,
    round_to: int | None = None,
) -> nn.Module:
    """A network that is being trained, cut once by Taylor scores of whole groups; in training mode.

    Args:
        model: the network.
        batches: labeled batches that decide.
        loss: `loss(output, target)`.
        results: names of the modules that make the results, which must not be cut.
        heads: names of projections of attention and their number of heads.
        share: of the FLOPs.
        round_to: widths that stay are multiples of it.
    """
    modules = dict(model.named_modules())
    case = Case(
        model=model.eval(),
        batches=batches,
        loss=loss,
        quality=lambda _: {},
        results=[modules[name] for name in results],
        data="",
        calibration=360,
        heads={modules[name]: count for name, count in heads.items()},
        round_to=round_to,
    )
    inputs = pytree.tree_map(lambda leaf: leaf[:2], batches[0][0])
    cut = Taylor.of(case).cut(share, lambda other: flops(other, inputs), is_global=True, most=0.9)
    return cut.train()


def renewed(model: nn.Module, case: Case) -> nn.Module:
    """A copy whose running statistics are measured anew, for a fair look at what a choice alone is worth."""
    fresh = copy.deepcopy(model)
    norms = [m for m in fresh.modules() if isinstance(m, _NormBase)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch, _ in case.deciding:
            called(fresh, batch)
    return fresh.eval()


def called(model: nn.Module, batch: Any) -> Any:
    """The network's output for inputs by position, several in a tuple, or by keyword."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)
