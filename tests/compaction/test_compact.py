"""Cutting at once, saving, and loading: with the class, without it, and as ONNX."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import esper
from esper.anatomy.cut import Form, Snapshot
from esper.compaction.compacted import Compacted
from esper.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointMissing,
    ConfigError,
    MaskError,
    SurgeryError,
)
from esper.leyline import decode, encode
from esper.runs.network import FORM_FILE, ONNX_FILE, PROGRAM_FILE, WEIGHTS_FILE, require_onnx
from tests.anatomy.cut.test_program import Stubborn
from tests.anatomy.networks import ZOO

FORMS = ["resnet8", "mobile", "group-norm-without-weights", "gpt", "encoder-norm-first", "llama", "qk-norm"]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))


def compacted(model: nn.Module, **how: Any) -> Compacted:
    return esper.compact(model, sample=torch.randn(4, 6), **{"flops": 0.4, **how})


def outputs(model: Any, sample: Any) -> list[Tensor]:
    if isinstance(model, nn.Module):
        model.eval()
    given = sample if isinstance(sample, tuple) else (sample,)
    with torch.no_grad():
        found = model(**sample) if isinstance(sample, dict) else model(*given)
    leaves = found.values() if isinstance(found, dict) else found if isinstance(found, tuple) else [found]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def test_a_share_of_the_flops_goes_and_the_cut_is_proven() -> None:
    model = small()
    result = compacted(model)
    assert result.model is model
    assert result.proof.float64_error is not None
    assert result.proof.float64_error <= 1e-12
    assert result.flops_after <= 0.6 * result.flops_before
    assert result.parameters_after == sum(p.numel() for p in model.parameters()) < result.parameters_before
    assert any("not measured" in note for note in result.notes)


def test_the_units_with_the_smallest_weights_go() -> None:
    model = small()
    with torch.no_grad():
        next(model.parameters())[5:17] *= 0.01
    result = compacted(model, parameters=0.3, flops=None)
    first = result.keep[result.anatomy.unit_slice(result.anatomy.group_named("0"))]
    assert not first.all()
    assert set(np.flatnonzero(~first)) <= set(range(5, 17))


def test_floors_hold_and_it_is_told_that_the_target_is_missed() -> None:
    floors = esper.Config(pruning={"floors": {"min_keep_fraction": 0.75}})
    result = compacted(small(), flops=0.9, config=floors)
    assert all(row.after >= 0.75 * row.before for row in result.widths)
    assert any("instead of 90.0%" in note for note in result.notes)
    assert any("floors of pruning.floors, in 0, 2" in note for note in result.notes)


def test_a_mask_says_exactly_what_goes() -> None:
    model = small()
    keep = np.ones(40, np.bool_)
    keep[[0, 3, 30]] = False
    result = esper.compact(model, keep, sample=torch.randn(4, 6))
    assert [row.after for row in result.widths] == [22, 15]


def test_alike_layers_keep_the_same_width_when_asked() -> None:
    network = ZOO["gpt"].network()
    result = esper.compact(network, sample=ZOO["gpt"].input(), flops=0.3, homogeneous=True)
    widths: dict[tuple[str, int], set[int]] = {}
    for row in result.widths:
        widths.setdefault((row.kind, row.before), set()).add(row.after)
    assert all(len(after) == 1 for after in widths.values())
    assert result.flops_after < result.flops_before


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"flops": None}, "Say what shall go"),
        ({"parameters": 0.2}, "each says alone"),
        ({"flops": 1.5}, "between 0 and 1; 1.5"),
        ({"by": "taylor"}, "by 'taylor'"),
    ],
)
def test_a_question_without_an_answer_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compacted(small(), **how)


def test_a_mask_of_another_network_is_refused() -> None:
    with pytest.raises(MaskError):
        esper.compact(small(), np.ones(7, np.bool_), sample=torch.randn(4, 6))


def test_code_that_refuses_other_sizes_keeps_its_units_and_is_cut_as_a_program() -> None:
    torch.manual_seed(0)
    model, x = Stubborn(), torch.randn(4, 10, 32)
    before = copy.deepcopy(model.state_dict())
    whole = esper.compact(model, sample=x, flops=0.4)
    assert set(whole.refused) == {"qkv", "fc"}
    assert whole.keep.all()
    assert any("code, which refuses other sizes of qkv, fc" in note for note in whole.notes)
    assert any("As a program" in note and "in_place=False" in note for note in whole.notes)
    smaller = esper.compact(model, sample=x, flops=0.4, in_place=False)
    assert smaller.flops_after < 0.7 * smaller.flops_before
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert smaller.model(x).shape == (4, 5)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.no_cover
def test_a_fresh_network_of_the_class_takes_weights_and_form(tmp_path: Path, name: str) -> None:
    model, sample = ZOO[name].network(), ZOO[name].input()
    result = esper.compact(model, sample=sample, flops=0.3)
    assert result.form is not None
    assert result.flops_after < result.flops_before
    result.save(tmp_path / "out")
    fresh = ZOO[name].network()
    for parameter in fresh.parameters():
        torch.nn.init.normal_(parameter)
    loaded = esper.load(tmp_path / "out", model=fresh)
    assert loaded is fresh
    for ours, theirs in zip(outputs(loaded, sample), outputs(model, sample), strict=True):
        assert torch.equal(ours, theirs)
    assert {n: t.shape for n, t in loaded.state_dict().items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }


@pytest.mark.parametrize("name", ["resnet8", "gpt"])
def test_a_network_that_was_built_without_memory_is_filled(tmp_path: Path, name: str) -> None:
    model, sample = ZOO[name].network(), ZOO[name].input()
    esper.compact(model, sample=sample, flops=0.3).save(tmp_path / "out")
    with torch.device("meta"):
        fresh = ZOO[name].network()
    loaded = esper.load(tmp_path / "out", model=fresh)
    for ours, theirs in zip(outputs(loaded, sample), outputs(model, sample), strict=True):
        assert torch.equal(ours, theirs)
    tied = {n for n, _ in model.named_parameters(remove_duplicate=False)} - dict(
        model.named_parameters()
    ).keys()
    left = dict(loaded.named_parameters())
    assert not tied & left.keys()
    assert all(isinstance(left[n], nn.Parameter) for n, _ in model.named_parameters())


def test_a_value_that_no_file_holds_needs_a_real_network(tmp_path: Path) -> None:
    class Offset(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 2)
            self.register_buffer("offset", torch.ones(2), persistent=False)

    with torch.device("meta"):
        fresh = Offset()
    weights = dict(nn.Linear(4, 2).state_dict())
    with pytest.raises(ConfigError, match="offset of the given Offset lies on the meta device"):
        Form({}, {}, {}, {}).shape(fresh, weights)
    assert fresh.weight.is_meta


def test_a_loaded_network_can_be_trained() -> None:
    model, fresh = small(), small()
    result = compacted(model)
    assert result.form is not None
    result.form.shape(fresh, {n: t.clone() for n, t in model.state_dict().items()})
    fresh(torch.randn(4, 6)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in fresh.parameters())


def test_buffers_that_no_state_dict_holds_follow() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 10), nn.Linear(10, 2)
            self.register_buffer("scale", torch.arange(10.0), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.b(self.a(x) * self.scale)
            return scores

    model, fresh, x = Scaled(), Scaled(), torch.randn(3, 4)
    result = esper.compact(model, sample=x, flops=0.4)
    assert result.form is not None
    assert "scale" in result.form.kept
    form = decode(Form, json.loads(json.dumps(encode(result.form))))
    form.shape(fresh, dict(model.state_dict()))
    assert torch.equal(fresh(x), model(x))


def test_two_cuts_in_a_row_make_one_form() -> None:
    model, x = small(), torch.randn(4, 6)
    before = Snapshot.of(model)
    kept = [compacted(model, flops=share).form for share in (0.2, 0.2)]
    assert all(form is not None for form in kept)
    fresh = small()
    Form.between(before, model, []).shape(fresh, dict(model.state_dict()))
    assert torch.equal(fresh(x), model(x))


@pytest.mark.parametrize(
    "other", [nn.Linear(6, 3), nn.Sequential(nn.Linear(6, 25), nn.ReLU(), nn.Linear(25, 3))]
)
def test_another_network_is_refused_and_left_untouched(tmp_path: Path, other: nn.Module) -> None:
    compacted(small()).save(tmp_path / "out")
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(CheckpointCorrupt, match="Nothing was changed"):
        esper.load(tmp_path / "out", model=other)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in before.items())


def test_a_process_without_any_source_loads_what_was_saved(tmp_path: Path) -> None:
    model = small()
    compacted(model).save(tmp_path / "out")
    code = (
        "import sys, torch, esper; y = esper.load('out')(torch.ones(5, 6))\n"
        "print([n for n in sys.modules if n.startswith('tests')], y.flatten().tolist())"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == f"[] {model.eval()(torch.ones(5, 6)).flatten().tolist()}"


def test_what_is_saved_says_widths_and_proof_and_holds_no_pickle(tmp_path: Path) -> None:
    result = compacted(small())
    out = result.save(tmp_path / "out")
    record = json.loads((out / FORM_FILE).read_text())
    assert record["widths"] == {row.group: [row.before, row.after] for row in result.widths}
    assert record["proof"]["float64_error"] <= 1e-12
    assert load_file(out / WEIGHTS_FILE)["0.weight"].shape[0] == record["widths"]["0"][1]
    expected = ["BLAKE3SUMS", FORM_FILE, PROGRAM_FILE, WEIGHTS_FILE]
    assert sorted(path.name for path in out.iterdir()) == sorted(expected)


def flipped(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_damage_to_what_was_saved_is_refused_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = compacted(small()).save(tmp_path / "out")
    whole = {path: path.read_bytes() for path in out.iterdir()}
    for name in (PROGRAM_FILE, WEIGHTS_FILE, FORM_FILE):
        flipped(out / name)
        with pytest.raises(CheckpointCorrupt, match=f"{name} has other bytes than were saved.*Nothing was"):
            esper.load(out) if name == PROGRAM_FILE else esper.load(out, model=small())
        (out / name).write_bytes(whole[out / name])
    flipped(out / PROGRAM_FILE)
    with pytest.raises(CheckpointCorrupt, match="other bytes"):
        esper.load(out / PROGRAM_FILE)
    (out / PROGRAM_FILE).write_bytes(whole[out / PROGRAM_FILE])
    (out / "BLAKE3SUMS").unlink()
    with pytest.raises(CheckpointCorrupt, match="lost its file of digests"):
        esper.load(out)
    assert "earlier Esper" not in caplog.text
    (out / FORM_FILE).write_bytes(whole[out / FORM_FILE].replace(b'"version": 2', b'"version": 1'))
    assert esper.load(out)(torch.ones(2, 6)).shape == (2, 3)
    assert "saved by an earlier Esper, without digests" in caplog.text


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(CheckpointError, match="not empty"):
        compacted(small()).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_network_cut_as_a_program_fills_no_class(tmp_path: Path) -> None:
    out = compacted(small(), in_place=False).save(tmp_path / "out")
    with pytest.raises(CheckpointMissing, match="cut as a program"):
        esper.load(out, model=small())
    assert esper.load(out / PROGRAM_FILE)(torch.ones(2, 6)).shape == (2, 3)
    with pytest.raises(CheckpointMissing, match=r"\.pt2|no cut network"):
        esper.load(tmp_path / "nothing")


def test_onnx_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnx")
    out = compacted(small()).save(tmp_path / "out", onnx=True)
    record = json.loads((out / FORM_FILE).read_text())
    assert (out / ONNX_FILE).stat().st_size > 0
    assert record["onnx"]["error"] <= 1e-5


def test_a_missing_package_is_named_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"missing: no_such_package.*pip install 'esper-torch\[onnx\]'"):
        require_onnx(("json", "no_such_package"))


def test_the_state_of_all_optimizers_goes_along() -> None:
    model = small()
    weights, others = (
        torch.optim.AdamW([p for p in model.parameters() if (p.dim() > 1) == is_weight])
        for is_weight in (True, False)
    )
    model(torch.randn(4, 6)).sum().backward()
    weights.step()
    others.step()
    compacted(model, optimizer=[weights, others])
    assert all(
        p.shape == state["exp_avg"].shape for one in (weights, others) for p, state in one.state.items()
    )


def test_a_compiled_network_is_cut_saved_and_loaded_like_the_one_inside(tmp_path: Path) -> None:
    model = small()
    result = compacted(torch.compile(model, backend="eager"))  # type: ignore[arg-type]  # it returns a module
    result.save(tmp_path / "out")
    fresh, x = small(), torch.randn(3, 6)
    esper.load(tmp_path / "out", model=fresh)
    assert torch.equal(fresh(x), model(x))
    assert model[0].weight.shape == (result.widths[0].after, 6)


def test_a_refused_cut_leaves_everything_as_it_was() -> None:
    torch.manual_seed(0)
    model = Stubborn()
    before = copy.deepcopy(model.state_dict())
    keep = np.ones(24, np.bool_)
    keep[0] = False
    with pytest.raises(SurgeryError, match=r"What cannot go is in qkv; .* in_place=False cuts all of it"):
        esper.compact(model, keep, sample=torch.randn(4, 10, 32))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class InFours(nn.Module):
    """Runs only where its second layer has a multiple of four units, as half of them are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(x))))
        if hidden.shape[-1] % 4:
            raise ValueError("only in fours")
        out: Tensor = self.last(hidden)
        return out


def test_a_group_that_the_chosen_mask_cannot_cut_stays_and_the_others_go() -> None:
    torch.manual_seed(0)
    model = InFours()
    with torch.no_grad():  # five units that go first
        for weights in (model.second.weight[:5], model.second.bias[:5], model.last.weight[:, :5]):
            weights.mul_(0.01)
    config = esper.Config(pruning={"plan": {"round_to": 1}, "floors": {"min_keep_fraction": 0.6}})
    result = esper.compact(model, sample=torch.randn(4, 4), flops=0.4, config=config)
    widths = {row.group: row.after for row in result.widths}
    assert widths["first"] < 16
    assert widths["second"] == 16
    assert "only in fours" in result.refused["second"]
    assert any("As a program" in note for note in result.notes)


def test_a_target_that_is_missed_names_the_operator_that_holds_the_rest() -> None:
    network = nn.Sequential(nn.Linear(6, 32), nn.LayerNorm(32), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 2))
    result = esper.compact(network, sample=torch.randn(4, 6), flops=0.6)
    assert any(
        "What holds the rest: statistic-coupled: layer_norm (97% of the FLOPs" in note
        for note in result.notes
    ), result.notes
