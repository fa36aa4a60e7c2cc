"""The commands of the command line: their arguments and the help that explains them."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidInput
from . import cli_options as options
from .cli_screen import Screen

COMMANDS = tuple("optimize quantize tune inspect passes run diff target db bench".split())
DISAGREES = 1
"""Exit status when two models do not compute the same."""

HELP = """Make trained ONNX models smaller and faster without changing what they compute.

\b
passel in.onnx out.onnx            optimize, verify, write, say what changed
passel in.onnx --dry-run           the same, but write nothing
passel quantize in.onnx q.onnx     the same in few bits, and what that costs
passel tune in.onnx -o tuned/      search for the fastest way to run it here
passel inspect in.onnx             what each pass would do, and why not
passel diff in.onnx out.onnx       do both compute the same?
passel run out.onnx --threads 4    latency and output shapes
passel target                      what this machine is, and what it may use
passel db list                     what tuning has found
"""
EPILOG = (
    "-q, --debug and --version may stand anywhere. Exit status: 0 fine, 1 the results disagree, "
    "2 bad input, 3 a bug in passel, 130 interrupted. Nothing is left half-written."
)

app = typer.Typer(
    name="passel",
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def start(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Options that concern every command."""
    context.obj = Screen(quiet, debug)


@app.command()
def optimize(
    context: typer.Context,
    model: options.Model,
    out: options.Out = None,
    output: options.Output = None,
    passes: options.Passes = None,
    exclude: options.Exclude = None,
    dry_run: options.DryRun = False,
    report: options.Report = None,
    verbose: options.Verbose = False,
    opset: options.Opset = None,
    portable: options.Portable = True,
    save_as_external_data: options.ExternalData = None,
    verify: options.Verify = True,
    rtol: options.Rtol = None,
    atol: options.Atol = None,
    input_files: options.InputFiles = None,
    inputs: options.InputArchive = None,
    input_shape: options.InputShapes = None,
    seed: options.Seed = 0,
) -> None:
    """Run the passes, compare with the original, write. The default command.

    \b
    passel in.onnx out.onnx
    passel optimize in.onnx -o in.onnx                 replace it, safely
    passel in.onnx out.onnx --passes default,compress --report out.json
    passel in.onnx out.onnx -x re:lm_head              leave the head alone
    passel in.onnx out.onnx --input-shape ids:2,128    extents to verify with
    """
    from .cli_inputs import given_inputs
    from .cli_optimize import Order, carry_out

    order = Order(
        model,
        given_inputs(input_files, inputs, input_shape, seed),
        one_output(out, output),
        options.split_passes(passes),
        exclude or (),
        opset,
        verify,
        rtol,
        atol,
        portable,
        save_as_external_data,
        report,
        dry_run,
        verbose,
    )
    carry_out(order, context.obj)


def one_output(out: Path | None, output: Path | None) -> Path | None:
    """Where to write, which may be said in two ways.

    Raises:
        InvalidInput: they differ.
    """
    if out is not None and output is not None and out != output:
        raise InvalidInput(f"expected one output, got {str(out)!r} and --output {str(output)!r}")
    return output or out


@app.command()
def inspect(
    context: typer.Context,
    model: options.Model,
    ops: options.Ops = False,
    top: options.Largest = 5,
    as_json: options.AsJson = False,
) -> None:
    """Show ops, sizes, residual streams, what each pass would do, and why not.

    \b
    passel inspect model.onnx
    passel inspect model.onnx --ops            the names that --exclude takes
    passel inspect model.onnx --json | jq .passes
    """
    from .inspect_model import inspect as look
    from .inspect_text import inspection_parts

    screen: Screen = context.obj
    with screen.working() as working:
        working.say(f"looking at {model}")
        found = look(model)
    if as_json:
        screen.print_json(found.to_dict())
    else:
        screen.print(*inspection_parts(found, top, ops))


@app.command()
def passes(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Show this pass's card.")] = None,
) -> None:
    """List the passes, or explain one: its algebra, when it applies, what it gains.

    \b
    passel passes
    passel passes compress
    """
    from .cli_passes import card, listing

    context.obj.print(*(listing() if name is None else card(name)))


@app.command()
def run(
    context: typer.Context,
    model: options.Model,
    runs: options.Runs = 50,
    warmup: options.Warmup = 5,
    threads: options.Threads = 0,
    target: options.Target = "cpu",
    input_files: options.InputFiles = None,
    inputs: options.InputArchive = None,
    input_shape: options.InputShapes = None,
    seed: options.Seed = 0,
) -> None:
    """Run a model on ONNX Runtime: shapes and latency. Extents left open are 1.

    \b
    passel run model.onnx --threads 4
    passel run model.onnx --input-shape ids:1,128 --runs 200
    """
    from .cli_inputs import given_inputs
    from .cli_run import Trial
    from .cli_run import run as carry_out

    given = given_inputs(input_files, inputs, input_shape, seed, symbolic=1)
    carry_out(Trial(model, given, runs, warmup, threads, target), context.obj)


@app.command()
def diff(
    context: typer.Context,
    left: Annotated[Path, typer.Argument(metavar="A", help="The .onnx file to compare with.")],
    right: Annotated[Path, typer.Argument(metavar="B", help="The other one.")],
    rtol: options.Rtol = None,
    atol: options.Atol = None,
    input_files: options.InputFiles = None,
    inputs: options.InputArchive = None,
    input_shape: options.InputShapes = None,
    seed: options.Seed = 0,
) -> None:
    """Compare two models: ops, sizes, and outputs on the same inputs. Status 1 if they disagree.

    \b
    passel diff in.onnx out.onnx
    passel diff float.onnx int8.onnx --rtol 0.05 --inputs batch.npz
    """
    from .cli_diff import Comparison
    from .cli_diff import diff as carry_out
    from .cli_inputs import given_inputs

    given = given_inputs(input_files, inputs, input_shape, seed)
    if not carry_out(Comparison(left, right, given, rtol, atol), context.obj):
        raise typer.Exit(DISAGREES)


@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def bench(context: typer.Context) -> None:
    """Measure latency against plain ONNX Runtime and torch; `passel bench --help` says more.

    With --quant: quantized models against those of others; `passel bench --quant --help`.
    """
    arguments = [argument for argument in context.args if argument != "--quant"]
    try:
        if len(arguments) < len(context.args):
            from .bench.quant import main as bench_main
        else:
            from .bench import main as bench_main
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("passel."):
            raise InvalidInput(
                f"passel bench needs {error.name}: pip install 'passel[bench]'"
            ) from error
        raise InvalidInput("this installation of passel has no benchmarks") from error
    status = bench_main(arguments)
    if status:
        raise typer.Exit(status)
