"""A step that computes activations again is the step that keeps them, to the last bit, with less kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from esper.errors import ConfigError
from esper.kasmina.seeds import Growth
from esper.tolaria import Recomputed

WIDTH = 6


class Block(nn.Module):
    """Draws, and changes buffers that its output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.norm = nn.Linear(WIDTH, 4 * WIDTH), nn.BatchNorm1d(4 * WIDTH)
        self.drop, self.narrow = nn.Dropout(0.3), spectral_norm(nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        answer: Tensor = x + scale * self.narrow(self.drop(torch.relu(self.norm(self.wide(x)))))
        return answer


class Listed(nn.Module):
    """Goes through a list of blocks in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(3)), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks):
            x = block(x, scale=1 / (number + 1))
        answer: Tensor = self.head(x)
        return answer


def rowed() -> nn.Sequential:
    return nn.Sequential(nn.Sequential(Block(), Block()), *(Block() for _ in range(3)), nn.Linear(WIDTH, 3))


def in_place() -> nn.Sequential:
    """One activation stands in two places, and others change what they get."""
    tanh, modules = nn.Tanh(), list[nn.Module]()
    for _ in range(5):
        modules += [nn.Linear(WIDTH, WIDTH), nn.Dropout(0.2, inplace=True), nn.ELU(inplace=True), tanh]
    return nn.Sequential(*modules)


def step(network: nn.Module, number: int, recomputed: Recomputed | None) -> list[Tensor]:
    """One step, and all that it leaves."""
    x = torch.randn(10, WIDTH, generator=torch.Generator().manual_seed(number))
    torch.manual_seed(number)
    network.zero_grad()
    if recomputed is None:
        output = network(x)
    else:
        with recomputed:
            output = network(x)
    output.square().sum().backward()
    for parameter in network.parameters():
        if parameter.grad is not None:
            parameter.data -= 0.01 * parameter.grad
    return [torch.get_rng_state(), *network.parameters(), *network.buffers()]


@pytest.mark.parametrize("make", [rowed, Listed, in_place])
def test_steps_are_the_same_to_the_last_bit(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    plain = make()
    other = copy.deepcopy(plain)
    recomputed = Recomputed(other)
    for number in range(3):
        expected, left = step(plain, number, None), step(other, number, recomputed)
        assert all(torch.equal(a, b) for a, b in zip(expected, left, strict=True))
    assert list(other.state_dict()) == list(plain.state_dict())
    assert not any("forward" in vars(module) for module in other.modules())


def taught(network: nn.Module, context: AbstractContextManager[None]) -> list[Tensor]:
    """A few steps with a seed that stands in the network from the first one on, and all that they leave."""
    x = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(0))
    y, optimizer = torch.arange(8) % 3, torch.optim.SGD(network.parameters(), 0.01)
    settings = {"training": "straight_through"}
    growth = Growth(network, optimizer, loss=nn.CrossEntropyLoss(), probe=[(x, y)], settings=settings)
    growth.germinate("1", "mlp")
    torch.manual_seed(1)
    for _ in range(3):
        optimizer.zero_grad()
        with context:
            output = network(x)
        growth.loss(output, y, x).backward()
        optimizer.step()
    assert type(network.get_submodule("1")).__name__ == "KasminaLayer"
    learned = network.get_submodule("1.seed").parameters()
    return [torch.get_rng_state(), *learned, *network.parameters(), *network.buffers()]


def test_a_seed_in_a_segment_learns_as_ever() -> None:
    torch.manual_seed(0)
    plain = rowed()
    other = copy.deepcopy(plain)
    pairs = zip(taught(plain, nullcontext()), taught(other, Recomputed(other)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def kept_bytes(network: nn.Module, recomputed: Recomputed | None) -> int:
    """What autograd keeps from the forward pass for the backward pass, weights aside."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = 0 if storage.data_ptr() in own else storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(network, 0, recomputed)
    return sum(held.values())


def test_only_what_goes_between_segments_is_kept() -> None:
    network = nn.Sequential(
        *(nn.Sequential(nn.Linear(WIDTH, 60), nn.ReLU(), nn.Linear(60, WIDTH)) for _ in range(8))
    )
    assert kept_bytes(network, Recomputed(network, 4)) < 0.5 * kept_bytes(network, None)


def test_a_row_around_nearly_everything_is_no_row() -> None:
    network = nn.Sequential(nn.Linear(WIDTH, WIDTH), Listed())
    assert kept_bytes(network, Recomputed(network, 4)) < 0.7 * kept_bytes(network, None)


def test_what_has_no_blocks_or_hides_them_is_refused() -> None:
    with pytest.raises(ConfigError, match="Bilinear has no two blocks in a row"):
        Recomputed(nn.Bilinear(2, 2, 2))
    with pytest.raises(ConfigError, match="ModuleList of modules with parts"):
        Recomputed(nn.ModuleDict({"heads": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])}))
    with pytest.raises(ConfigError, match="expected 2 or more"):
        Recomputed(rowed(), 1)
    with pytest.raises(ConfigError, match="DataParallel copies Sequential"):
        Recomputed(nn.DataParallel(rowed()))
    network = Listed()
    network.blocks[1].compile(backend="eager")
    with pytest.raises(ConfigError, match="Block is compiled"):
        Recomputed(network)


def test_an_error_in_the_forward_pass_leaves_the_network_as_it_was() -> None:
    network = rowed()
    recomputed = Recomputed(network)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), recomputed:
        network(torch.zeros(2, WIDTH + 1))
    assert "forward" not in vars(network)
    with recomputed, torch.no_grad():
        assert not network.eval()(torch.zeros(2, WIDTH)).requires_grad
