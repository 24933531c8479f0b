"""The twin computes what the network computes, anywhere, and its gates remove units exactly."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from esper.anatomy.graph import named_tensors, trace
from esper.anatomy.structure import Anatomy
from esper.anatomy.twin.ablation import Ablation
from esper.anatomy.twin.twin import Twin
from esper.anatomy.units import anatomy_of, masked_axes, zero_masked
from esper.arrays import IntArray
from esper.errors import CheckpointCorrupt, EvidenceError
from tests.kasmina.networks import Convolutional, images

ZOO_NAMES = ("plain", "resnet8", "densenet", "gpt", "vit", "encoder", "bert", "llama", "write-into-slice")


def squares(output: Any, target: Any) -> Tensor:
    """A loss for every network."""
    first = next(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.dim())
    return first.square().mean() + first.sin().mean()


def made(
    model: nn.Module, sample: Any, loss: Callable[[Any, Any], Tensor] = squares
) -> tuple[Twin, Anatomy, dict[str, Tensor]]:
    """Twin (loaded from its archive), anatomy and tensors of a network."""
    traced = trace(model, sample, loss)
    state = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    return Twin.from_bytes(Twin.of(traced).to_bytes()), anatomy_of(traced, model), state


def of_convolutional() -> tuple[Twin, Anatomy, dict[str, Tensor], nn.Module]:
    torch.manual_seed(0)
    model = Convolutional()
    model(images(16)[0])  # running statistics that are not the identity
    return *made(model, images(), F.cross_entropy), model.eval()


def by_masking(
    twin: Twin, anatomy: Anatomy, state: dict[str, Tensor], sample: Any, units: IntArray
) -> list[float]:
    """The same losses by brute force: weights set to zero, one unit after the other."""
    losses = []
    for unit in units:
        keep = np.ones(anatomy.num_units, np.bool_)
        keep[unit] = False
        masked = {name: value.clone() for name, value in state.items()}
        zero_masked(masked, masked_axes(anatomy, keep))
        for info in anatomy.tensors:
            masked.update({alias: masked[info.name] for alias in info.aliases if info.name in masked})
        losses.append(float(twin.loss(masked, sample)[0]))
    return losses


def test_the_loss_is_that_of_the_live_network_at_other_batch_sizes_too() -> None:
    twin, _, state, model = of_convolutional()
    for count in (2, 7, 33):
        x, y = images(count, count)
        loss, output = twin.loss(state, (x, y))
        assert torch.equal(output, model(x))
        assert torch.equal(loss, F.cross_entropy(model(x), y))


def test_the_archive_holds_no_weights_no_inputs_and_no_pickle() -> None:
    torch.manual_seed(0)
    model = Convolutional()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(12345.678)
    traced = trace(model, images(), F.cross_entropy)
    data = Twin.of(traced).to_bytes()
    needle = np.float32(12345.678).tobytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            content = archive.read(entry)
            assert needle * 2 not in content, entry.filename
            assert b"tests.kasmina" not in content or entry.filename.endswith("model.json")
            if "/weights/weight" in entry.filename or "sample_inputs" in entry.filename:
                assert content == b"", entry.filename
            assert not content.startswith((b"\x80\x02", b"PK")), entry.filename
    assert all(p.numel() for p in traced.program.state_dict.values())  # the traced one keeps its own


def test_another_process_without_the_class_computes_the_same_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Convolutional().eval()
    x, y = images(9, 5)
    twin, _, state = made(model, images(), F.cross_entropy)
    (tmp_path / "twin.pt2").write_bytes(twin.to_bytes())  # loaded once and saved again
    tensors = {f"state.{name}": value.clone() for name, value in state.items()}
    safetensors.torch.save_file({**tensors, "input": x, "target": y}, tmp_path / "tensors")
    script = Path(__file__).with_name("load_twin.py")
    ran = subprocess.run(
        [sys.executable, script, tmp_path / "twin.pt2", tmp_path / "tensors"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    knows_tests, loss = ran.stdout.split()
    assert knows_tests == "False"
    assert float.fromhex(loss) == pytest.approx(float(F.cross_entropy(model(x), y).detach()), abs=1e-6)


@pytest.mark.parametrize("name", ZOO_NAMES)
@pytest.mark.no_cover
def test_gating_a_unit_equals_masking_its_weights(name: str) -> None:
    if name in {"bert", "llama"}:
        pytest.importorskip("transformers")
    from tests.anatomy.networks import ZOO

    case = ZOO[name]
    model, given = case.network(), case.input()
    sample = {**given, "labels": torch.zeros(2)} if isinstance(given, dict) else (given, torch.zeros(2))
    twin, anatomy, state = made(model, sample)
    batch = pytree.tree_map(lambda t: torch.cat([t, t.flip(-1)])[:3] if isinstance(t, Tensor) else t, sample)
    units = np.random.default_rng(0).choice(anatomy.num_units, min(8, anatomy.num_units), replace=False)
    gated = Ablation(twin, anatomy, units).losses(state, batch)[1]
    masked = by_masking(twin, anatomy, state, batch, units)
    assert gated.tolist() == pytest.approx(masked, rel=2e-5, abs=1e-6)
    base = float(twin.loss(state, batch)[0])
    assert max(abs(loss - base) for loss in masked) > 1e-7


class Einsum(nn.Module):
    """Attention written with einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 12) for _ in range(3))
        self.out = nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (3, 4)) for layer in (self.q, self.k, self.v))
        weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
        mixed: Tensor = self.out(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))
        return mixed


