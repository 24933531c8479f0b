"""The command line: `esper demo`, `inspect`, `checkpoints`, `verify`, `rollback`, `config`."""

from esper.cli.commands import DEMO_EPOCHS, DEMO_FLOPS
from esper.cli.main import main

__all__ = ["DEMO_EPOCHS", "DEMO_FLOPS", "main"]
