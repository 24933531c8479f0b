"""The commands about what can be believed months later: the audit of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esper.cli import output
from esper.cli.commands import EXIT_DAMAGED, AsJson

Target = Annotated[Path, typer.Argument(help="A run directory, or one checkpoint: what was told until then.")]


def audit_show(
    run: Target,
    epoch: Annotated[
        int | None,
        typer.Option(min=1, help="Show what was decided after this epoch: every check, every finalist."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Leave no rows out of long tables.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what was decided and done in a run: when, what, by which part or person.

    With --epoch: one decision in full. JSON is never shortened. Exit code 1 if the audit is not what was
    written.
    """
    from esper.cli.audit import Audited, audit_table
    from esper.cli.cycles import decided, decision_tables

    audited = Audited.at(run)
    if epoch is None:
        facts = audited.shown(run)
        output.show(audit_table(facts, is_whole=everything), facts, as_json)
    else:
        facts = {**decided(run, audited.entries(), epoch), "problems": audited.problems()}
        output.show(decision_tables(facts, is_whole=everything), facts, as_json)
    _exit_if_damaged(facts["problems"])


def audit_verify(run: Target, as_json: AsJson = False) -> None:
    """Check every seal and link of the audit, and hold it against every checkpoint.

    Exit code 1 if something was edited, deleted, inserted, reordered, cut off or swapped; says which.
    """
    from esper.cli.audit import Audited, check_table

    facts = Audited.at(run).checked()
    output.show(check_table(facts), facts, as_json)
    _exit_if_damaged(facts["problems"])


def audit_export(
    run: Target,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A new file, one line of JSON per event.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write every event in full, with digest and seal: one line of JSON each, or with --json one document.

    Refused if the audit does not verify.
    """
    from esper.cli.audit import Audited, exported_lines, write_export

    documents = Audited.at(run).exported()
    if out is not None:
        write_export(documents, out)
        output.show(
            f"{out} holds {len(documents)} events.", {"file": str(out), "events": len(documents)}, as_json
        )
    elif as_json:
        output.show("", documents, as_json)
    else:
        typer.echo("".join(exported_lines(documents)), nl=False)


def _exit_if_damaged(problems: object) -> None:
    if problems:
        raise typer.Exit(EXIT_DAMAGED)
