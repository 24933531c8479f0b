from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from esper.anatomy.units import masked_axes, zero_masked
from esper.batches import HeldOut
from esper.kasmina import LiveNetwork
from esper.kasmina.preview import Preview, measured, recalibrated
from esper.urabrask import Settings, on_validation


def separable(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images whose class is the brighter half."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 2, (count,), generator=generator)
    images = torch.randn(count, 1, 4, 8, generator=generator)
    images[:, :, :, :4] += 2.0 * (1 - target).float()[:, None, None, None]
    images[:, :, :, 4:] += 2.0 * target.float()[:, None, None, None]
    return images, target


@pytest.fixture(scope="module")
def network() -> LiveNetwork:
    """A small convolutional network that has learned its task."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 32, 2)
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for seed in range(30):
        images, target = separable(64, seed)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), target).backward()
        optimizer.step()
    return LiveNetwork(model, optimizer, separable(16, 99), nn.functional.cross_entropy)


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    calibration = tuple(separable(16, 100 + n) for n in range(4))
    return HeldOut(calibration, tuple(separable(16, 200 + n) for n in range(8)))


def without(network: LiveNetwork, *units: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    keep = np.ones(network.anatomy.num_units, np.bool_)
    keep[list(units)] = False
    return keep


def test_a_preview_changes_nothing(network: LiveNetwork, held_out: HeldOut) -> None:
    network.model.train()
    before = {name: value.clone() for name, value in network.model.state_dict().items()}
    momenta = [m.momentum for m in network.model.modules() if isinstance(m, nn.BatchNorm2d)]
    random_state = torch.get_rng_state()
    Preview(network, held_out, reconstruct=True).under(without(network, 0, 1, 2))
    assert all(torch.equal(value, before[name]) for name, value in network.model.state_dict().items())
    assert all(module.training for module in network.model.modules())
    assert [m.momentum for m in network.model.modules() if isinstance(m, nn.BatchNorm2d)] == momenta
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(p.grad is not None for p in network.model.parameters())


def test_the_statistics_are_those_of_the_masked_network(network: LiveNetwork, held_out: HeldOut) -> None:
    keep = without(network, 3, 5)
    found = Preview(network, held_out).under(keep).statistics
    masked = {name: p.detach().clone() for name, p in network.model.named_parameters()}
    zero_masked(masked, masked_axes(network.anatomy, keep))
    images = torch.cat([batch[0] for batch in held_out.calibration])
    seen = torch.nn.functional.conv2d(images, masked["0.weight"], masked["0.bias"], padding=1)
    torch.testing.assert_close(found["1.running_mean"], seen.mean((0, 2, 3)))
    torch.testing.assert_close(found["1.running_var"], seen.var((0, 2, 3)))
    assert found["1.running_mean"][3] == 0


def test_a_mask_that_costs_nothing_is_confirmed_and_one_that_ruins_the_network_is_not(
    network: LiveNetwork, held_out: HeldOut
) -> None:
    preview = Preview(network, held_out)
    assert preview.confirm(without(network), Settings()) == ""
    assert preview.before.correctness is not None
    assert (accuracy := preview.before.correctness.mean()) > 0.9
    ruin = without(network, *range(16))
    assert "correctness" in preview.confirm(ruin, Settings())
    after = preview.under(ruin).after.correctness
    assert after is not None
    assert after.mean() < accuracy


def test_what_is_asked_of_one_preview_is_what_previews_of_their_own_say(
    network: LiveNetwork, held_out: HeldOut
) -> None:
    shared = Preview(network, held_out, reconstruct=True)
    for keep in (without(network, 0, 1, 2, 3), without(network, 0, 1), without(network, 5, 6)):
        alone = Preview(network, held_out, reconstruct=True).under(keep)
        assert shared.under(keep) is shared.under(keep)
        assert shared.under(keep).after.loss == alone.after.loss
        assert shared.under(keep).changes.keys() == alone.changes.keys()
        assert all(
            torch.equal(shared.under(keep).changes[name], alone.changes[name]) for name in alone.changes
        )


def test_recalibration_gives_the_live_network_its_own_statistics(
    network: LiveNetwork, held_out: HeldOut
) -> None:
    norm = network.model.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    count = norm.num_batches_tracked
    assert count is not None
    before = count.clone()
    with recalibrated(network, held_out):
        network.set_buffers({"1.running_mean": torch.full((16,), 50.0)})
    images = torch.cat([batch[0] for batch in held_out.calibration])
    seen = network.model.get_submodule("0")(images)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, seen.mean((0, 2, 3)).detach())
    assert torch.equal(count, before)


def test_a_mean_of_the_weights_gets_statistics_of_its_own(network: LiveNetwork, held_out: HeldOut) -> None:
    mean = AveragedModel(network.model)
    with torch.no_grad():
        mean.module.get_parameter("0.bias").add_(3.0)
    seen = LiveNetwork(
        copy.deepcopy(network.model),
        torch.optim.SGD(network.model.parameters()),
        separable(16, 99),
        nn.functional.cross_entropy,
        [mean],
    )
    norm, images = seen.model.get_submodule("1"), torch.cat([batch[0] for batch in held_out.calibration])
    assert isinstance(norm, nn.BatchNorm2d)
    before = norm.state_dict()
    own = {name: value.clone() for name, value in before.items()}
    with recalibrated(seen, held_out, are_known=True):
        pass
    assert all(torch.equal(value, own[name]) for name, value in norm.state_dict().items())
    made = mean.module.get_submodule("0")(images).mean((0, 2, 3)).detach()
    torch.testing.assert_close(mean.module.get_buffer("1.running_mean"), made)
    seen.detach()


def test_a_norm_that_training_leaves_alone_keeps_its_statistics_but_for_what_a_mask_moves(
    network: LiveNetwork, held_out: HeldOut
) -> None:
    assert network.still == frozenset()
    norm = network.model.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    own = torch.full((16,), 50.0)
    network.set_buffers({"1.running_mean": own})
    norm.eval()
    network.note_still()
    assert network.still == {"1.running_mean", "1.running_var"}
    preview = Preview(network, held_out)
    assert torch.equal(preview.under(without(network)).statistics["1.running_mean"], own)
    kept = np.ones(16, np.bool_)
    kept[[3, 5]] = False
    under = preview.under(without(network, 3, 5)).statistics["1.running_mean"]
    assert torch.equal(under[torch.from_numpy(kept)], own[torch.from_numpy(kept)])
    # Taken back, what a change had moved comes back with it.
    with recalibrated(network, held_out):
        network.adjust({"0.bias": torch.ones(16)})
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, own + 1.0)
    assert network.state()["still"] == ["1.running_mean", "1.running_var"]
    norm.train()
    network.note_still()
    assert network.still == frozenset()


def test_fresh_statistics_that_are_worse_are_no_fault_of_a_mask(
    network: LiveNetwork, held_out: HeldOut
) -> None:
    good = network.graph.recalibrated(network.tensors(), held_out.calibration)
    network.set_buffers({name: good[name] for name in ("1.running_mean", "1.running_var")})
    odd = tuple((x * 3.0 + 4.0, y) for x, y in held_out.calibration)  # other than what training sees
    preview = Preview(network, HeldOut(odd, held_out.validation))
    assert preview.standing == {"1.running_mean"}
    own = network.model.get_buffer("1.running_mean")
    under = preview.under(without(network, 3, 5))
    kept = np.ones(16, np.bool_)
    kept[[3, 5]] = False
    assert torch.equal(
        under.statistics["1.running_mean"][torch.from_numpy(kept)], own[torch.from_numpy(kept)]
    )
    assert preview.under(without(network)).after.loss == pytest.approx(preview.before.loss)
    fresh = network.graph.recalibrated(network.tensors(), odd)
    assert under.after.loss < 1e-3 * on_validation(network.graph, fresh, held_out.validation).loss


def test_fresh_statistics_are_no_merit_of_a_mask(network: LiveNetwork, held_out: HeldOut) -> None:
    own = {name: value.clone() for name, value in network.model.named_buffers()}
    as_trained = Preview(network, held_out).before
    try:
        with torch.no_grad():
            network.model.get_buffer("1.running_mean").add_(3.0)  # far behind the weights
        preview = Preview(network, held_out)
        nothing = without(network)
        assert measured(network, held_out).loss > 1.5 * as_trained.loss
        assert preview.before.loss == pytest.approx(preview.under(nothing).after.loss)
    finally:
        network.set_buffers(own)
    assert Preview(network, held_out).before.loss == pytest.approx(as_trained.loss)