def test_gates_reach_the_operands_of_einsum() -> None:
    torch.manual_seed(0)
    twin, anatomy, state = made(Einsum(), (torch.randn(2, 5, 8), torch.zeros(2)))
    assert anatomy.num_units
    units: IntArray = np.arange(anatomy.num_units)
    batch = (torch.randn(4, 5, 8), torch.zeros(4))
    gated = Ablation(twin, anatomy, units).losses(state, batch)[1]
    assert gated.tolist() == pytest.approx(by_masking(twin, anatomy, state, batch, units), abs=1e-6)


def test_more_units_than_fit_one_forward_are_done_in_chunks() -> None:
    twin, anatomy, state, _ = of_convolutional()
    units: IntArray = np.arange(anatomy.num_units)[::-1].copy()
    batch = images(600, 3)
    gated = Ablation(twin, anatomy, units).losses(state, batch)[1]
    some = units[::9]
    assert gated[::9].tolist() == pytest.approx(by_masking(twin, anatomy, state, batch, some), abs=1e-6)


def test_a_unit_that_is_read_nowhere_is_unmeasured() -> None:
    twin, anatomy, state, _ = of_convolutional()
    group = anatomy.groups[0].name
    span = anatomy.unit_slice(0)
    gates = tuple(g for g in anatomy.gates if not ((g.units >= span.start) & (g.units < span.stop)).any())
    blind = Anatomy(anatomy.tensors, anatomy.groups, anatomy.frozen, anatomy.terms, gates)
    losses = Ablation(twin, blind, np.array([span.start, span.stop])).losses(state, images())[1]
    assert losses.isnan().tolist() == [True, False], group


def test_gates_of_another_network_are_refused() -> None:
    twin, anatomy, state, _ = of_convolutional()
    gates = tuple(type(g)(f"other_{g.node}", g.argument, g.units) for g in anatomy.gates)
    other = Anatomy(anatomy.tensors, anatomy.groups, anatomy.frozen, anatomy.terms, gates)
    with pytest.raises(EvidenceError, match="which this twin does not have"):
        Ablation(twin, other, np.array([0])).losses(state, images())


