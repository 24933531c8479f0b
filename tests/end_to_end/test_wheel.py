"""What `pip install` brings is whole: a network is pruned by the wheel alone, far from this checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2]
PROGRAM = """
import esper
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
inputs = torch.randn(512, 8)
targets = inputs[:, :4].abs().argmax(1)
model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
criterion = nn.CrossEntropyLoss()
session = esper.attach(
    model,
    optimizer,
    loss=criterion,
    sample=(inputs[:32], targets[:32]),
    probe=[(inputs[256:], targets[256:])],
    metric="accuracy",
    epochs=10,
    run_dir="run",
    config={"pruning": {"target": {"flops": 0.5}}, "analysis": {"max_wait_seconds": 60.0}},
)
for _ in range(10):
    for rows in torch.randperm(256).split(16):
        optimizer.zero_grad()
        criterion(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()
    session.end_epoch(accuracy=float((model(inputs[256:]).argmax(1) == targets[256:]).float().mean()))
result = session.finish()
print(esper.__file__, result.reached, sep="\\n")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds what the wheel holds, and nothing else."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place), str(HERE)]
    subprocess.run(wheel, check=True, capture_output=True)
    (built,) = place.glob("*.whl")
    site = place / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(built)], check=True)
    return site


def python(installed: Path, folder: Path, *words: str) -> str:
    """Runs Python with the wheel and the libraries that it needs, but without this checkout."""
    path = f"{installed}:{sysconfig.get_path('purelib')}"
    ended = subprocess.run(  # without `site`, which would find the checkout
        [sys.executable, "-S", *words],
        cwd=folder,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_network_of_ones_own_is_pruned_by_what_was_installed(installed: Path, tmp_path: Path) -> None:
    file, reached = python(installed, tmp_path, "-c", PROGRAM).splitlines()
    assert Path(file).is_relative_to(installed)
    assert float(reached) >= 0.5
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert "masked" in python(installed, tmp_path, "-m", "esper", "audit", "show", "run", "--json")


def test_python_m_esper_says_what_can_be_done(installed: Path, tmp_path: Path) -> None:
    assert python(installed, tmp_path, "-m", "esper", "--version").startswith("esper ")
    assert "doctor" in python(installed, tmp_path, "-m", "esper", "--help")
