"""The public functions: capture -> passes -> lower, each step verified and reported.

`compile` ends in a callable on a runtime, `optimize` in a program of the IR it came in, and
`export_onnx` in a file.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from torch.export import ExportedProgram

from .backends.compiled import CompiledModel
from .backends.onnxruntime import provider
from .backends.target import Target
from .backends.tvm.available import require
from .capture import Captured, capture
from .errors import InvalidInput
from .evaluation import Evaluate, evaluate_original, evaluate_program, evaluate_result
from .execution import runner
from .graph.fx_tensor import to_numpy
from .graph.onnx_io import OLDEST_OPSET, check_writable, write
from .lower import Lowering, lower, offer_times_where_asked
from .onnx_form import as_onnx, file_form, sayable
from .passes.driver import Exclude, Progress
from .passes.registry import Request
from .passes.report import Report
from .pipeline import Job, stage
from .progress import announced

BACKENDS = ("auto", "onnxruntime", "tvm", "torch")


@dataclass
class Optimized:
    """A program after the passes.

    Attributes:
        program: an ExportedProgram when a torch model came in, an onnx_ir.Model when ONNX did.
        report: what was done.
    """

    program: ExportedProgram | ir.Model
    report: Report


@announced
def compile(
    model: Any,
    example_inputs: Any = None,
    *,
    target: str | Target = "cpu",
    passes: Request = "default",
    backend: str = "auto",
    dynamic_shapes: Any = None,
    verify: bool = True,
    exclude: Exclude = (),
    threads: int = 0,
    measure: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
) -> CompiledModel:
    """Optimize a model and lower it to a runtime; the result is called like the model.

    Args:
        model: a torch.nn.Module in eval mode, an ExportedProgram, a path to an .onnx file, an
            onnx.ModelProto or an onnx_ir.Model.
        example_inputs: a tensor, a tuple, or a dict of keyword inputs; ONNX can do without.
        target: "cpu", "cuda", or a `Target`.
        passes: "default", "none", or a list of names, specs and pass objects.
        backend: "onnxruntime", "tvm" (extra `passel[tvm]`), "torch" (the passes, then eager torch),
            or "auto": what `autotune` found fastest for this graph on this machine; else ONNX
            Runtime, but torch where it lacks a kernel (bfloat16, convs in float64).
        dynamic_shapes: as in torch.export, or with names: {"x": {0: "batch"}}.
        verify: compare with the original on the examples and on seeded random inputs. With a lossy
            pass the errors are reported, and bounded only by rtol and atol.
        exclude: keeps passes off ops of this name, kind or module path ("re:" and an expression
            too); or a dict of such lists by pass name.
        threads: intra-op threads; 0 for all physical cores.
        measure: choose between lowerings by measuring them for two seconds, once for equal graphs.
        rtol, atol: bound on max |Δ| as rtol·max |y| + atol, instead of the dtype's own.
        evaluate: called with the model and then with the result, both called like the model; gives
            a number, or a dict of numbers, for the report ("what does this cost in accuracy?").
        progress: called with (pass, position, total) before each pass.

    Raises:
        PasselError: the kinds are in `passel.errors`. VerificationError names the guilty pass.
    """
    aim = aimed(backend, target, threads)
    job = Job.of(passes, exclude, progress, rtol, atol, threads or aim.threads)
    captured = _captured(job, model, example_inputs, dynamic_shapes)
    evaluate_original(job, captured, evaluate)
    compiled = lower(job, captured, Lowering(backend, aim, measure, verify))
    evaluate_result(job, evaluate, compiled)
    return compiled


def aimed(backend: str, target: str | Target, threads: int) -> Target:
    """The target, if the backend can be had there.

    Raises:
        InvalidInput: the backend or target is unknown, or they do not go together.
        BackendUnavailable: the backend is not installed, or the machine lacks the target.
    """
    if backend not in BACKENDS:
        raise InvalidInput(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    aim = target if isinstance(target, Target) else Target.parse(target)
    if backend == "torch" and aim.kind != "cpu":
        raise InvalidInput(f"target: expected 'cpu' for backend 'torch', got {str(target)!r}")
    if threads < 0:
        raise InvalidInput(f"threads: expected 0 or more, got {threads!r}")
    if backend == "tvm":
        require(threads or aim.threads)
    elif backend != "torch":
        provider(aim.kind)
    return aim


@announced
def optimize(
    model: Any,
    example_inputs: Any = None,
    *,
    passes: Request = "default",
    dynamic_shapes: Any = None,
    verify: bool = True,
    exclude: Exclude = (),
    rtol: float | None = None,
    atol: float | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
) -> Optimized:
    """Run the passes and stay in the IR that came in; arguments as in `compile`.

    A Module or ExportedProgram gives an ExportedProgram (for torch.compile, AOTInductor or
    torch.export.save); ONNX gives an onnx_ir.Model (onnx_ir.save writes it).

    Raises:
        PasselError: as `compile`.
    """
    job = Job.of(passes, exclude, progress, rtol, atol)
    captured = _captured(job, model, example_inputs, dynamic_shapes)
    evaluate_original(job, captured, evaluate)
    program = sayable(job, captured.program)
    with stage(job.report, "passes"):
        lowered = job.run(program)
    if verify:
        _verify(job, captured, captured.program, lowered)
    evaluate_program(job, captured, evaluate, lowered)
    return Optimized(lowered, job.report)


@announced
def export_onnx(
    model: Any,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    passes: Request = "default",
    opset: int | None = None,
    dynamic_shapes: Any = None,
    verify: bool = True,
    portable: bool = True,
    external_data: bool | None = None,
    exclude: Exclude = (),
    rtol: float | None = None,
    atol: float | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
) -> Report:
    """Run the passes and write a standard ONNX file; arguments as in `compile`.

    Args:
        path: the file to write; weights go to `<path>.data` beside it when the model is large.
        opset: opset of the file; by default 23 for torch models, and for ONNX the file's own,
            raised to 23 where that is possible (RMSNormalization needs it); newer where a
            quantized format needs it.
        portable: use standard-domain ops only, which any runtime reads; otherwise com.microsoft
            ops where ONNX Runtime runs them faster.
        external_data: force weights into (True) or out of (False) a separate file.

    Raises:
        PasselError: as `compile`; InvalidInput when the path cannot be written. Nothing is left
            half written, and nothing at all after a failed verification.
    """
    target = Path(path)
    check_writable(target)
    _check_opset(opset)
    job = Job.of(passes, exclude, progress, rtol, atol)
    captured = _captured(job, model, example_inputs, dynamic_shapes)
    original = as_onnx(job, captured, opset)
    offer_times_where_asked(job)
    evaluate_original(job, captured, evaluate)
    with stage(job.report, "passes"):
        lowered = file_form(job.report, job.run(original), portable=portable)
    if verify:
        _verify(job, captured, original, lowered)
    evaluate_program(job, captured, evaluate, lowered)
    with stage(job.report, "write"):
        write(lowered, target, external=external_data)
    return job.report


def _captured(job: Job, model: Any, example_inputs: Any, dynamic_shapes: Any) -> Captured:
    with stage(job.report, "capture"):
        captured = capture(model, example_inputs, dynamic_shapes)
    job.report.model = captured.name
    if captured.inputs is not None:
        job.context.examples = [[to_numpy(tensor) for tensor in captured.inputs]]
    return captured


def _check_opset(opset: int | None) -> None:
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not (isinstance(opset, int) and OLDEST_OPSET <= opset <= newest):
        raise InvalidInput(f"opset: expected {OLDEST_OPSET} to {newest}, got {opset!r}")


def _verify(job: Job, captured: Captured, original: Any, lowered: Any) -> None:
    inputs = captured.inputs_for(original)
    job.verify(captured, original, inputs, runner(lowered), "by program")
