"""`run.json`: what was asked and on what it runs, for people; nothing reads it back."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version

import torch

from esper.session.state import Parts


def write_run_file(parts: Parts) -> None:
    """Writes the file into the run directory; a later run of the same directory writes it anew."""
    network = parts.network
    content = {
        "model": f"{type(network.model).__module__}.{type(network.model).__qualname__}",
        "anatomy": network.anatomy.digest,
        "units": network.anatomy.num_units,
        "parameters": parts.origin.parameters,
        "flops": parts.origin.flops,
        "optimizer": type(network.optimizer).__name__,
        "metric": parts.metric,
        "higher_is_better": parts.higher_is_better,
        "epochs_planned": parts.epochs,
        "config": parts.config.model_dump(mode="json"),
        "versions": {
            "esper": version("esper-torch"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "host": platform.platform(),
    }
    path = parts.saving.store.run_dir / "run.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
