"""Every refusal names what failed, and advises only what helps against that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.graph import trace
from esper.errors import ConfigError, EsperError, UntraceableError

X, Y = torch.randn(8, 8), torch.randint(4, (8,))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.layer(first) + self.layer(second)  # type: ignore[no-any-return]


class Detector(nn.Module):
    """Gives something else in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> object:
        out = self.layer(x)
        return out if self.training else (out.sigmoid(), [out])


class Inside(nn.Module):
    """Computes its loss itself, as the networks of the transformers library do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> dict[str, Tensor | None]:
        logits = self.layer(inputs)
        return {"loss": None if labels is None else F.cross_entropy(logits, labels), "logits": logits}


@dataclass
class Output:
    scores: Tensor


class Then(nn.Module):
    def __init__(self, then: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.then = nn.Linear(8, 4), then

    def forward(self, x: Tensor) -> Any:
        return self.then(self.layer(x))


def loss_inside(output: Mapping[str, Tensor], _: object) -> Tensor:
    return output["loss"]


def refused(model: nn.Module, sample: object, loss: Any = F.cross_entropy) -> EsperError:
    with pytest.raises((ConfigError, UntraceableError)) as caught:
        trace(model, sample, loss)
    return caught.value


def test_a_wrong_number_of_inputs_is_told_how_they_are_passed() -> None:
    for batch in ((X, Y), (X, X, X, Y), ((X, X, X), Y)):
        error = refused(Two(), batch)
        assert isinstance(error, ConfigError)
        assert "cannot be called with that" in str(error)
        assert "in their order" in str(error)
    for fitting in ((X, X, Y), ((X, X), Y)):
        trace(Two(), fitting, F.cross_entropy)


def test_batches_with_more_than_the_loop_uses_are_told_the_form_to_give_them_in() -> None:
    files = ["a.png"] * 8
    assert "`probe=[(x, y) for x, y, *_ in loader]`" in str(refused(nn.Linear(8, 4), (X, Y, files)))
    assert "`((x1, x2), y)`" in str(refused(Two(), (X, X, Y, files)))
    assert "in the form" not in str(refused(Two(), (X, Y)))


def test_an_input_that_forward_does_not_know_is_named() -> None:
    assert "unexpected keyword argument 'mask'" in str(
        refused(Inside(), {"inputs": X, "mask": X, "labels": Y})
    )


def test_a_loss_that_fails_on_what_eval_mode_gives_is_told_what_that_is() -> None:
    error = refused(Detector(), (X, Y))
    assert isinstance(error, ConfigError)
    assert "eval mode" in str(error)
    assert "(float32[8, 4], list of 1)" in str(error)
    assert "control flow" not in str(error)


def test_a_network_that_fails_as_plain_code_is_not_told_about_the_exporter() -> None:
    error = refused(nn.Linear(7, 4), (X, Y))
    assert "fails on the sample" in str(error)
    assert "8x8 and 7x4" in str(error)
    assert "torch.export" not in str(error)


@pytest.mark.parametrize(("loss", "gave"), [(lambda _, __: None, "None"), (lambda _, __: 3.0, "a float")])
def test_a_loss_that_gives_no_tensor_is_refused(loss: Any, gave: str) -> None:
    error = refused(nn.Linear(8, 4), (X, Y), loss)
    assert isinstance(error, ConfigError)
    assert f"The loss gave {gave}" in str(error)
    assert "labels" not in str(error)


def test_a_network_that_computes_its_loss_itself_is_told_how_it_gets_its_labels() -> None:
    batch = {"inputs": X, "labels": Y}
    assert "(batch, batch['labels'])" in str(refused(Inside(), batch, loss_inside))
    assert trace(Inside(), (batch, Y), loss_inside).has_loss


@pytest.mark.parametrize(
    ("model", "batch", "way_out"),
    [
        (nn.Linear(8, 4), {"image": X, "label": Y}, '(batch["image"], batch["label"])'),
        (nn.Linear(8, 4), {"image": X, "digit": Y}, '(batch["image"], batch["digit"])'),
        (nn.Linear(8, 4), ({"image": X}, Y), '(batch["image"], target)'),
        (Two(), {"first": X, "second": X, "label": Y, "id": X},
         '({"first": batch["first"], "second": batch["second"]}, batch["label"])'),
    ],
)  # fmt: skip
def test_a_mapping_of_which_a_network_takes_a_part_is_told_the_form_that_it_gets_it_in(
    model: nn.Module, batch: Any, way_out: str
) -> None:
    told = str(refused(model, batch))
    assert f"here `{way_out}`" in told
    assert "as the data loader yields it" not in told


class Whole(nn.Module):
    """Takes a batch as it comes, and gives its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, batch: Any) -> Tensor:
        x, y = batch.values() if isinstance(batch, Mapping) else batch
        return F.cross_entropy(self.layer(x), y)