class Named(nn.Module):
    """Takes its inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.layer(one - 2 * two)))
        return out


def test_inputs_are_found_by_name_whatever_their_order() -> None:
    torch.manual_seed(0)
    model = Named()
    x, y, labels = torch.randn(5, 4), torch.randn(5, 4), torch.randint(0, 3, (5,))
    twin, _, state = made(model, {"one": x, "two": y, "labels": labels}, F.cross_entropy)
    expected = F.cross_entropy(model(x, y), labels)
    for sample in ({"two": y, "labels": labels, "one": x}, {"labels": labels, "one": x, "two": y}):
        assert torch.equal(twin.loss(state, sample)[0], expected)


def test_batches_that_are_built_otherwise_are_refused() -> None:
    twin, _, state, _ = of_convolutional()
    x, y = images()
    with pytest.raises(EvidenceError, match="not built like the sample"):
        twin.loss(state, ((x, x), y))
    with pytest.raises(
        EvidenceError, match=r"\[6, 1, 9, 9\] where the network was traced with \[any, 1, 6, 6\]"
    ):
        twin.loss(state, (F.pad(x, (0, 3, 0, 3)), y))
    with pytest.raises(EvidenceError, match="was traced with"):
        twin.loss(state, (x, None))


def test_a_missing_tensor_is_named() -> None:
    twin, _, state, _ = of_convolutional()
    with pytest.raises(EvidenceError, match=r"no tensor 'head\.bias'"):
        twin.loss({name: value for name, value in state.items() if name != "head.bias"}, images())


class Writes(nn.Module):
    """Writes to its input and to a buffer."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("count", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        x.mul_(2)
        hidden = torch.relu_(self.up(x + self.count))
        skip = x.repeat(1, 2)[:, :3]
        skip += self.down(hidden)
        return skip


def test_networks_that_write_in_place_change_neither_state_nor_sample() -> None:
    torch.manual_seed(0)
    sample = (torch.randn(5, 4), torch.randint(0, 3, (5,)))
    twin, anatomy, state = made(Writes(), sample, F.cross_entropy)
    before = [value.clone() for value in (*state.values(), *sample)]
    first = float(twin.loss(state, sample)[0])
    units: IntArray = np.arange(anatomy.num_units)
    gated = Ablation(twin, anatomy, units).losses(state, sample)[1]
    assert gated.tolist() == pytest.approx(by_masking(twin, anatomy, state, sample, units), abs=1e-6)
    assert float(twin.loss(state, sample)[0]) == first
    assert all(torch.equal(a, b) for a, b in zip(before, (*state.values(), *sample), strict=True))


class OneSize(nn.Module):
    """Works with batches of four samples and with no others."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(torch.relu(self.up(x)).view(4, -1))
        return out


def test_a_network_with_one_batch_size_works_with_it_and_says_so_otherwise() -> None:
    torch.manual_seed(0)
    model = OneSize()
    sample = (torch.randn(4, 4), torch.randint(0, 3, (4,)))
    twin, _, state = made(model, sample, F.cross_entropy)
    assert (twin.is_batch_dynamic, twin.batch) == (False, 4)
    assert torch.equal(twin.loss(state, sample)[0], F.cross_entropy(model(sample[0]), sample[1]))
    with pytest.raises(EvidenceError, match=r"\[8, 4\] where the network was traced with \[4, 4\]"):
        twin.loss(state, (torch.randn(8, 4), torch.randint(0, 3, (8,))))


def test_fresh_statistics_are_those_of_the_batches() -> None:
    twin, _, state, model = of_convolutional()
    batches = [images(12, 7), images(12, 8)]
    fresh = twin.recalibrated(state, batches)
    assert isinstance(model, Convolutional)
    values = [model.stem[0](x) for x, _ in batches]
    mean = sum((v.mean((0, 2, 3)) for v in values), torch.zeros(8)) / 2
    variance = sum((v.var((0, 2, 3)) for v in values), torch.zeros(8)) / 2
    assert torch.allclose(fresh["stem.1.running_mean"], mean, atol=1e-6)
    assert torch.allclose(fresh["stem.1.running_var"], variance, atol=1e-6)
    changed = {name for name, value in fresh.items() if not torch.equal(value, state[name])}
    assert changed == {f"{p}.running_{k}" for p in ("stem.1", "inner.1") for k in ("mean", "var")}


def test_a_twin_needs_the_loss() -> None:
    with pytest.raises(EvidenceError, match="needs the loss"):
        Twin.of(trace(Convolutional(), images()[0]))


def rewritten(data: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """The archive with other entries."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    change(entries)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_bytes_that_are_no_archive_are_refused() -> None:
    with pytest.raises(CheckpointCorrupt, match="no archive"):
        Twin.from_bytes(b"\x80\x04K\x01.")


