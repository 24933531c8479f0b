"""Tracing leaves the network alone, and says what it cannot follow."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.graph import trace, undisturbed
from esper.anatomy.twin import Twin
from esper.anatomy.units import inspect
from esper.batches import varying_axes
from esper.errors import ConfigError, UntraceableError
from tests.anatomy.networks.attention import Decoder, Encoder
from tests.anatomy.networks.convolution import ResNet


def test_tracing_leaves_mode_buffers_gradients_and_random_state_as_they_were() -> None:
    model, x = ResNet().train(), torch.randn(2, 3, 16, 16)
    model.blocks[1].eval()
    model(x).sum().backward()
    modes = [module.training for module in model.modules()]
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    random_state = torch.get_rng_state()

    inspect(model, x)

    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)  # type: ignore[arg-type]  # not None here
    assert torch.equal(torch.get_rng_state(), random_state)


class Tossing(nn.Module):
    """Tosses coins of Python's and of NumPy's, as decoders do that are sometimes told the word before."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.tails = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(8):
            is_head = random.random() < 0.5 if np.random.rand() < 0.5 else random.random() < 0.1  # noqa: NPY002
            x = self.heads(x) if is_head else self.tails(x)
        return x


def test_looks_draw_what_python_and_numpy_draw_next_and_leave_it_to_be_drawn() -> None:
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    model, x = Tossing(), torch.randn(2, 4)
    with undisturbed(model):
        first = model(x)
    with undisturbed(model):
        second = model(x)
    torch.testing.assert_close(second, first)
    torch.testing.assert_close(trace(model, x).program.module()((x,), {}, None), first)
    torch.testing.assert_close(model(x), first)


class Merging(nn.Linear):
    """Adds what it has learned to its weight for eval mode, as LoRA layers do."""

    is_merged = False

    def train(self, mode: bool = True) -> Merging:
        if self.is_merged is mode:
            self.weight.data += -1.0 if mode else 1.0
            self.is_merged = not mode
        return super().train(mode)


@pytest.mark.parametrize("training", [True, False])
def test_modules_that_do_more_than_set_a_flag_are_put_back_by_their_own_code(training: bool) -> None:
    first, last = Merging(4, 4), Merging(4, 4).eval()
    model = nn.Sequential(first, nn.ReLU(), last)
    first.train(training)
    before = first.weight.clone(), last.weight.clone()
    trace(model, torch.randn(2, 4))
    assert (first.is_merged, last.is_merged) == (not training, True)
    torch.testing.assert_close((first.weight.detach(), last.weight.detach()), before)


class Counting(nn.Module):
    """Changes a buffer whenever it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.get_buffer("calls").add_(1)
        out: Tensor = self.linear(x)
        return out


def test_a_buffer_that_forward_changes_is_restored() -> None:
    model = Counting()
    trace(model, torch.randn(2, 4))
    assert model.get_buffer("calls") == 0


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the line that the message must name
            x = -x
        out: Tensor = self.linear(x)
        return out


def test_a_network_that_cannot_be_followed_is_refused_with_the_line() -> None:
    with pytest.raises(
        UntraceableError, match=r"Branching\.forward \(line \d+ of .*test_trace\.py\)"
    ) as caught:
        trace(Branching(), torch.randn(2, 4))
    assert "torch.where" in str(caught.value)
    assert caught.value.__cause__ is not None
    line = int(str(caught.value).split("(line ")[1].split(" ")[0])
    assert "must name" in Path(__file__).read_text().splitlines()[line - 1]


def test_a_loss_that_returns_a_vector_is_refused() -> None:
    def per_sample(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none")

    with pytest.raises(ConfigError, match=r"shape \(2,\), not a scalar.*reduction='mean'"):
        trace(nn.Linear(4, 3), (torch.randn(2, 4), torch.tensor([0, 1])), per_sample)


def test_a_sample_on_another_device_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"on meta but the network's parameters are on cpu.*\.to\('cpu'\)"):
        trace(nn.Linear(4, 3), torch.randn(2, 4, device="meta"))


def test_a_sample_without_a_tensor_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds no tensor"):
        trace(nn.Linear(4, 3), {"x": 3})


def test_a_sample_without_a_target_is_refused_when_there_is_a_loss() -> None:
    with pytest.raises(ConfigError, match=r"must be \(input, target\)"):
        trace(nn.Linear(4, 3), (torch.randn(2, 4),), F.mse_loss)


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> list[int]:
        return [x.shape[1]]


def test_an_output_without_a_tensor_is_refused_when_there_is_a_loss() -> None:
    def constant(output: Any, target: Tensor) -> Tensor:
        return target.sum()

    with pytest.raises(UntraceableError, match="no floating-point tensor"):
        trace(Nothing(), (torch.randn(2, 4), torch.randn(2)), constant)


def test_the_loss_decides_what_is_an_output() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.main, self.extra = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.trunk(x)
            return self.main(x), x

    def loss(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        return F.cross_entropy(output[0], target)

    sample = torch.randn(2, 4), torch.tensor([0, 1])
    assert [group.name for group in inspect(TwoHeads(), sample, loss).groups] == ["trunk"]
    assert inspect(TwoHeads(), sample[0]).groups == ()


def test_one_sample_is_enough() -> None:
    model = ResNet()
    assert (
        inspect(model, torch.randn(1, 3, 16, 16)).digest == inspect(model, torch.randn(9, 3, 16, 16)).digest
    )


class LearnedPositions(nn.Module):
    """Sequence first, with one position per step: the first axis cannot be shortened."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.encoder = nn.Parameter(torch.randn(7, 1, 32)), Encoder()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.encoder(x + self.positions)
        return out


