"""The commands, one function each; `main` turns their errors into paragraphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from esper.cli import output
from esper.errors import CheckpointMissing, ConfigError
from esper.leyline import encode

EXIT_DAMAGED = 1
EXIT_FAILS = 1
DEMO_EPOCHS = 24
DEMO_FLOPS = 0.56

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
Approximate = Annotated[
    bool,
    typer.Option(
        "--allow-approximate",
        help="Also units of a function's model that normalizations run over: residual width, experts.",
    ),
]
Run = Annotated[Path, typer.Argument(help="A run directory: the run_dir given to esper.attach.")]


def demo(
    out: Annotated[Path | None, typer.Option(help="Run directory; unless given, a new one in runs/.")] = None,
    grow: Annotated[
        bool, typer.Option("--grow", help="Grow a network that is too narrow, instead of pruning one.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=4, help="Epochs of the run and its twin.")] = DEMO_EPOCHS,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, data split and order.")] = 0,
    flops: Annotated[
        float | None,
        typer.Option(min=0.05, max=0.9, help=f"Share of the FLOPs to remove; {DEMO_FLOPS} unless given."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train, prune, cut and validate a network on 5,000 real digits, beside its uncut twin.

    With --grow: seeds are tried in a network that is too narrow, refused or kept,
    and the result is pruned, beside networks that never grow.
    """
    from esper.cli.demo import free_folder, load_digits, run_demo, run_growing_demo
    from esper.cli.render import growing_table, report_table

    folder = free_folder(Path("runs")) if out is None else out
    if grow and flops is not None:
        raise ConfigError("--flops belongs to the demo of pruning; leave it away with --grow.")
    if grow:
        with output.epoch_progress(None, as_json) as told:
            report, pruned = run_growing_demo(folder, load_digits(seed), epochs=epochs, seed=seed, told=told)
        shown = growing_table(report, pruned)
    else:
        with output.epoch_progress(2 * epochs, as_json) as told:
            report = run_demo(folder, epochs=epochs, seed=seed, flops=flops or DEMO_FLOPS, told=told)
        shown = report_table(report)
    output.show(shown, encode(report), as_json)
    if not as_json:
        output.console().print(f"\nThe whole story, with charts: {folder / 'report.html'}")


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe: a TOML file that names network, data and loss.")],
    as_json: AsJson = False,
) -> None:
    """Train and prune by a recipe; a run that was interrupted goes on, a finished one is reported."""
    from esper.cli.recipe import Recipe
    from esper.cli.render import report_table
    from esper.cli.train import trained

    asked = Recipe.from_toml(recipe)
    with output.epoch_progress(asked.epochs, as_json, asked.metric) as told:
        report = trained(asked, recipe, told)
    output.show(report_table(report), encode(report), as_json)
    if not as_json:
        output.console().print(f"\nThe whole story, with charts: {asked.run_dir / 'report.html'}")


def inspect(
    target: Annotated[str, typer.Argument(help="module:function, a run directory, or one checkpoint.")],
    svg: Annotated[
        Path | None, typer.Option(help="Also draw the network with its coupled groups into this file.")
    ] = None,
    allow_approximate: Approximate = False,
    as_json: AsJson = False,
) -> None:
    """Show what can be removed from a network, what it would save, and what is frozen and why.

    The function of module:function takes no argument and returns (model, sample) or (model, sample, loss).
    """
    with output.waiting("reading and tracing the network", as_json):
        from esper.cli.drawing import draw
        from esper.cli.render import anatomy_table
        from esper.runs import anatomy_rows, inspected

        rows = anatomy_rows(inspected(target, allow_approximate=allow_approximate))
    if svg is not None:
        draw(target, rows, svg)
    output.show(anatomy_table(rows), dataclasses.asdict(rows), as_json)


