"""`run.json`: what was asked and on what it runs, for people; nothing reads it back."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from esper.kasmina import LiveNetwork
from esper.session.terms import Terms


def write_run_file(run_dir: Path, network: LiveNetwork, terms: Terms) -> None:
    """Writes the file into the run directory; a later run of the same directory writes it anew."""
    content = {
        "model": f"{type(network.model).__module__}.{type(network.model).__qualname__}",
        "anatomy": network.anatomy.digest,
        "units": network.anatomy.num_units,
        "parameters": terms.origin.parameters,
        "flops": terms.origin.flops,
        "optimizer": terms.trained_by,
        "metric": terms.metric,
        "higher_is_better": terms.higher_is_better,
        "epochs_planned": terms.epochs,
        "config": terms.config.model_dump(mode="json"),
        "versions": {
            "esper": version("esper-torch"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "host": platform.platform(),
    }
    (run_dir / "run.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
