"""The entry point of the command line."""

from __future__ import annotations

import typer

app = typer.Typer(name="esper", no_args_is_help=True, add_completion=False)


def main() -> None:
    """Runs the command line."""
    app()
