"""The ten-line example on unseen networks: smaller, proven, reported, and loaded without their code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

import esper
from tests.session.runs import settings
from tests.session.unseen import NETWORKS, cross_entropy, images, logits

LOAD = """
import sys
import safetensors.torch
import esper
for line in sys.stdin:
    run, given, made = line.split()
    output = esper.load(run)(safetensors.torch.load_file(given)["inputs"])
    output = output["logits"] if isinstance(output, dict) else output
    assert "tests" not in sys.modules
    safetensors.torch.save_file({"outputs": output.detach().contiguous()}, made)
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """Another process, without the networks' code: runs what it is told to load."""
    with subprocess.Popen(
        [sys.executable, "-c", LOAD],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env={
            "PYTHONPATH": str(Path(esper.__file__).parents[1]),
            "PATH": "/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_ten_line_example_makes_a_network_smaller(
    loader: subprocess.Popen[str], tmp_path: Path, name: str
) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    inputs, targets = images(128, 0)
    held_out = images(192, 1)
    run = tmp_path / "run"
    session = esper.attach(
        model,
        optimizer,
        loss=cross_entropy,
        sample=(inputs[:8], targets[:8]),
        probe=[held_out],
        run_dir=run,
        config=settings(pruning={"target": {"flops": 0.3}}),
        epochs=6,
    )
    for _ in range(6):
        for index in torch.randperm(128).split(32):
            optimizer.zero_grad()
            cross_entropy(model(inputs[index]), targets[index]).backward()
            optimizer.step()
        with torch.no_grad():
            right = logits(model(held_out[0])).argmax(1) == held_out[1]
        session.end_epoch(accuracy=float(right.float().mean()))
    result = session.finish(latency=False)

    report = result.report
    assert report.flops_after < 0.85 * report.flops_before
    assert report.proof is not None
    assert report.proof.float64_error is not None
    assert report.proof.float64_error < 1e-9
    assert json.loads((run / "report.json").read_text())["flops_after"] == report.flops_after
    assert "<html" in (run / "report.html").read_text()[:2000]

    expected = _outputs_in_another_process(loader, tmp_path, run, held_out[0])
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(logits(model(held_out[0])), expected, rtol=1e-5, atol=1e-5)

    model.train()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.zero_grad()
    cross_entropy(result.model(inputs), targets).backward()
    optimizer.step()
    assert result.model is model
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert all(changed)


def _outputs_in_another_process(
    loader: subprocess.Popen[str], folder: Path, run: Path, inputs: torch.Tensor
) -> torch.Tensor:
    given, made = folder / "inputs.safetensors", folder / "outputs.safetensors"
    safetensors.torch.save_file({"inputs": inputs}, given)
    assert loader.stdin is not None
    assert loader.stdout is not None
    loader.stdin.write(f"{run} {given} {made}\n")
    loader.stdin.flush()
    assert loader.stdout.readline() == "done\n"
    return safetensors.torch.load_file(made)["outputs"]
