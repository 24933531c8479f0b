"""The commands about what can be believed: the audit of a run, its keys, and what is asked of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from esper.cli import output
from esper.cli.commands import EXIT_DAMAGED, AsJson, Run
from esper.errors import ConfigError
from esper.report import figures

Change = Literal["rotate", "promote", "disable", "destroy"]
Wish = Literal["report", "rollback", "veto", "close-breaker", "grow", "cull", "pause", "unpause"]
KeyId = Annotated[str, typer.Argument(help="The id of a key, as `esper keys list` shows it.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask where checkpoints would not verify any more.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="A new file, instead of standard output.")]
Target = Annotated[Path, typer.Argument(help="A run directory, or one checkpoint: what was told until then.")]


class Shows(TyperGroup):
    """Commands about a run, of which `show` is meant where only the run is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes `audit RUN` for `audit show RUN`, where there is such a run."""
        is_run = bool(args) and args[0] not in self.commands and Path(args[0]).exists()
        return super().parse_args(ctx, ["show", *args] if is_run else args)


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
    from esper.cli.audit import audit_table
    from esper.cli.cycles import decision_tables
    from esper.runs import Audited, decided

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
    from esper.cli.audit import check_table
    from esper.runs import Audited

    facts = Audited.at(run).checked()
    output.show(check_table(facts), facts, as_json)
    _exit_if_damaged(facts["problems"])


def audit_export(run: Target, out: Out = None, as_json: AsJson = False) -> None:
    """Write every event in full, with digest and seal: one line of JSON each, or with --json one document.

    Refused if the audit does not verify.
    """
    from esper.runs import Audited

    documents = Audited.at(run).exported()
    lines = (json.dumps(one) + "\n" for one in documents)
    if out is not None:
        output.write_new(out, lines)
        facts = {"file": str(out), "events": len(documents)}
        output.show(f"{out} holds {figures.things(len(documents), 'event')}.", facts, as_json)
    elif as_json:
        output.show("", documents, as_json)
    else:
        sys.stdout.writelines(lines)


def keys_list(run: Run, as_json: AsJson = False) -> None:
    """List the keys of a run: state, fingerprint, and how many commits rest on each alone."""
    from esper.cli.keys import key_rows, key_table

    rows = key_rows(run)
    output.show(key_table(rows), rows, as_json)


def keys_rotate(run: Run, as_json: AsJson = False) -> None:
    """Make a new key that seals from now on; what the old one has sealed stays believed.

    Of checkpoints and kernels only seals and headers are written: nothing rests on the old key alone any
    more. Refused while the run is training.
    """
    _change(run, "rotate", None, yes=False, as_json=as_json)


def keys_promote(run: Run, key: KeyId, as_json: AsJson = False) -> None:
    """Let an accepted key seal from now on."""
    _change(run, "promote", key, yes=False, as_json=as_json)


def keys_disable(run: Run, key: KeyId, yes: Yes = False, as_json: AsJson = False) -> None:
    """Believe a key no more; its secret stays in the ring until it is destroyed.

    Asks where checkpoints, masks or kernels rest on it. Entries of the audit stay believed: a later one
    vouches for them.
    """
    _change(run, "disable", key, yes=yes, as_json=as_json)


def keys_destroy(run: Run, key: KeyId, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove a disabled key for good. Asks where checkpoints, masks or kernels rest on it."""
    _change(run, "destroy", key, yes=yes, as_json=as_json)


def keys_export_public_state(run: Run, out: Out = None, as_json: AsJson = False) -> None:
    """Write the ids, states and fingerprints of all keys as JSON, and nothing secret."""
    from esper.cli.keys import public_state

    document = public_state(run)
    if out is None:
        output.show("", document, True)
    else:
        output.write_new(out, [json.dumps(document, indent=1) + "\n"])
        held = len(document["keys"])
        output.show(f"{out} holds {figures.things(held, 'key')}.", {"file": str(out), "keys": held}, as_json)


def ask(
    run: Run,
    wish: Annotated[Wish, typer.Argument(help="What is wanted.")] = "report",
    at: Annotated[str, typer.Option("--at", help="Path of the module of a seed.")] = "",
    blueprint: Annotated[str, typer.Option(help="What a seed is made by.")] = "",
    why: Annotated[str, typer.Option(help="For the audit.")] = "",
    to: Annotated[int | None, typer.Option(min=0, help="Step to go back to.", metavar="STEP")] = None,
    key: Annotated[
        str, typer.Option(help="Of a command sent before: it is answered, and not done again.")
    ] = "",
    wait: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer.")] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Ask a run that trains how it stands, or to do something where its epoch ends.

    Only who holds its key ring is believed, and every command is in the audit. A report comes within seconds
    while optimizer steps are made.
    """
    from esper.cli.asking import asked, command_of, state_table

    command = command_of(wish, slot=at, blueprint=blueprint, why=why, to=to, key=key)
    facts = asked(run, command, wait, lambda text: typer.echo(text, err=True))
    output.show(state_table(facts), facts, as_json)


def _change(run: Path, change: Change, key: str | None, *, yes: bool, as_json: bool) -> None:
    from esper.cli.keys import change_keys

    def confirm(lost: Sequence[str]) -> None:
        what = f"These rest on {key} alone and will not verify any more: {', '.join(lost)}"
        if as_json and not yes:
            raise ConfigError(f"{what}. With --json nobody is asked. Add --yes if that is meant.")
        if not yes:
            typer.confirm(f"{what}. Go on?", abort=True, err=True)

    facts = change_keys(run, change, key, confirm)
    text = f"Key {facts['key']} is {facts['change']}; {facts['primary']} seals from now on."
    if not facts["is_changed"]:
        text = f"Key {facts['key']} is the primary one already; the ring was not changed."
    if facts["resealed"]:
        is_all = not facts["not_resealed"] and not facts["not_rewrapped"]
        so = ", so nothing rests on older keys alone" if is_all else ""
        text += f" It vouches for {facts['resealed']} manifest(s) as well{so}."
    if facts["not_resealed"]:
        text += " It does not vouch for these manifests: " + "; ".join(facts["not_resealed"])
    if facts["rewrapped"]:
        text += f" The keys of {facts['rewrapped']} encrypted file(s) were wrapped by it."
    if facts["healed"]:
        text += " Of these files one copy of the key did not open, and both are whole now: " + "; ".join(
            facts["healed"]
        )
    if facts["not_rewrapped"]:
        text += " Still by an older key: " + "; ".join(facts["not_rewrapped"])
    output.show(text, facts, as_json)


def _exit_if_damaged(problems: object) -> None:
    if problems:
        raise typer.Exit(EXIT_DAMAGED)