def compact(
    target: Annotated[str, typer.Argument(help="A run directory, one checkpoint, or module:function.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new directory for the files.")],
    flops: Annotated[
        float | None, typer.Option(min=0.01, max=0.99, help="Share of the FLOPs to remove.")
    ] = None,
    parameters: Annotated[
        float | None, typer.Option(min=0.01, max=0.99, help="Share of the parameters to remove, instead.")
    ] = None,
    block: Annotated[
        list[str] | None,
        typer.Option(
            help="A residual layer of a function's model to remove, as inspect names it; repeatable."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Held-out samples to decide and judge by: .safetensors or .npz.")
    ] = None,
    allow_approximate: Approximate = False,
    fold: Annotated[
        bool, typer.Option("--fold", help="Fold units of a function's model that are there twice.")
    ] = False,
    as_program: Annotated[
        bool, typer.Option("--as-program", help="Cut a function's model as a program: its code is not asked.")
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also write network.onnx, checked by running it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Cut a network, prove it, and write it as files that load without its code.

    A function's model loses what costs least on --data, and what is left makes up for it; without --data the
    smallest weights go and the quality is not measured, as with a share that a checkpoint loses beyond what
    is masked in it. The finished network of a run is written as it is.
    """
    from esper.cli.compact import Order
    from esper.cli.render import compact_table

    order = Order(
        flops=flops,
        parameters=parameters,
        blocks=tuple(block or ()),
        data=data,
        as_program=as_program,
        allow_approximate=allow_approximate,
        fold=fold,
        onnx=onnx,
    )
    with output.waiting("cutting and checking", as_json or data is not None):  # a choice by data has a bar
        facts = order.carry_out(target, out, hidden=as_json)
    output.show(compact_table(facts), facts, as_json)


def checkpoints(run: Run, as_json: AsJson = False) -> None:
    """List the checkpoints of a run. Only manifests are read; `verify` reads every byte."""
    from esper.cli.render import checkpoint_table
    from esper.runs import checkpoint_rows, open_catalog

    rows = checkpoint_rows(open_catalog(run))
    output.show(checkpoint_table(run, rows), [dataclasses.asdict(row) for row in rows], as_json)


def verify(run: Run, as_json: AsJson = False) -> None:
    """Read every byte of every checkpoint and compare digests. Exit code 1 if one is damaged.

    Also if one of the two copies of a file's key does not open; `esper keys rotate` writes both again.
    """
    from esper.cli.render import verify_table
    from esper.runs import open_catalog, to_verify, verify_row

    catalog = open_catalog(run)
    paths = to_verify(catalog)
    watched = output.with_progress(paths, "verifying", len(paths), as_json)
    rows = tuple(verify_row(catalog, path) for path in watched)
    if not rows:
        raise CheckpointMissing(f"{run} holds no checkpoints, so there is nothing to verify.")
    output.show(verify_table(rows), [dataclasses.asdict(row) for row in rows], as_json)
    if any(row.findings for row in rows):
        raise typer.Exit(EXIT_DAMAGED)


def rollback(
    run: Run,
    to: Annotated[int, typer.Option("--to", help="The step to go back to.", metavar="STEP")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before later checkpoints are deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make an earlier checkpoint the newest one again, so that training resumes from it.

    It is verified first; later checkpoints are deleted, the report of a finished run is set aside, and
    `audit show` tells of it. Refused while the run is training.
    """
    from esper.runs import go_back

    def agree(later: Sequence[str]) -> None:
        if later and not yes:
            _confirm(later, to, as_json)

    done = go_back(run, to, agree)
    record = {"step": to, "epoch": done.epoch, "deleted": list(done.deleted), "aside": list(done.aside)}
    output.show(done.said(run), record, as_json)


def analyze(
    target: Annotated[Path, typer.Argument(help="A run directory, or one checkpoint.")],
    against_truth: Annotated[
        bool,
        typer.Option(
            "--against-truth", help="Also remove every unit alone, and compare the rankings with it."
        ),
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Also run the cycle that would follow; it is committed nowhere.")
    ] = False,
    blocks: Annotated[
        bool, typer.Option("--blocks", help="Also measure what leaving out each residual block would cost.")
    ] = False,
    heads: Annotated[
        bool, typer.Option("--heads", help="Also measure which attention heads look at the same things.")
    ] = False,
    elements: Annotated[
        bool,
        typer.Option(
            "--elements", help="Also show what training has kept of single weights, with its error."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Rank the units of a checkpoint by what it holds. Nothing is changed."""
    with output.waiting("looking at the checkpoint", as_json or against_truth):  # the truth has a bar
        from esper.cli.analyze import analysis_table, analyzed

        facts = analyzed(
            target,
            against_truth=against_truth,
            with_plan=plan,
            with_blocks=blocks,
            with_heads=heads,
            with_elements=elements,
            hidden=as_json,
        )
    output.show(analysis_table(facts), facts, as_json)


def config(
    file: Annotated[Path | None, typer.Argument(help="A TOML file with settings.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Add the type, default and meaning of each.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show every setting with its value and where it comes from; checks the file if one is given."""
    from esper.cli.explain import setting_rows
    from esper.cli.render import setting_list
    from esper.config import Config

    rows = setting_rows(Config() if file is None else Config.from_toml(file), str(file))
    output.show(setting_list(rows, explain), [dataclasses.asdict(row) for row in rows], as_json)


def _confirm(later: Sequence[str], step: int, as_json: bool) -> None:
    if as_json:
        raise ConfigError(
            f"Going back to step {step} deletes {len(later)} later checkpoints ({', '.join(later)}), "
            "and with --json nobody is asked. Add --yes if that is meant. Nothing was changed."
        )
    typer.confirm(f"Delete {len(later)} later checkpoints ({', '.join(later)})?", abort=True, err=True)


def follow(
    run: Run,
    as_json: Annotated[
        bool, typer.Option("--json", help="Pass the lines of telemetry on as they come, instead of drawing.")
    ] = False,
) -> None:
    """Watch a run from another terminal: how far, how good, what is gone, what Esper does and costs.

    Ends when the run does, or with Ctrl-C; a finished run is shown as it ended. Nothing here changes a run.
    """
    from esper.cli.follow import follow as follow_run

    follow_run(run, as_json)


def watch(
    bus: Annotated[
        str, typer.Argument(help="The telemetry.bus of runs: a .sqlite file, or redis://host:port/db.")
    ],
    group: Annotated[
        str, typer.Option(help="Who reads: each group gets every event once, its readers share them.")
    ] = "watch",
    dead: Annotated[
        bool, typer.Option("--dead", help="Show what the group was given too often, and end.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON document for each event, one a line.")
    ] = False,
) -> None:
    """Follow the events that runs publish to a bus, from any process, and miss none while you are away.

    An event is acknowledged once it is printed; what comes while nobody watches waits. Ends with Ctrl-C.
    """
    from esper.cli.watch import show_dead
    from esper.cli.watch import watch as watch_bus

    if dead:
        show_dead(bus, group, as_json)
    else:
        watch_bus(bus, group, as_json)


def doctor(
    folder: Annotated[Path, typer.Argument(help="Where run directories will be.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Say what is here, what is missing and how to get it, and what this machine can do.

    Takes about ten seconds: some of it is tried. Exit code 1 if something that Esper needs fails.
    """
    from esper.cli.doctor import findings, findings_table

    rows = list(output.with_progress(findings(folder), "trying things", None, as_json))
    output.show(findings_table(rows), [dataclasses.asdict(row) for row in rows], as_json)
    if any(row.state == "fails" for row in rows):
        raise typer.Exit(EXIT_FAILS)
