"""Large weights in a proof: they are not widened as a whole, and what is wrong with them is seen anyway."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.anatomy.cut import cut
from esper.anatomy.proof import Inputs, Live, Mode
from esper.anatomy.proof.observe import Observation
from esper.anatomy.proof.pieces import InPieces, large_in
from esper.anatomy.units import inspect
from esper.errors import NotEquivalentError
from tests.anatomy.cutting import half


class Wide(nn.Module):
    """A convolution and a linear layer whose weights are large, and one that its code uses in its own way."""

    def __init__(self, *, is_detached: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.wide = nn.Conv2d(3, 1024, 3), nn.Linear(1024, 4100)
        self.other, self.last = nn.Linear(4100, 1024), nn.Linear(1024, 2)
        self.is_detached = is_detached

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.wide(torch.relu(self.conv(x)).mean((2, 3))))
        if self.is_detached and y.shape[-1] < 4100:
            y = 2 * y - y.detach()
        out: Tensor = self.last(torch.relu(y @ self.other.weight.T + self.other.bias))
        return out


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    torch.manual_seed(1)
    return Inputs((torch.randn(2, 3, 4, 4),))


LARGE = frozenset({"wide.weight", "other.weight"})


def seen(inputs: Inputs, large: frozenset[str]) -> Observation:
    return Live(Wide(), inputs, large=large).see(Mode(torch.float64))


def test_outputs_and_other_gradients_are_those_of_the_whole_weights(inputs: Inputs) -> None:
    whole, pieces = seen(inputs, frozenset()), seen(inputs, LARGE)
    torch.testing.assert_close(pieces.outputs, whole.outputs, rtol=1e-12, atol=1e-14)
    assert whole.gradients is not None
    assert pieces.gradients is not None
    for name in whole.gradients.keys() - {"wide.weight"}:
        torch.testing.assert_close(pieces.gradients[name], whole.gradients[name], rtol=1e-11, atol=1e-14)


def test_the_factors_are_those_of_the_gradient(inputs: Inputs) -> None:
    whole, pieces = seen(inputs, frozenset()), seen(inputs, LARGE)
    assert whole.gradients is not None
    assert pieces.gradients is not None
    assert {place[0] for place in pieces.places.values()} == {"wide.weight"}
    factors = {place[1]: pieces.gradients[key] for key, place in pieces.places.items()}
    torch.testing.assert_close(
        factors[0].T @ factors[1], whole.gradients["wide.weight"], rtol=1e-11, atol=1e-14
    )


def test_a_network_with_large_weights_is_cut_and_proven(inputs: Inputs) -> None:
    model = Wide()
    anatomy = inspect(model, inputs.args[0])
    assert large_in(anatomy) == LARGE
    found = cut(model, anatomy, half(anatomy), inputs).equivalence
    assert found.float64_error is not None
    assert found.float64_error <= 1e-12
    assert found.gradient_error is not None
    assert found.gradient_error <= 1e-9


def test_a_gradient_of_a_large_weight_that_differs_is_seen(inputs: Inputs) -> None:
    model = Wide(is_detached=True)
    anatomy = inspect(model, inputs.args[0])
    keep = np.ones(anatomy.num_units, np.bool_)
    number = next(n for n, group in enumerate(anatomy.groups) if group.width == 4100)
    keep[anatomy.offsets[number]] = False
    with pytest.raises(NotEquivalentError, match="float64 gradients"):
        cut(model, anatomy, keep, inputs)


def test_a_stand_in_that_is_used_unseen_is_no_number() -> None:
    mode = InPieces({"w": torch.ones(3, 2)}, None, 1.0)
    assert bool((mode.stand_ins["w"] * 1).isnan().all())
    with mode:
        assert mode.stand_ins["w"].shape == (3, 2)
        assert (mode.stand_ins["w"].T * 2 == 2).all()
