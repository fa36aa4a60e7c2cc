"""The command `passel tune`: its arguments; cli_tune_run.py does the work."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from . import cli_options as options
from .cli_commands import app
from .cli_quantize_options import taking

SEARCH, MEMORY = "Search", "Memory"
"""Panels of the help page."""

Folder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Where to save the result, for passel.load.",
        rich_help_panel=options.OUTPUT,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Time for the search: 30s, 5min, 1h. By default 5min, unless --trials says enough.",
        rich_help_panel=SEARCH,
    ),
]
Trials = Annotated[
    int | None, typer.Option(help="How many candidates to try.", rich_help_panel=SEARCH)
]
Objective = Annotated[
    str,
    typer.Option(
        help="latency, throughput (as many calls at once as the cores allow) or memory.",
        rich_help_panel=SEARCH,
    ),
]
MaxError = Annotated[
    float | None,
    typer.Option(
        help="Allow quantized candidates whose outputs are off by no more than this share of the "
        "largest one.",
        rich_help_panel=SEARCH,
    ),
]
Seed = Annotated[
    int, typer.Option(help="Seed of the search and of random inputs.", rich_help_panel=SEARCH)
]
Threads = Annotated[
    int,
    typer.Option(help="Threads of a call; 0 lets the search choose.", rich_help_panel=SEARCH),
]
Target = Annotated[
    str,
    typer.Option(help="cpu, cuda, or as `passel target` prints it.", rich_help_panel=SEARCH),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        "--database",
        metavar="URL",
        help="Where results are kept and workers meet: a file, or a SQLAlchemy URL. By default a "
        "file in the user's cache folder.",
        rich_help_panel=MEMORY,
    ),
]
Rpc = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT[/KEY]",
        help="Tune TVM's kernels on the devices of a TVM RPC tracker, for the CPU that --target "
        "names in full; the result, in --output, is for those devices.",
        rich_help_panel=SEARCH,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Draw the search, best latency over time, as .png or .svg.",
        rich_help_panel=options.OUTPUT,
    ),
]


@dataclass(frozen=True)
class Run:
    """The options."""

    model: options.Model
    output: Folder = None
    budget: Budget = None
    trials: Trials = None
    objective: Objective = "latency"
    max_error: MaxError = None
    target: Target = "cpu"
    threads: Threads = 0
    rpc: Rpc = None
    seed: Seed = 0
    passes: options.Passes = None
    storage: Storage = None
    report: options.Report = None
    plot: Plot = None
    as_json: options.AsJson = False
    input_files: options.InputFiles = None
    inputs: options.InputArchive = None
    input_shape: options.InputShapes = None


@app.command()
@taking(Run)
def tune(context: typer.Context, run: Run) -> None:
    """Search for the fastest way to run a model on this machine, and remember it.

    \b
    passel tune m.onnx                                   five minutes; prints what was found
    passel tune m.onnx -o tuned/ --budget 30min          save it for passel.load
    passel tune m.onnx --trials 50 --max-error 0.02      quantized candidates too
    passel tune m.onnx --storage postgresql://host/db    run it on several machines at once
    passel tune m.onnx --rpc host:9190 --target cpu:arch=znver4,threads=8 -o there/
    Ctrl-C ends the search with the best so far; the same command goes on from there.
    """
    if run.rpc is not None:
        from .cli_tune_remote import carry_out
    else:
        from .cli_tune_run import carry_out
    carry_out(run, context.obj)
