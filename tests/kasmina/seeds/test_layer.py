"""The one formula: what is passed on, who gets a gradient, and what a seed that is no number does."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.seeds.isolation import all_modules
from esper.kasmina.seeds.layer import Grown, KasminaLayer, primary, ramp, replaced


def grafted(seed: nn.Module | None = None) -> tuple[KasminaLayer, Tensor]:
    torch.manual_seed(0)
    return KasminaLayer(nn.Linear(3, 3), seed or nn.Linear(3, 3), torch.device("cpu")), torch.randn(4, 3)


def gradients(layer: KasminaLayer, x: Tensor) -> tuple[Tensor, Tensor | None]:
    layer.zero_grad()
    layer(x).square().sum().backward()
    host, seed = (next(module.parameters()).grad for module in (layer.host, layer.seed))
    assert host is not None
    return host.clone(), None if seed is None else seed.clone()


def test_the_share_is_added_to_what_the_host_makes() -> None:
    layer, x = grafted()
    layer.alpha.fill_(0.25)
    h = layer.host(x)
    assert torch.allclose(layer(x), h + 0.25 * layer.seed(h))


def test_a_seed_gives_the_host_no_gradient_through_its_input() -> None:
    layer, x = grafted()
    layer.alpha.fill_(1.0)
    layer.zero_grad()
    h = layer.host(x)
    wanted = torch.autograd.grad(((h + layer.seed(h).detach()) ** 2).sum(), next(layer.host.parameters()))[0]
    host, seed = gradients(layer, x)
    assert torch.allclose(host, wanted)
    assert seed is not None
    assert seed.any()


def test_opening_the_gate_changes_gradients_in_proportion_and_no_output() -> None:
    layer, x = grafted()
    layer.alpha.fill_(1.0)
    closed, _ = gradients(layer, x)
    layer.is_joined = True
    outputs, hosts = [], []
    for gamma in (0.0, 0.5, 1.0):
        layer.gamma.fill_(gamma)
        outputs.append(layer(x))
        hosts.append(gradients(layer, x)[0])
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert torch.equal(hosts[0], closed)
    assert torch.allclose(hosts[1], (hosts[0] + hosts[2]) / 2)
    grown = Grown(layer.host, layer.seed)
    assert torch.allclose(grown(x), outputs[0])
    layer.zero_grad()
    grown(x).square().sum().backward()
    wanted = next(layer.host.parameters()).grad
    assert wanted is not None
    assert torch.allclose(hosts[2], wanted)


def test_straight_through_a_seed_learns_from_the_gradient_of_a_host_that_it_does_not_touch() -> None:
    layer, x = grafted()
    layer.beta.fill_(1.0)
    layer.number = 5
    plain = layer.host(x)
    assert torch.equal(layer(x), plain)
    host, seed = gradients(layer, x)
    layer.zero_grad()
    layer.host(x).square().sum().backward()
    assert torch.equal(host, next(layer.host.parameters()).grad)  # type: ignore[arg-type]
    assert seed is not None
    assert seed.any()


class Infinite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight * torch.inf


@pytest.mark.parametrize("number", [None, 3], ids=["blended", "straight"])
def test_a_seed_that_makes_no_number_is_left_out_and_counted(number: int | None) -> None:
    layer, x = grafted(Infinite())
    layer.alpha.fill_(1.0)
    layer.number = number
    assert torch.equal(layer(x), layer.host(x))
    host, _ = gradients(layer, x)
    assert host.isfinite().all()
    assert int(layer.faults) == 2


def test_a_paused_seed_passes_on_the_very_tensor_and_a_hidden_one_does_in_training() -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    layer, x = KasminaLayer(Same(), nn.Linear(3, 3), torch.device("cpu")), torch.randn(2, 3)
    layer.alpha.fill_(1.0)
    layer.is_hidden = True
    assert layer(x) is x
    layer.eval()
    assert not torch.equal(layer(x), x)
    layer.is_paused = True
    assert layer(x) is x


def test_a_place_has_what_its_host_has() -> None:
    layer, _ = grafted()
    assert layer.in_features == 3
    with pytest.raises(AttributeError, match="bias_of_nobody"):
        _ = layer.bias_of_nobody


def test_the_first_of_several_outputs_is_grown() -> None:
    h, rest = torch.ones(2), object()
    assert primary((h, rest)) is h
    assert replaced((h, rest), h + 1)[1] is rest
    pair = torch.max(torch.ones(2, 2), 1)  # a tuple with names
    assert type(replaced(pair, h)) is type(pair)
    with pytest.raises(TypeError, match="needs a tensor of floats"):
        primary({"a": h})


@pytest.mark.parametrize("shape", ["cosine", "sigmoid"])
def test_ramps_start_at_zero_end_at_one_and_never_fall(shape: str) -> None:
    values = [ramp(k / 20, shape) for k in range(21)]  # type: ignore[arg-type]
    assert (values[0], values[-1]) == (0.0, 1.0)
    assert values[10] == pytest.approx(0.5)
    assert values == sorted(values)


def test_a_seed_that_is_no_part_of_the_network_stands_in_no_list_of_it() -> None:
    inner, seed = nn.Linear(4, 4), nn.Linear(4, 4)
    host = nn.Sequential(inner, nn.BatchNorm1d(4))
    model = nn.Sequential(nn.Linear(4, 4), host, nn.Linear(4, 2))
    plain, modules = model.state_dict(), [name for name, _ in model.named_modules()]
    values = {name: tensor.clone() for name, tensor in plain.items()}
    layer = KasminaLayer(host, seed, torch.device("cpu"))
    weight = seed.weight.detach().clone()
    model[1] = layer
    assert list(model.state_dict()) == list(plain)
    assert [name for name, _ in model.named_modules()] == modules
    assert {name for name, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()} == {*plain}
    assert layer.seed in all_modules(model)
    with torch.no_grad():
        inner.weight.zero_()
        layer.alpha.fill_(0.25)
    model.load_state_dict(values)
    assert torch.equal(inner.weight, values["1.0.weight"])
    assert (float(layer.alpha), torch.equal(seed.weight, weight)) == (0.25, True)
    with pytest.raises(RuntimeError, match=r"1\.host\.0\.weight"):
        model.load_state_dict({name: value for name, value in values.items() if name != "1.0.weight"})
    with pytest.raises(RuntimeError, match=r"odd"):
        model.load_state_dict({**values, "1.odd": torch.zeros(1)})
    layer.is_joined = True  # it is the host's by now: optimizers and clipping see it
    assert "1.seed.weight" in dict(model.named_parameters())
    assert list(model.state_dict()) == list(plain)


def test_what_is_no_number_before_the_seed_sees_it_is_no_fault_of_the_seed() -> None:
    layer, x = grafted()
    layer.alpha.fill_(1.0)
    x[0, 0] = torch.nan
    layer(x)
    assert int(layer.faults) == 0


class Failing(nn.Module):
    """Raises, or makes something else, in training."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.weight = how, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> object:
        if self.training and self.how == "raises":
            raise ValueError("no way")
        if self.training:
            return x[:1] if self.how == "shape" else None
        return x * self.weight


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raises", "ValueError: no way"),
        ("shape", r"of \[4, 3\] it made \[1, 3\]"),
        ("nothing", "it made NoneType"),
    ],
)
def test_a_seed_that_fails_is_left_out_and_where_it_is_joined_it_raises(how: str, words: str) -> None:
    layer, x = grafted(Failing(how))
    layer.alpha.fill_(1.0)
    assert torch.equal(layer(x), layer.host(x))
    assert re.search(words, layer.problem)
    assert int(layer.faults) == 1
    if how == "raises":
        layer.is_joined = True
        with pytest.raises(ValueError, match="no way"):
            layer(x)
