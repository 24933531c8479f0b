"""`Trainer(callbacks=[EsperCallback(target=0.5, run_dir=...)])`: a Lightning training that prunes."""

from esper.integrations.lightning.callback import EsperCallback

__all__ = ["EsperCallback"]
