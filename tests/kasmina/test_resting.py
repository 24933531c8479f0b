"""Weights of any network rest in eight bits or on the host, and come back whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._lazy import ts_backend
from torch.nn.utils.parametrizations import weight_norm

from esper.errors import ConfigError
from esper.kasmina.eight_bits import EightBits
from esper.kasmina.resting import Resting


class Tied(nn.Module):
    """Words in and words out by one weight, which a recurrent layer stands between."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.memory = nn.LSTM(8, 8, batch_first=True)
        self.scores = nn.Linear(8, 20, bias=False)
        self.scores.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.memory(self.words(x))[0])
        return scores


IMAGE = nn.Sequential(
    nn.Conv2d(3, 8, 3, groups=1), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2), nn.Flatten()
)
ENCODER = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
NETWORKS = {
    "image": (IMAGE, (2, 3, 6, 6)),
    "attention": (nn.TransformerEncoder(ENCODER, 2, enable_nested_tensor=False), (2, 5, 16)),
    "norm of weights": (nn.Sequential(weight_norm(nn.Linear(16, 8)), nn.ReLU(), nn.Linear(8, 3)), (4, 16)),
    "texts": (Tied(), (3, 7)),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_networks_of_all_kinds_answer_alike_with_a_part_of_the_bytes(name: str) -> None:
    network, shape = NETWORKS[name]
    drawn = torch.Generator().manual_seed(0)
    x = torch.randint(20, shape, generator=drawn) if name == "texts" else torch.randn(shape, generator=drawn)
    expected, names = network.eval()(x), list(network.state_dict())
    matrices = sum(p.nbytes for p in network.parameters() if p.dim() > 1)
    resting = Resting(network, None, int8_weights=True, offload=False)
    resting.lay_down()
    answer = network(x)
    assert (answer - expected).norm() < 0.02 * expected.norm()
    assert list(network.state_dict()) == names
    assert sum(p.nbytes for p in network.parameters() if p.dim() > 1) < 0.5 * matrices
    resting.get_up()
    assert torch.equal(network(x), answer)
    assert not any(isinstance(p, EightBits) for p in network.parameters())


def test_a_weight_that_two_share_is_kept_once() -> None:
    network = Tied()
    learning = nn.Linear(1, 1)
    learning.weight = network.words.weight
    Resting(network, torch.bfloat16, int8_weights=True, offload=False).lay_down()
    assert network.words.weight is network.scores.weight
    assert network.words.weight.dtype == torch.bfloat16
    assert learning.weight.dtype == torch.float32  # who has it too keeps it as it was


def test_the_host_keeps_what_a_device_gets_to_compute_with() -> None:
    ts_backend.init()  # torch's lazy tensors: a device of their own on every machine
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()).eval()
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    for int8_weights in (False, True):
        resting = Resting(network, None, int8_weights=int8_weights, offload=True)
        resting.lay_down()
        expected = network(x)
        with resting.on(torch.device("lazy:0")) as brought, torch.no_grad():
            answer = brought(x.to("lazy"))
        assert answer.device.type == "lazy"
        torch.testing.assert_close(answer.cpu(), expected)
        assert {tensor.device.type for tensor in network.state_dict().values()} == {"cpu"}


def test_nothing_to_bring_is_told_once() -> None:
    network = nn.Linear(3, 2)
    resting = Resting(network, None, int8_weights=False, offload=True)
    with pytest.warns(UserWarning, match="offload has no effect: the teacher's inputs are on cpu"):
        resting.on(torch.device("cpu")).__enter__()
    with resting.on(torch.device("cpu")) as brought:  # a second warning would be an error here
        assert brought is network


def test_options_that_can_do_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="BatchNorm1d has no weight that would take less"):
        Resting(nn.BatchNorm1d(4), None, int8_weights=True, offload=False)
    spread = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with pytest.raises(ConfigError, match="spread over cpu, meta"):
        Resting(spread, None, int8_weights=False, offload=True)
