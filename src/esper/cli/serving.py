"""`esper serve`: where, and who may change something there."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from esper.cli import output
from esper.cli.commands import AsJson
from esper.errors import ConfigError

_USUAL_PORT = 8265


def serve(
    runs: Annotated[Path, typer.Argument(help="A folder of run directories, or one run directory.")],
    host: Annotated[
        str, typer.Option(help="The address to serve at. Other machines reach it only if you name another.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = _USUAL_PORT,
    allow_rollback: Annotated[
        bool,
        typer.Option(
            "--allow-rollback", help="Print a token; whoever has it can go back to checkpoints on the pages."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show runs in a browser, while they train and afterwards.

    It only reads the run directories, unless you allow more, and needs no internet. Ends with Ctrl-C.
    """
    try:
        from esper.web import Address, is_local
        from esper.web import serve as serve_pages
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`esper serve` needs {error.name}, which is not installed: pip install 'esper-torch[web]'."
        ) from error
    if not runs.is_dir():
        raise ConfigError(
            f"There is no folder at {runs}. Name the one that run directories are in, or one run directory."
        )
    listening = Address(host, port).bind()
    bound, number = listening.getsockname()[:2]
    is_open = not is_local(bound)
    if is_open and allow_rollback:
        listening.close()
        named = port or _USUAL_PORT  # 0 is no port that anybody could be sent to
        again = "" if port else f" and name a port (`--port {named}`)"
        raise ConfigError(
            f"With --allow-rollback nothing is served at {bound}: the token would cross the network for "
            f"everybody to read. Leave --host away{again}, and reach this machine by "
            f"`ssh -L {named}:127.0.0.1:{named}`."
        )
    address = f"http://[{bound}]:{number}/" if ":" in bound else f"http://{bound}:{number}/"
    text, facts = f"{runs} at {address}", {"address": address, "runs": str(runs)}
    if is_open:
        text += " Whoever reaches this address can read the runs."
    token = secrets.token_urlsafe(32) if allow_rollback else ""
    if token:
        facts["token"] = token
        text += (
            f"\nTo go back to checkpoints there, open {address}#token={token}\n"
            "Whoever has this token can delete checkpoints of these runs; it ends with this server."
        )
    if as_json:
        output.show(text, facts, as_json)
    else:
        output.console().print(text, soft_wrap=True)  # an address that is broken into lines opens nothing
    sys.stdout.flush()
    with listening:
        serve_pages(runs, listening, token)