def test_a_first_axis_that_is_not_a_batch_is_kept() -> None:
    assert len(inspect(LearnedPositions(), torch.randn(7, 2, 32)).groups) == 4


def test_the_second_name_of_a_tied_weight_is_its_first() -> None:
    model = Decoder()
    traced = trace(model, torch.randint(0, 50, (2, 12)))
    assert "tokens.weight" in traced.names.values()
    assert "head.weight" not in traced.names.values()


class Nested(nn.Module):
    """Has a submodule called `model` with names that repeat outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.model = nn.Sequential()
        self.model.add_module("first", nn.Linear(4, 4))
        self.loss = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.loss(self.model(self.first(x).relu()).relu())
        return out


def test_submodules_named_like_parts_of_the_traced_step_are_told_apart() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return (output * self.weight - target).square().mean()

    anatomy = inspect(Nested(), (torch.randn(2, 4), torch.randn(2, 2)), Weighted())
    assert [group.name for group in anatomy.groups] == ["first", "model.first"]
    assert "<loss.weight>" in {tensor.name for tensor in anatomy.tensors}


def test_tensors_that_share_memory_without_being_one_are_left_whole() -> None:
    model = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2)
    )
    model[4].weight = nn.Parameter(model.get_parameter("2.weight").data)
    anatomy = inspect(model, torch.randn(2, 4))
    assert anatomy.groups == ()
    assert any("shares memory" in axis.reason for axis in anatomy.frozen)


class Rows(nn.Module):
    """Asks for the number of its samples, which may be any."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.out = nn.Embedding(9, 8), nn.Linear(8, 16), nn.Linear(16, 9)

    def forward(self, text: Tensor) -> Tensor:
        rows, length = text.shape
        x = F.relu(self.inner(self.words(text))).view(rows, length, 4, -1).flatten(2)
        result: Tensor = self.out(x)
        return result


def test_a_window_of_a_longer_tensor_is_traced_like_a_copy_of_it() -> None:
    text = torch.arange(28).reshape(4, 7) % 9
    assert inspect(Rows(), text[:, :-1]).digest == inspect(Rows(), text[:, :-1].contiguous()).digest


class Remembering(nn.Module):
    """Keeps the state of its last call in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.state = self.layer(x)
        self.mean = self.state.mean()
        return self.state * 2


def test_a_look_leaves_no_state_behind() -> None:
    model = Remembering()
    with undisturbed(model):
        model(torch.randn(2, 4))
    assert model.state is None
    assert "mean" not in vars(model)
    copy.deepcopy(model)


class Episodes(nn.Module):
    """Ten classes of which each has as many examples, and as many samples to tell which class they are of."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 4)

    def forward(self, examples: Tensor, x: Tensor) -> Tensor:
        means = self.embed(examples).view(10, -1, 4).mean(1)
        return -torch.cdist(self.embed(x), means)


def test_code_that_fails_on_two_samples_takes_the_number_of_the_sample_alone() -> None:
    sample = torch.randn(30, 5), torch.randn(30, 5), torch.randint(10, (30,))
    traced = trace(Episodes(), sample, F.cross_entropy)
    assert (traced.batch, traced.is_batch_dynamic) == (30, False)


class Centers(nn.Module):
    """Distances to four centers, which torch computes in another way for more than 25 samples."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.centers = nn.Linear(5, 6), nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.embed(x), self.centers)


@pytest.mark.parametrize("count", [8, 40])
def test_a_graph_that_is_right_for_few_samples_alone_does_not_take_any_number(count: int) -> None:
    sample = torch.randn(count, 5), torch.randint(4, (count,))
    twin = Twin.of(trace(Centers(), sample, F.cross_entropy))
    assert not twin.is_batch_dynamic
    assert twin.takes((sample[0][: twin.batch], sample[1][: twin.batch]))


class OfTexts(nn.Module):
    def __init__(self, *, is_fixed: bool) -> None:
        super().__init__()
        self.embed, self.head, self.is_fixed = nn.Embedding(9, 6), nn.Linear(6, 3), is_fixed

    def forward(self, x: Tensor) -> Tensor:
        seen = self.embed(x)
        out: Tensor = self.head(seen.view(x.shape[0], 7, 6).mean(1) if self.is_fixed else seen.mean(1))
        return out


@pytest.mark.parametrize("is_fixed", [False, True])
def test_axes_that_vary_from_batch_to_batch_take_any_size_where_the_code_does(is_fixed: bool) -> None:
    batches = [(torch.randint(9, (4, length)), torch.randint(3, (4,))) for length in (7, 5, 11)]
    model = OfTexts(is_fixed=is_fixed).eval()
    free = varying_axes(batches[0], batches[1:], model)
    assert free == {(0, 1)}
    twin = Twin.from_bytes(Twin.of(trace(model, batches[0], F.cross_entropy, free=free)).to_bytes())
    assert twin.is_batch_dynamic
    assert not twin.is_coupled
    assert [twin.takes(batch) for batch in batches] == [True, not is_fixed, not is_fixed]
    for x, y in batches[: 1 if is_fixed else 3]:
        loss, _ = twin.loss(dict(model.named_parameters()), (x, y))
        assert float(loss.detach()) == pytest.approx(float(F.cross_entropy(model(x), y).detach()))
