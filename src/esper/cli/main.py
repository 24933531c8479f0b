"""The entry point: runs a command, and says what went wrong in one paragraph instead of a traceback."""

from __future__ import annotations

import sys
import textwrap
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated

import typer

from esper import __version__
from esper.cli.commands import (
    analyze,
    checkpoints,
    compact,
    config,
    demo,
    doctor,
    follow,
    inspect,
    rollback,
    train,
    verify,
    watch,
)
from esper.cli.importing import import_file
from esper.cli.serving import serve
from esper.cli.trust import (
    Shows,
    ask,
    audit_export,
    audit_show,
    audit_verify,
    keys_destroy,
    keys_disable,
    keys_export_public_state,
    keys_list,
    keys_promote,
    keys_rotate,
)
from esper.errors import EsperError, users_line

EXIT_REFUSED = 2
DEBUG_FLAG = "--debug"

app = typer.Typer(
    name="esper",
    help="Makes a PyTorch network smaller and faster while it trains.",
    epilog="Every command takes --json, and --debug for the traceback of an error. "
    "Exit codes: 0 done, 1 damage or something that fails was found, 2 could not be done, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for command in (
    demo,
    train,
    inspect,
    analyze,
    compact,
    checkpoints,
    verify,
    rollback,
    ask,
    config,
    follow,
    watch,
    serve,
    doctor,
):
    app.command()(command)
app.command("import")(import_file)
audit = typer.Typer(
    cls=Shows,
    help="What was decided and done in a run (shown, where only a run is named), and whether to believe it.",
    no_args_is_help=True,
)
for word, of_audit in (("show", audit_show), ("verify", audit_verify), ("export", audit_export)):
    audit.command(word)(of_audit)
app.add_typer(audit, name="audit")
keys = typer.Typer(
    help="The keys that checkpoints and the audit of a run are sealed with.", no_args_is_help=True
)
for of_keys in (keys_list, keys_rotate, keys_promote, keys_disable, keys_destroy, keys_export_public_state):
    keys.command(of_keys.__name__.removeprefix("keys_").replace("_", "-"))(of_keys)
app.add_typer(keys, name="keys")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"esper {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass  # the option acts by its callback


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code.

    Args:
        arguments: what the user typed after `esper`; taken from the process when not given.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # the name of a file need not be text
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG_FLAG in words
    try:
        app(args=[word for word in words if word != DEBUG_FLAG], prog_name="esper")
    except Exception as error:
        text = _paragraph(error)
        if text is None:  # what is nobody else's fault is ours, and a report needs the traceback
            raise
        if debug:
            traceback.print_exception(error)
        sys.stderr.write(textwrap.fill(f"esper: {text}", width=100, break_long_words=False) + "\n")
        sys.exit(EXIT_REFUSED)


def _paragraph(error: Exception) -> str | None:
    """What went wrong, for people; None for an error of Esper itself."""
    place = users_line(error)
    if isinstance(error, EsperError):
        return str(error)
    if isinstance(error, OSError) and not place:
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror or error}."
    if not place:
        return None
    return (
        f"{type(error).__name__}: {error} ({place}). That is your own code and not Esper's; --debug shows "
        "the whole traceback."
    )
