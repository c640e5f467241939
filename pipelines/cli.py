"""The ``evenset`` command. Heavy imports wait until a command needs them, so that help is quick."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NoReturn

import typer

from pipelines import __version__, blas
from pipelines.interrupt import INTERRUPTED, TERMINATED, end, stoppable

app = typer.Typer(
    help="Turn a raw, long-tailed pool into a large, diverse and balanced training set.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigPath = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file; `evenset config` lists its keys.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Dotted overrides, such as sample.size=10_000.", show_default=False
    ),
]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"evenset {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and Ray's own messages.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = debug


@app.command("run")
def run_all(context: typer.Context, config: ConfigPath, overrides: Overrides = None) -> None:
    """Do all stages: embed, cluster, sample, export, report. Run it again to resume."""
    _run(context, config, overrides, None)


@app.command("embed")
def embed(context: typer.Context, config: ConfigPath, overrides: Overrides = None) -> None:
    """Turn the samples of the pool into embeddings."""
    _run(context, config, overrides, "embed")


@app.command("cluster")
def cluster(context: typer.Context, config: ConfigPath, overrides: Overrides = None) -> None:
    """Cluster the embeddings with hierarchical k-means."""
    _run(context, config, overrides, "cluster")


@app.command("sample")
def sample(context: typer.Context, config: ConfigPath, overrides: Overrides = None) -> None:
    """Draw the curated set, spread evenly over the clusters of every level."""
    _run(context, config, overrides, "sample")


@app.command("export")
def export(context: typer.Context, config: ConfigPath, overrides: Overrides = None) -> None:
    """Write the curated set in the formats asked for."""
    _run(context, config, overrides, "export")


@app.command("report")
def report(context: typer.Context, config: ConfigPath, overrides: Overrides = None) -> None:
    """Write report.html and metrics.json."""
    _run(context, config, overrides, "report")


@app.command("plan")
def show_plan(
    config: ConfigPath,
    overrides: Overrides = None,
    dimensions: Annotated[
        int | None,
        typer.Option(
            "--dimensions", help="Length of an embedding, if it cannot be told.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Count the pool and estimate time, memory and disk of its run, which is not started."""
    import json
    from dataclasses import asdict

    blas.choose()
    from rich.console import Console

    from pipelines.configfile import load_config
    from pipelines.plan import plan, show
    from pipelines.secrets import hidden

    found = plan(load_config(config, overrides), dimensions)
    if as_json:
        typer.echo(json.dumps(hidden(asdict(found)), indent=2))
    else:
        console = Console(highlight=False)
        show(found, console if console.is_terminal else Console(highlight=False, width=200))


@app.command("config")
def show_config() -> None:
    """List every config key with its default and its meaning."""
    from pipelines.config import described

    typer.echo(described())


@app.command("encoders")
def show_encoders() -> None:
    """List encoders: what they encode, dimensions, licence, whether they are here, and what is wrong."""
    from modalities import listing

    listed = listing.encoders()
    _list(("encoder.model", "encodes", "dimensions", "licence", "here"), listing.rows(listed), listed)


@app.command("modalities")
def show_modalities() -> None:
    """List every modality: its formats, its encoder, who brings it, and what is wrong with it."""
    from modalities import listing

    listed = listing.modalities()
    rows = [(one.name, one.kind, one.default_encoder, one.reads, one.origin) for one in listed]
    _list(("modality", "samples", "default encoder", "reads", "of"), rows, listed)


@app.command("status")
def show_status(run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")]) -> None:
    """Show what a run has done, how long it took, and what was rejected and why."""
    from rich.console import Console

    from pipelines.status import status

    console = Console(highlight=False)
    status(run, console if console.is_terminal else Console(highlight=False, width=200))


@app.command("demo")
def demo() -> None:
    """Curate real images and texts that are already on this machine, and name the reports."""
    with stoppable("evenset", "demo"):
        blas.choose()
        from pipelines.demo import demo as curate

        curate()


def _list(head: Sequence[str], rows: Iterable[Sequence[str]], listed: Iterable[Any]) -> None:
    """Print a table of what is listed, and below it what is wrong with some of it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipelines.secrets import told

    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=200)
    console.print(table)
    for one in listed:
        if one.problem:
            console.print(Text(told(one.problem)), soft_wrap=True)


def _run(context: typer.Context, config: str, overrides: list[str] | None, stage: str | None) -> None:
    with stoppable("evenset", stage or "run", config, *(overrides or ())):
        blas.choose()
        from pipelines.configfile import load_config
        from pipelines.run import run

        run(load_config(config, overrides), (stage,) if stage else None, debug=bool(context.find_root().obj))


def command() -> NoReturn:
    """What ``evenset`` runs: `main`, in a process that is its own."""
    try:
        main()
    except SystemExit as over:
        if over.code in (INTERRUPTED, TERMINATED):
            end(over.code)
        raise


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line: 0 for success, 1 for a failed run, 2 for a bad request.

    Args:
        arguments: What to run; by default what this process was started with.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if debug:  # it is a global option, but may stand anywhere
        arguments = ["--debug", *(argument for argument in arguments if argument != "--debug")]
    try:
        app(arguments, prog_name="evenset")  # ends in SystemExit, and in 2 where it cannot be parsed
    except Exception as error:
        from pipelines.secrets import hide_in_tracebacks, told

        if debug:
            hide_in_tracebacks()
            raise
        sentence, code = explain(error)
        typer.echo(f"evenset: {told(sentence)}", err=True)
        sys.exit(code)
    sys.exit(0)


_IN_AN_ACTOR = re.compile(
    r"^(?:pipelines|curation)\.errors\.(RequestError|RunError|CurationError): (.+)$", re.MULTILINE
)
"""Of an actor that could not begin, Ray keeps the text of the error alone."""


def explain(error: Exception) -> tuple[str, int]:
    """What to say to a person, and the exit code: 2 for a bad request, 1 for a failed run."""
    from curation.errors import CurationError
    from modalities.base import ModalityError
    from pipelines import errors
    from pipelines.errors import EvensetError, causes

    chain = causes(error)
    for cause in chain:
        if isinstance(cause, EvensetError):
            return str(cause), cause.exit_code
        if isinstance(cause, CurationError | ModalityError):
            return str(cause), 2
    for cause in chain:
        if isinstance(cause, PermissionError):
            return f"not allowed: {cause}: give this user access, or choose another path", 2
    root = chain[0]  # what the worker raised, without what Ray wrapped it in
    if type(root).__module__.startswith("ray."):
        if told := _IN_AN_ACTOR.search(str(root)):
            # curation knows no exit codes: what it refuses is a bad request
            return told[2], getattr(errors, told[1], errors.RequestError).exit_code
        text = " ".join(str(root).split("\n")[0].split())
        return (
            f"a worker process of Ray failed ({type(root).__name__}: {text}); if it ran out of memory,"
            " let it hold less (encoder.batch_size and encoder.actors while embedding, cluster.memory and"
            " cluster.shards while clustering); run the same command again to go on from here, with"
            " --debug to see more",
            1,
        )
    text = " ".join(str(root).split())
    return f"{type(root).__name__}: {text} (this should not happen; --debug shows where)", 1
