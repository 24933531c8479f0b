"""Recurrent layers stay one operator, for any number of steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F
from torch.nn.modules import rnn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from esper.anatomy.graph import exported, exporting, operator_name, trace
from esper.anatomy.graph.recurrence import recurrent_as_one
from esper.anatomy.twin import Twin

STACKED: dict[str, bool | int] = {"num_layers": 2, "bidirectional": True}


class Last(nn.Module):
    """A recurrent layer, and what reads its last step."""

    def __init__(self, cell: Callable[..., nn.Module], **options: bool | int) -> None:
        super().__init__()
        self.cell, self.last = cell(3, 4, batch_first=True, **options), nn.LazyLinear(2)
        self(torch.zeros(1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.cell(x)[0][:, -1])
        return out


class Steps(nn.Module):
    """A recurrent cell that code calls for every step, and what reads its last step."""

    def __init__(self, cell: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.cell, self.last = cell(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        out: Tensor = self.last(state[0] if isinstance(state, tuple) else state)
        return out


class Packed(nn.Module):
    """Reads as many steps of each sample as that has, and uses the last state or something of all outputs."""

    def __init__(self, cell: Callable[..., nn.Module], *, is_sorted: bool, use: str) -> None:
        super().__init__()
        self.cell, self.last = cell(3, 4, batch_first=True, num_layers=2), nn.Linear(4, 2)
        self.is_sorted, self.use = is_sorted, use

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=self.is_sorted)
        out, state = self.cell(packed)
        seen = state[0][-1] if isinstance(state, tuple) else state[-1]
        if self.use != "state":
            out, counted = pad_packed_sequence(out, batch_first=True)
            own = torch.arange(out.shape[1]) < counted[:, None]
            # The average is over the steps of the longest sample.
            seen = (out * own[..., None]).sum(1) if self.use == "mask" else out.mean(1)
        result: Tensor = self.last(seen)
        return result


def batch(samples: int, steps: int) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, steps, 3), torch.randint(2, (samples,))


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        (nn.LSTM, {}),
        (nn.LSTM, {"proj_size": 2}),
        (nn.LSTM, STACKED),
        (nn.GRU, STACKED),
        (nn.RNN, {"bias": False}),
    ],
)
def test_a_recurrent_layer_is_one_operator_of_torchs_own(
    cell: Callable[..., nn.Module], options: dict[str, bool | int]
) -> None:
    torch.manual_seed(0)
    model = Last(cell, **options).eval()
    twin = Twin.of(trace(model, batch(4, 5), F.cross_entropy, free=frozenset({(0, 1)})))
    called = [node.target for node in twin.program.graph.nodes if node.op == "call_function"]
    assert [str(target) for target in called if operator_name(target) in ("lstm", "gru", "rnn_tanh")] == [
        f"aten.{'rnn_tanh' if cell is nn.RNN else cell.__name__.lower()}.input"
    ]
    x, y = batch(7, 9)  # more samples than in the trace, and more steps
    with torch.no_grad():
        loss, _ = twin.loss(dict(model.named_parameters()), (x, y))
        torch.testing.assert_close(loss, F.cross_entropy(model(x), y))


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_recurrent_cell_is_one_operator_for_every_step(cell: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    model = Steps(cell).eval()
    program = trace(model, batch(4, 5)[0]).program
    names = [operator_name(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum(name.endswith("_cell") for name in names) == 5
    assert not set(names) & {"tanh", "sigmoid", "chunk"}
    x, _ = batch(7, 5)
    with torch.no_grad():
        torch.testing.assert_close(program.module()((x,), {}, None), model(x))


def test_a_graph_that_calls_torchs_operator_is_exported_again_for_any_number_of_steps() -> None:
    torch.manual_seed(0)
    model, (x, _) = Last(nn.GRU).eval(), batch(4, 5)
    with exporting():
        once = exported(model, (x,), dynamic_shapes=({0: Dim.AUTO, 1: Dim.AUTO},)).module()
        again = exported(once, (x,), dynamic_shapes=({0: Dim.AUTO, 1: Dim.AUTO},)).module()
    longer, _ = batch(3, 8)
    torch.testing.assert_close(again(longer), model(longer))
    assert "aten.gru.input" in once.code  # what stood in it for the time of the look is gone


def test_torchs_functions_are_back_after_a_failure() -> None:
    functions = vars(rnn)["_VF"]
    with exporting(), pytest.raises(RuntimeError, match="size"):
        exported(Last(nn.GRU), (torch.zeros(2, 5, 7),))
    assert vars(rnn)["_VF"] is functions


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize(("is_sorted", "use"), [(True, "state"), (False, "mean"), (False, "mask")])
def test_packed_sequences_are_followed_in_any_order_and_for_any_lengths(
    cell: Callable[..., nn.Module], is_sorted: bool, use: str
) -> None:
    torch.manual_seed(0)
    model = Packed(cell, is_sorted=is_sorted, use=use).eval()
    x, lengths, y = torch.randn(4, 5, 3), torch.tensor([5, 5, 3, 1]), torch.randint(2, (4,))
    free = frozenset({(0, 1)})
    twin = Twin.of(trace(model, ({"x": x, "lengths": lengths}, y), F.cross_entropy, free=free))
    assert twin.is_batch_dynamic
    assert not twin.is_coupled
    twin = Twin.from_bytes(twin.to_bytes())
    x, lengths, y = torch.randn(5, 8, 3), torch.tensor([7, 6, 6, 2, 1]), torch.randint(2, (5,))
    backwards = ({"x": x.flip(0), "lengths": lengths.flip(0)}, y.flip(0))
    with torch.no_grad():
        wanted = F.cross_entropy(model(x, lengths), y)
        for batch_of in (({"x": x, "lengths": lengths}, y), backwards):
            torch.testing.assert_close(twin.loss(dict(model.named_parameters()), batch_of)[0], wanted)


def test_another_thread_computes_as_ever_meanwhile() -> None:
    model, (x, _) = Last(nn.LSTM), batch(4, 5)
    with recurrent_as_one(model), ThreadPoolExecutor(1) as thread, torch.no_grad():
        found = thread.submit(model, x).result()
        made = thread.submit(nn.GRU, 3, 4).result()
    torch.testing.assert_close(found, model(x).detach())
    assert made.hidden_size == 4