def test_a_network_that_takes_the_target_too_is_told_how_it_gets_it() -> None:
    def loss(output: Tensor, _: object) -> Tensor:
        return output

    assert "(batch, batch[-1])" in str(refused(Whole(), (X, Y), loss))
    assert trace(Whole(), ((X, Y), Y), loss).has_loss
    assert "(batch, batch['labels'])" in str(refused(Whole(), {"batch": {"x": X}, "labels": Y}, loss))


@pytest.mark.parametrize(
    ("then", "advice"),
    [
        (lambda y: y if y.sum() > 0 else -y, "torch.where"),
        (lambda y: y[: int(y.abs().sum())], "torch.where"),
        (lambda y: (y, Output(y)), "register_dataclass"),
        (lambda y: torch.from_numpy(y.detach().numpy()), "torch.export.export(model.eval()"),
    ],
    ids=["branch", "slice", "class", "numpy"],
)
def test_what_only_the_exporter_cannot_follow_gets_the_advice_that_fits(then: Any, advice: str) -> None:
    with pytest.raises(UntraceableError, match=r"cannot follow Then\.forward") as caught:
        trace(Then(then), X)
    assert advice in str(caught.value)
    others = {"torch.where", "register_dataclass", "torch.export.export(model.eval()"} - {advice}
    assert not any(other in str(caught.value) for other in others)


class OfSlopes(nn.Module):
    """Gives the derivative of what a network gives, as losses on differential equations need it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        (slope,) = torch.autograd.grad(self.net(x).square().sum(), x, create_graph=True)
        return slope


def test_derivatives_in_a_forward_pass_are_named_with_what_can_be_attached() -> None:
    with pytest.raises(UntraceableError, match=r"attach\(model\.net"):
        trace(OfSlopes(), torch.rand(4, 1))


class Binary(nn.Linear):
    """Computes with the signs of its weights, as binary networks are written."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = self.weight.data.sign()
        return F.linear(x, self.weight, self.bias)


def test_a_forward_pass_that_writes_into_its_weights_is_told_what_to_write_instead() -> None:
    assert "writes into its weights" in str(refused(Binary(8, 4), (X, Y)))


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(8, 4, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.tolist(), batch_first=True)
        return self.layer(packed)[1][0]  # type: ignore[no-any-return]


def test_packed_sequences_whose_lengths_are_numbers_are_told_how_they_can_be_followed() -> None:
    with pytest.raises(UntraceableError, match=r"without `tolist\(\)`"):
        trace(Packed(), (torch.randn(3, 5, 8), torch.tensor([5, 3, 2])))


def test_a_batch_that_is_packed_already_is_refused_with_what_to_give_instead() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.randn(5, 8), torch.randn(3, 8)])
    with pytest.raises(ConfigError, match="the padded batch and its lengths"):
        trace(nn.GRU(8, 4), (packed, torch.zeros(2)), nn.functional.mse_loss)


class Named:
    """A batch of a class of one's own."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


class OfNamed(nn.Module):
    def forward(self, batch: Named) -> Tensor:
        return batch.x.relu()


@pytest.mark.parametrize("sample", [Named(X), (Named(X), Y)])
def test_a_batch_of_a_class_of_ones_own_is_told_what_it_has_to_be(sample: Any) -> None:
    assert "Inputs have to be tensors, or tuples, lists or dictionaries" in str(refused(OfNamed(), sample))


def test_a_sparse_matrix_among_the_inputs_is_told_what_can_be_given_instead() -> None:
    class Neighbors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
            return torch.sparse.mm(adjacency, self.layer(x))  # type: ignore[no-any-return]

    sample = torch.randn(5, 4), torch.eye(5).to_sparse(), torch.randint(3, (5,))
    with pytest.raises(ConfigError, match=r"sparse matrix \(sparse_coo, \(5, 5\)\).*to_dense.*index_add"):
        trace(Neighbors(), sample, F.cross_entropy)


class ByFirstBatch(nn.Module):
    """Takes its scale from the first batch, as ActNorm does."""

    def __init__(self, *, asks_training: bool) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(8, 4), nn.Parameter(torch.ones(4))
        self.register_buffer("initialized", torch.tensor(False))
        self.asks_training = asks_training

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        if (self.training or not self.asks_training) and not self.initialized:
            self.scale.data.copy_(1 / out.std(0))
            self.initialized.fill_(True)  # type: ignore[operator]
        return out * self.scale  # type: ignore[no-any-return]


def test_what_the_first_batch_sets_is_told_to_ask_for_training_and_can_be_followed_then() -> None:
    with pytest.raises(UntraceableError, match=r"`if self.training and not self.initialized:`"):
        trace(ByFirstBatch(asks_training=False), (X, Y), F.cross_entropy)
    model = ByFirstBatch(asks_training=True)
    trace(model, (X, Y), F.cross_entropy)
    assert not model.initialized
