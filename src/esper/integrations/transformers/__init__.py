"""`Trainer(..., callbacks=[EsperCallback(target=0.5, run_dir=...)])`: a Hugging Face training that prunes."""

from esper.integrations.transformers.callback import EsperCallback

__all__ = ["EsperCallback"]
