"""The command `passel quantize`: its arguments; cli_quantize_run.py does the work."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import InvalidInput
from . import cli_options as options
from . import cli_quantize_options as more
from .cli_commands import app, one_output

if TYPE_CHECKING:  # both load torch
    from ..passes import Quantize
    from .cli_optimize import Order


@dataclass(frozen=True)
class Run:
    """Options about files, checks and inputs, most of them those of `passel optimize`."""

    model: options.Model
    out: options.Out = None
    output: options.Output = None
    passes: options.Passes = None
    dry_run: options.DryRun = False
    report: options.Report = None
    plot: more.Plot = None
    verbose: options.Verbose = False
    opset: options.Opset = None
    portable: options.Portable = True
    save_as_external_data: options.ExternalData = None
    verify: options.Verify = True
    rtol: options.Rtol = None
    atol: options.Atol = None
    measure: more.Measure = False
    threads: options.Threads = 0
    input_files: options.InputFiles = None
    inputs: options.InputArchive = None
    input_shape: options.InputShapes = None
    seed: options.Seed = 0

    def order(self, one: "Quantize") -> "Order":
        """What to do."""
        from .cli_inputs import given_inputs
        from .cli_optimize import Order

        return Order(
            self.model,
            given_inputs(self.input_files, self.inputs, self.input_shape, self.seed),
            one_output(self.out, self.output),
            (*options.split_passes(self.passes), one),
            (),
            self.opset,
            self.verify,
            self.rtol,
            self.atol,
            self.portable,
            self.save_as_external_data,
            self.report,
            self.dry_run,
            self.verbose,
            self.threads,
        )


@dataclass(frozen=True)
class Asked:
    """Options that are parameters of the pass."""

    scheme: more.Scheme = "int8-dynamic"
    weights: more.Weights = ""
    per_channel: more.PerChannel = None
    block_size: more.BlockSize = None
    symmetric: more.Symmetric = None
    reduce_range: more.ReduceRange = False
    calibration: more.Calibration = None
    calibrate_method: more.CalibrateMethod = "minmax"
    num_calibration_samples: more.SampleCount = "0"
    calibration_cache: more.Cache = None
    work_dir: more.WorkDir = None
    exclude: more.NotThese = None
    op_types: more.OpTypes = None
    placement: more.Placement = None
    budget: more.Budget = ""
    sensitivity: more.Sensitivity = False

    def quantizer(self) -> "Quantize":
        """The pass.

        Raises:
            InvalidInput: a value is unknown, or two contradict each other.
        """
        from ..quantization_api import quantizer

        return quantizer(
            scheme=self.scheme,
            weights=self.weights,
            calibration=None if self.calibration is None else str(self.calibration),
            placement=_placement(self.placement),
            calibrate_method=self.calibrate_method,
            calibration_samples=_samples(self.num_calibration_samples),
            calibration_cache_path=_text(self.calibration_cache),
            nodes_to_exclude=tuple(self.exclude or ()),
            **({} if self.op_types is None else {"op_types_to_quantize": _listed(self.op_types)}),
            per_channel=self.per_channel,
            block_size=self.block_size,
            symmetric=self.symmetric,
            reduce_range=self.reduce_range,
            budget=self.budget,
            sensitivity=self.sensitivity,
            work_dir=_text(self.work_dir),
        )


@app.command()
@more.taking(Asked, Run)
def quantize(context: typer.Context, asked: Asked, run: Run) -> None:
    """Quantize a model, after the exact passes; compare with the original, write.

    \b
    passel quantize m.onnx -o q.onnx                          int8, scales found at run time
    passel quantize m.onnx -o q.onnx --scheme int8 --calibration data.npz
    passel quantize m.onnx -o q.onnx --scheme w4 --weights awq+gptq -c data/ --budget "snr>=25"
    passel quantize m.onnx --scheme int8 --dry-run            what would be quantized, and how
    passel quantize m.onnx -o q.onnx --passes none -x re:lm_head
    """
    from .cli_quantize_run import Extras, carry_out

    one = asked.quantizer()
    carry_out(run.order(one), one, Extras(run.plot, run.measure), context.obj)


def _text(path: Path | None) -> str:
    return "" if path is None else str(path)


def _listed(entries: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.strip() for entry in entries for part in entry.split(",") if part.strip())


def _samples(text: str) -> int | str | tuple[str, int]:
    """N, "el2n" or "el2n:N" as `calibration_samples` takes it."""
    name, _, count = text.rpartition(":")
    if count.isdecimal():
        return (name, int(count)) if name else int(count)
    if text != "el2n":
        raise InvalidInput(
            f"--num-calibration-samples: expected a number, el2n or el2n:NUMBER, got {text!r}"
        )
    return text


def _placement(entries: Sequence[str] | None) -> str | tuple[tuple[str, str], ...]:
    """A name, or pairs "PATTERN=FORM"."""
    given = list(entries or ["auto"])
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    alone = [entry for entry in given if "=" not in entry]
    if alone:
        raise InvalidInput(f"--placement: expected PATTERN=FORM beside others, got {alone[0]!r}")
    pairs = (entry.rpartition("=") for entry in given)
    return tuple((pattern, form) for pattern, _, form in pairs)
