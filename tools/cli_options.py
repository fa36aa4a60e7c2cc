"""The options that several commands share, each with its help."""

from pathlib import Path
from typing import Annotated

import typer

CHECKS, INPUTS, OUTPUT, RUNS = "Verification", "Inputs", "Output", "Measurement"
"""Panels of the help pages."""

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file to read.")]

Rtol = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Allowed max |Δ|, as a fraction of the output's max |y|. By default 1e-4 for float32, "
        "1e-2 for float16, 1e-9 for float64.",
        rich_help_panel=CHECKS,
    ),
]
Atol = Annotated[
    float | None,
    typer.Option(min=0.0, help="Added to the allowed max |Δ|.", rich_help_panel=CHECKS),
]
InputFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=FILE.npy",
        help="A real input, which beats random ones. Repeatable.",
        rich_help_panel=INPUTS,
    ),
]
InputArchive = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        metavar="FILE.npz",
        help="Real inputs, an array for each name.",
        rich_help_panel=INPUTS,
    ),
]
InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="NAME:1,3,224,224",
        help="Extents for the random inputs where the model leaves them open; the model keeps its "
        "dynamic shapes. Repeatable.",
        rich_help_panel=INPUTS,
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, help="Seed of the random inputs.", rich_help_panel=INPUTS)
]
Passes = Annotated[
    list[str] | None,
    typer.Option(
        "--passes",
        "-p",
        metavar="PASS,…",
        help="What to run, in order: names as `passel passes` lists them, with parameters if need "
        "be (\"compress(form='paper')\"), 'default' or 'none'. Repeatable. By default: default",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        "-x",
        metavar="PATTERN",
        help="Keep the passes off these ops: a name, a kind, a module path, or re:EXPRESSION "
        "(`passel inspect --ops` lists them). Repeatable.",
    ),
]

Out = Annotated[Path | None, typer.Argument(metavar="OUT", help="Where to write.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Where to write; may be MODEL, which is replaced safely."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Do everything but write, and say what it would take.")
]
Report = Annotated[
    Path | None,
    typer.Option(help="Write what was done, and why not, as JSON.", rich_help_panel=OUTPUT),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Show every pass and output.", rich_help_panel=OUTPUT),
]
Opset = Annotated[
    int | None,
    typer.Option(
        help="Opset to write. By default the file's own, raised to 23 where possible.",
        rich_help_panel=OUTPUT,
    ),
]
Portable = Annotated[
    bool,
    typer.Option(
        "--portable/--no-portable",
        help="Standard operators only, or ONNX Runtime's own ones too where it has faster ones.",
        rich_help_panel=OUTPUT,
    ),
]
ExternalData = Annotated[
    bool | None,
    typer.Option(
        "--save-as-external-data/--inline",
        help="Weights in OUT.data, or in OUT itself. By default outside from 1.8 GB on.",
        rich_help_panel=OUTPUT,
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify/--no-verify",
        help="Compare with the original before writing.",
        rich_help_panel=CHECKS,
    ),
]
Threads = Annotated[
    int, typer.Option(min=0, help="Threads; 0 for all cores.", rich_help_panel=RUNS)
]
Runs = Annotated[int, typer.Option(min=1, help="Measured calls.", rich_help_panel=RUNS)]
Warmup = Annotated[int, typer.Option(min=0, help="Calls before them.", rich_help_panel=RUNS)]
Target = Annotated[str, typer.Option(help="cpu or cuda.", rich_help_panel=RUNS)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Ops = Annotated[bool, typer.Option("--ops", help="List every op, as --exclude can name it.")]
Largest = Annotated[int, typer.Option("--top", min=0, help="How many of the largest weights.")]


def split_passes(entries: list[str] | None) -> list[str]:
    """Specs from `--passes` entries: commas separate them, except inside parentheses."""
    if entries is None:
        return ["default"]
    found = []
    for entry in entries:
        depth, start = 0, 0
        for position, char in enumerate(entry):
            depth += (char == "(") - (char == ")")
            if char == "," and depth == 0:
                found.append(entry[start:position])
                start = position + 1
        found.append(entry[start:])
    return [spec.strip() for spec in found if spec.strip()]
