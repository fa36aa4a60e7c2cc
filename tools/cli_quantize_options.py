"""The options of `passel quantize`, each with its help, and how a command takes them in groups."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer

SCHEME, DATA, PLACE = "Formats", "Calibration", "Which ops"
"""Panels of the help page."""

Scheme = Annotated[
    str,
    typer.Option(
        "--scheme",
        "-s",
        help="int8, int8-dynamic, int8-per-token, int8-mixed, w8, w4, w4a8, fp8, fp8-e5m2, w4-fp, "
        "w2, ternary, binary, partial-binary; or W8A8, W4A16, …",
        rich_help_panel=SCHEME,
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        metavar="A+B+…",
        help="How weights are rounded: awq, smooth or hadamard first, then rtn, mse, gptq, "
        "adaround, flexround, lorc, … By default the scheme's own.",
        rich_help_panel=SCHEME,
    ),
]
PerChannel = Annotated[
    bool | None,
    typer.Option(
        "--per-channel/--per-tensor",
        help="A scale for each result channel of a weight, or one for all of it.",
        rich_help_panel=SCHEME,
    ),
]
BlockSize = Annotated[
    int | None,
    typer.Option(
        "--block-size",
        "--group-size",
        help="Neighbours in a weight that share a scale, 16 to 256.",
        rich_help_panel=SCHEME,
    ),
]
Symmetric = Annotated[
    bool | None,
    typer.Option(
        "--symmetric/--asymmetric",
        help="Whether zero points of weights are 0.",
        rich_help_panel=SCHEME,
    ),
]
ReduceRange = Annotated[
    bool,
    typer.Option(
        "--reduce-range",
        help="Weights in 7 bits, for processors whose 8-bit dot product saturates.",
        rich_help_panel=SCHEME,
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        "-c",
        metavar="DATA",
        help="Samples: an .npz file with an array for each input, first axis counting samples, or "
        "a folder of .npz files with one sample each. Static schemes need it.",
        rich_help_panel=DATA,
    ),
]
CalibrateMethod = Annotated[
    str,
    typer.Option(
        "--calibrate-method",
        "--calibration-method",
        help="minmax, moving-average, percentile, entropy or mse.",
        rich_help_panel=DATA,
    ),
]
SampleCount = Annotated[
    str,
    typer.Option(
        "--num-calibration-samples",
        metavar="N|el2n|el2n:N",
        help="How many samples to use (0 for all), or those that tell most.",
        rich_help_panel=DATA,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--calibration-cache",
        metavar="FILE",
        help="Keep ranges here, and take them from here.",
        rich_help_panel=DATA,
    ),
]
WorkDir = Annotated[
    Path | None,
    typer.Option(
        "--work-dir",
        metavar="FOLDER",
        help="Keep the state of a long run here; the same command goes on from it.",
        rich_help_panel=DATA,
    ),
]
NotThese = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        "--nodes-to-exclude",
        "-x",
        metavar="PATTERN",
        help="Leave these ops in float: a name, a kind, a module path, or re:EXPRESSION. Each has "
        "to match something. Repeatable.",
        rich_help_panel=PLACE,
    ),
]
OpTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--op-types",
        "--op-types-to-quantize",
        metavar="KIND,…",
        help="Of Linear (MatMul, Gemm), Conv, Embedding (Gather). By default Linear,Conv. "
        "Repeatable.",
        rich_help_panel=PLACE,
    ),
]
Placement = Annotated[
    list[str] | None,
    typer.Option(
        "--placement",
        metavar="HOW|PATTERN=FORM",
        help="auto, all, measured; or for some ops their form: static, dynamic, weight or float. "
        "Pairs are repeatable.",
        rich_help_panel=PLACE,
    ),
]
Budget = Annotated[
    str,
    typer.Option(
        "--budget",
        metavar="BOUND,…",
        help='"snr>=30", "error<=0.02", "size<=12MB": the most sensitive ops get a higher '
        "precision until it is met.",
        rich_help_panel=PLACE,
    ),
]
Sensitivity = Annotated[
    bool,
    typer.Option(
        "--sensitivity",
        help="Measure and show what each op alone does to the worst output.",
        rich_help_panel=PLACE,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE.png|svg",
        help="Draw the error of each layer (pip install 'passel\\[plot]').",
        rich_help_panel="Output",
    ),
]
Measure = Annotated[
    bool,
    typer.Option(
        "--measure", help="Time both files on ONNX Runtime in turns.", rich_help_panel="Measurement"
    ),
]


def taking(*groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command have the fields of dataclasses as options, and be called with one of each."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def command(context: typer.Context, **given: Any) -> None:
            made = (
                group(**{one.name: given[one.name] for one in fields(group)}) for group in groups
            )
            function(context, *made)

        parameters = [Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        for one in (one for group in groups for one in fields(group)):
            default = Parameter.empty if one.default is MISSING else one.default
            parameters.append(
                Parameter(one.name, Parameter.KEYWORD_ONLY, default=default, annotation=one.type)
            )
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        return command

    return decorate
