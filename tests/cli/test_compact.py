"""`esper compact` on real runs: half-way, finished, damaged; and on a model that a function builds."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import esper
from tests.cli.test_main import esper as command
from tests.cli.test_main import flip_a_byte
from tests.session.runs import Training, small_network


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A run that was left with masked units, and what its network gives for ones."""
    run = tmp_path_factory.mktemp("runs") / "masked"
    training = Training(run)
    training.until_masked()
    training.model.eval()
    given: torch.Tensor = training.model(torch.ones(3, 8)).detach()
    training.session.detach()
    return run, given


def test_a_checkpoint_loses_what_is_masked_in_it(masked: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    run, given = masked
    outcome = command("compact", str(run), "-o", str(tmp_path / "out"), "--json")
    assert outcome.returncode == 0, outcome.stderr
    facts = json.loads(outcome.stdout)
    assert facts["parameters"][1] < facts["parameters"][0]
    assert facts["proof"]["float64_error"] <= 1e-12
    loaded = esper.load(tmp_path / "out")
    assert torch.allclose(loaded(torch.ones(3, 8)), given, atol=1e-5)


def test_more_can_go_by_magnitude(masked: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    outcome = command("compact", str(masked[0]), "-o", str(tmp_path / "out"), "--flops", "0.5")
    assert outcome.returncode == 0, outcome.stderr
    assert "was not measured" in " ".join(outcome.stdout.split())
    assert "largest difference" in outcome.stdout
    assert esper.load(tmp_path / "out")(torch.ones(1, 8)).shape == (1, 4)


def test_a_finished_run_is_written_as_it_is_and_fills_its_class(tmp_path: Path) -> None:
    training = Training(tmp_path / "run")
    training.until_masked()
    result = training.session.finish(latency=False)
    with_onnx = ["--onnx"] if find_spec("onnxscript") and find_spec("onnx") else []
    outcome = command("compact", str(tmp_path / "run"), "-o", str(tmp_path / "out"), *with_onnx)
    assert outcome.returncode == 0, outcome.stderr
    assert ("ONNX: difference" in outcome.stdout) == bool(with_onnx)
    x = torch.ones(3, 8)
    expected = result.model.eval()(x)
    for path in (tmp_path / "out", tmp_path / "run"):
        assert torch.equal(esper.load(path, model=small_network()).eval()(x), expected)
        assert torch.allclose(esper.load(path)(x), expected, atol=1e-6)


def test_the_model_of_a_function_is_cut_by_a_share(tmp_path: Path) -> None:
    where = str(tmp_path / "out")
    outcome = command("compact", "tests.cli.models:small", "-o", where, "--parameters", "0.3", "--json")
    assert outcome.returncode == 0, outcome.stderr
    facts = json.loads(outcome.stdout)
    assert facts["widths"]["0"][1] < facts["widths"]["0"][0]
    assert esper.load(where)(torch.zeros(2, 6)).shape == (2, 3)


def test_held_out_samples_in_a_file_decide_and_judge(tmp_path: Path) -> None:
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
    save_file({"inputs": x, "targets": x[:, :3].argmax(1)}, tmp_path / "data.safetensors")
    words = [
        "compact",
        "tests.cli.models:judged",
        "--flops",
        "0.3",
        "--data",
        str(tmp_path / "data.safetensors"),
    ]
    outcome = command(*words, "-o", str(tmp_path / "out"), "--json")
    assert outcome.returncode == 0, outcome.stderr
    facts = json.loads(outcome.stdout)
    assert facts["quality"]["samples"] >= 64
    assert facts["quality"]["accuracy_after"] is not None
    shown = command(*words, "-o", str(tmp_path / "again"))
    assert f"loss, {facts['quality']['samples']} held-out samples" in " ".join(shown.stdout.split())


def test_held_out_samples_without_a_loss_or_beside_a_run_are_refused(
    masked: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    np.savez(tmp_path / "data.npz", inputs=np.zeros((64, 6)), targets=np.zeros(64))
    for target, said in (("tests.cli.models:small", "as third value"), (str(masked[0]), "belongs to")):
        outcome = command(
            "compact",
            target,
            "-o",
            str(tmp_path / "out"),
            "--flops",
            "0.2",
            "--data",
            str(tmp_path / "data.npz"),
        )
        assert outcome.returncode == 2
        assert said in " ".join(outcome.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-run"], "there is no such directory"),
        (["tests.cli.models:small"], "Say what shall go"),
        (["tests.cli.models:small", "--flops", "0.2", "--parameters", "0.2"], "each says alone"),
    ],
)
def test_a_target_that_cannot_be_cut_is_told_in_one_paragraph(
    words: list[str], said: str, tmp_path: Path
) -> None:
    outcome = command("compact", *words, "-o", str(tmp_path / "out"))
    assert outcome.returncode == 2
    assert said in " ".join(outcome.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_not_cut(tmp_path: Path) -> None:
    training = Training(tmp_path / "run")
    training.epoch()
    training.session.detach()
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    flip_a_byte(newest / "model.safetensors")
    outcome = command("compact", str(newest), "-o", str(tmp_path / "out"))
    assert outcome.returncode == 2
    assert not (tmp_path / "out").exists()


def test_a_layer_that_inspect_names_can_go(tmp_path: Path) -> None:
    target = "tests.cli.models:layered"
    rows = json.loads(command("inspect", target, "--json").stdout)["blocks"]
    assert [row["name"] for row in rows] == ["layer"]
    assert rows[0]["parameters_fraction"] == pytest.approx(72 / (56 + 72 + 27))
    outcome = command("compact", target, "-o", str(tmp_path / "out"), "--block", "layer")
    assert outcome.returncode == 0, outcome.stderr
    assert "removed" in outcome.stdout
    assert esper.load(tmp_path / "out")(torch.ones(2, 6)).shape == (2, 3)


def test_a_layer_of_a_checkpoint_is_not_asked_for(masked: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    outcome = command("compact", str(masked[0]), "-o", str(tmp_path / "out"), "--block", "layer")
    assert outcome.returncode == 2
    assert "--block belongs to" in " ".join(outcome.stderr.split())


def test_units_that_a_norm_runs_over_go_when_it_is_allowed(tmp_path: Path) -> None:
    seen = command("inspect", "tests.cli.models:normed", "--allow-approximate", "--json")
    coupled = {row["name"]: row["coupling"] for row in json.loads(seen.stdout)["groups"]}
    assert coupled["stem"].startswith("statistic-coupled")
    assert not coupled["up"]
    words = ["compact", "tests.cli.models:normed", "--parameters", "0.4", "-o", str(tmp_path / "out")]
    outcome = command(*words, "--allow-approximate")
    assert outcome.returncode == 0, outcome.stderr
    assert "normalizations run over what is left" in " ".join(outcome.stdout.split())
    assert load_file(tmp_path / "out" / "model.safetensors")["norm.weight"].numel() < 8


def test_what_is_there_twice_is_folded(tmp_path: Path) -> None:
    words = ["compact", "tests.cli.models:normed", "--fold", "--json", "-o", str(tmp_path / "out")]
    facts = json.loads(command(*words).stdout)
    assert facts["widths"]["up"] == [6, 5]
    assert "1 units were there twice" in facts["notes"][0]


@pytest.mark.parametrize("option", ["--fold", "--allow-approximate"])
def test_a_run_is_cut_exactly(masked: tuple[Path, torch.Tensor], tmp_path: Path, option: str) -> None:
    outcome = command("compact", str(masked[0]), "-o", str(tmp_path / "out"), option)
    assert outcome.returncode == 2
    assert f"{option} belongs to the model of a module:function" in " ".join(outcome.stderr.split())
