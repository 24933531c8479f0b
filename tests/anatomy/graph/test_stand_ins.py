"""Parts of torch that look at values can be followed, and are as they were afterwards."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_impls import op_implementations_dict
from torch.distributions import Distribution, Normal
from torch.nn import functional as F
from torch.nn.modules import transformer

from esper.anatomy.graph import trace
from esper.anatomy.graph.stand_ins import standing_in
from esper.anatomy.twin import Twin

STEPS = 6
CAUSAL = nn.Transformer.generate_square_subsequent_mask(STEPS)


class Reader(nn.Module):
    """A language model as the tutorial of torch has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.embed(x), mask=CAUSAL)  # type: ignore[no-any-return]


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 16)
        self.layers = nn.Transformer(16, 2, 1, 1, 24, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.embed(x)
        return self.layers(seen, seen, tgt_mask=CAUSAL)  # type: ignore[no-any-return]


class Listener(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).log_softmax(-1).transpose(0, 1)  # type: ignore[no-any-return]


def heard(output: Tensor, target: Tensor) -> Tensor:
    lengths = torch.full((target.shape[0],), output.shape[0]), torch.full((target.shape[0],), 2)
    return F.ctc_loss(output, target, *lengths)


def read(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output, target)


class Guessing(nn.Module):
    """Gives mean and spread of what it expects."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


def surprised(output: Tensor, target: Tensor) -> Tensor:
    expected = Normal(output[..., 0], output[..., 1].exp())
    seen: Tensor = expected.log_prob(target[:, :1].float())
    return -seen.mean()


WORDS, NUMBERS = torch.randint(9, (2, STEPS)), torch.randn(2, STEPS, 16)
SOUNDS, SAID = torch.randn(2, STEPS, 5), torch.randint(1, 7, (2, 2))


@pytest.mark.parametrize(
    ("make", "x", "y", "loss"),
    [
        (Reader, WORDS, NUMBERS, read),
        (Translator, WORDS, NUMBERS, read),
        (Listener, SOUNDS, SAID, heard),
        (Guessing, SOUNDS, SAID, surprised),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_looks_at_values_is_followed_and_computes_the_same_loss_and_slopes(
    make: Callable[[], nn.Module], x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    twin = Twin.from_bytes(Twin.of(trace(model, (x, y), loss)).to_bytes())
    mine, _ = twin.loss(dict(model.named_parameters()), (x, y))
    weights = list(model.parameters())
    slopes = torch.autograd.grad(mine, weights, allow_unused=True)
    own = torch.autograd.grad(loss(model(x), y), weights, allow_unused=True)
    assert float(mine.detach()) == pytest.approx(float(loss(model(x), y).detach()), rel=1e-5)
    for one, other in zip(slopes, own, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert torch.allclose(one, other, atol=1e-5)


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distributions look at their values, which the first `torch.compile` of a process ends for good."""
    monkeypatch.setattr(Distribution, "_validate_args", True)


@pytest.mark.usefixtures("validated")
def test_torch_is_afterwards_as_it_was() -> None:
    look, known = vars(transformer)["_detect_is_causal_mask"], dict(op_implementations_dict)
    trace(Listener(), (SOUNDS, SAID), heard)
    assert vars(transformer)["_detect_is_causal_mask"] is look
    assert dict(op_implementations_dict) == known
    with pytest.raises(ValueError, match="constraint"):  # distributions look again
        Normal(torch.zeros(1), -torch.ones(1))


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.view(len(x), -1))  # type: ignore[no-any-return]


def test_the_length_of_a_tensor_stays_open() -> None:
    torch.manual_seed(0)
    model, plain = Flat(), len
    x, y = torch.randn(7, 5, 2), torch.randint(4, (7,))
    twin = Twin.of(trace(model, (x[:3], y[:3]), F.cross_entropy))
    assert len is plain
    assert twin.is_batch_dynamic
    loss, _ = twin.loss(dict(model.named_parameters()), (x, y))
    assert float(loss.detach()) == pytest.approx(float(F.cross_entropy(model(x), y).detach()))


@pytest.mark.usefixtures("validated")
def test_distributions_of_another_thread_look_as_ever() -> None:
    def wrong() -> None:
        Normal(torch.zeros(1), -torch.ones(1))

    with standing_in(), ThreadPoolExecutor(1) as thread:
        wrong()
        with pytest.raises(ValueError, match="constraint"):
            thread.submit(wrong).result()