def test_a_graph_in_another_order_than_it_says_is_refused() -> None:
    def change(entries: dict[str, bytes]) -> None:
        meta = json.loads(entries["archive/extra/esper.json"])
        meta["targets"].reverse()
        entries["archive/extra/esper.json"] = json.dumps(meta).encode()

    with pytest.raises(CheckpointCorrupt, match="changed its order"):
        Twin.from_bytes(rewritten(of_convolutional()[0].to_bytes(), change))


def test_a_batch_norm_that_was_written_out_survives_the_archive_and_is_recalibrated() -> None:
    torch.manual_seed(0)
    model = Convolutional()
    x = images(16)[0]
    y = torch.randn(16, 5)
    twin, _, state = made(model, (x, y), F.mse_loss)  # it broadcasts, so the program is written out
    loss, output = twin.loss(state, (x, y))
    assert torch.equal(output, model.eval()(x))
    assert float(loss) == pytest.approx(float(F.mse_loss(output, y)))
    fresh = twin.recalibrated(state, [(x, y)])
    norm = model.get_submodule("stem.1")
    assert isinstance(norm, nn.BatchNorm2d)
    norm.momentum = 1.0
    model.train()(x)
    torch.testing.assert_close(fresh["stem.1.running_mean"], norm.running_mean)
    assert not torch.equal(fresh["inner.1.running_var"], state["inner.1.running_var"])


def test_statistics_that_stand_still_move_only_as_far_as_a_mask_moves_what_they_see() -> None:
    twin, _, state, _ = of_convolutional()
    names = [f"{p}.running_{k}" for p in ("stem.1", "inner.1") for k in ("mean", "var")]
    own = {**state, **{name: state[name] + 0.5 for name in names}}  # those of other data
    batches = [images(12, 7), images(12, 8)]
    same = twin.recalibrated(own, batches, still=names, before=own)
    assert all(torch.equal(same[name], own[name]) for name in names)
    weight = own["stem.0.weight"].clone()
    weight[0] *= 2.0
    moved = twin.recalibrated({**own, "stem.0.weight": weight}, batches, still=names, before=own)
    stem = own["stem.1.running_var"]
    assert torch.equal(moved["stem.1.running_var"][1:], stem[1:])
    assert stem[0] * 3.0 < moved["stem.1.running_var"][0] < stem[0] * 4.0  # by the square, but for a trace
    assert not torch.equal(moved["inner.1.running_mean"], own["inner.1.running_mean"])
    mixed = twin.recalibrated(own, batches, still=names[:2], before=own)
    assert torch.equal(mixed[names[0]], own[names[0]])
    assert not torch.allclose(mixed[names[2]], own[names[2]], atol=0.1)


def test_an_archive_holds_what_a_loss_runs_as_it_is_now_and_is_written_again_only_then() -> None:
    torch.manual_seed(0)
    generator, critic = nn.Linear(4, 8), nn.Linear(8, 1)
    batch = torch.randn(6, 4), torch.zeros(6)

    def loss(output: Tensor, _: Tensor) -> Tensor:
        scores: Tensor = critic(output)
        return -scores.mean()

    twin = Twin.of(trace(generator, batch, loss))
    first = twin.archive()
    assert twin.archive() is first
    with torch.no_grad():
        critic.weight.mul_(-3.0)  # trained, by the other half of the loop
    state = {name: tensor.detach() for name, tensor in named_tensors(generator).items()}
    live = float(loss(generator(batch[0]), batch[1]).detach())
    assert float(Twin.from_bytes(twin.archive()).loss(state, batch)[0]) == pytest.approx(live)
    assert float(Twin.from_bytes(first).loss(state, batch)[0]) != pytest.approx(live)
