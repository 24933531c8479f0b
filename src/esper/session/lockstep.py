"""Seeds on several ranks: all take the same course, rank 0 is asked, and what batches teach is averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from esper.anatomy.graph import renew
from esper.session.ranks import Ranks

_Answer = TypeVar("_Answer")


class RankWorld:
    """The ranks of one network as its seeds see them; see `esper.kasmina.seeds.World`.

    Args:
        ranks: all of them.
        model: the network, in its `DistributedDataParallel`.
    """

    def __init__(self, ranks: Ranks, model: nn.Module) -> None:
        self._ranks, self._model = ranks, model

    @property
    def is_first(self) -> bool:
        return self._ranks.number == 0

    def answer(self, kind: Any, ask: Callable[[], _Answer]) -> _Answer:
        return self._ranks.answer(kind, ask)

    def first_word(self, word: str) -> str:
        said = self._ranks.gather({"word": word})
        return next((one["word"] for one in said if one.get("word")), "")

    def made(self, make: Callable[[], nn.Module], name: str) -> nn.Module:
        made: list[nn.Module] = []

        def form() -> Mapping[str, Any]:
            made.append(make())
            return {name: _form(made[0])}

        self._ranks.agree(form)  # before values are exchanged: what has another form cannot take them
        self.spread((*made[0].parameters(), *made[0].buffers()))
        return made[0]

    def averaged(
        self, parameters: Sequence[Tensor], gradients: Mapping[Tensor, Tensor]
    ) -> Mapping[Tensor, Tensor]:
        # One exchange for all of a seed: who has a gradient for what, then the gradients, zeros for none.
        kind = torch.float64 if any(p.dtype is torch.float64 for p in parameters) else torch.float32
        parts = [gradients.get(p, torch.zeros_like(p)).to(kind).flatten() for p in parameters]
        has_one = torch.tensor([float(p in gradients) for p in parameters], dtype=kind)
        total = self._ranks.add_up(torch.cat([has_one.to(parts[0].device), *parts]))
        counts, *sums = total.split([len(parameters), *(part.numel() for part in parts)])
        mean = [part / len(self._ranks) for part in sums]
        return {
            parameter: value.view_as(parameter).to(parameter.dtype)
            for parameter, value, count in zip(parameters, mean, counts.tolist(), strict=True)
            if count
        }

    def spread(self, tensors: Iterable[Tensor]) -> None:
        with torch.no_grad():
            for tensor in tensors:
                self._ranks.spread(tensor)

    def follow(self) -> None:
        renew(self._model)


def _form(module: nn.Module) -> list[str]:
    """All that a module holds, without values."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    held = [*module.named_parameters(), *module.named_buffers()]
    trained_or_not = {True: "", False: " (not trained)"}
    return [f"{name} {tuple(t.shape)} {t.dtype}{trained_or_not[name in trained]}" for name, t in held]
