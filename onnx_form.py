"""A captured model as ONNX before the passes, and what they made as a file after them."""

from collections.abc import Sequence

import onnx_ir as ir
from torch.export import ExportedProgram

from .backends.integer_products import integer_products, readable
from .backends.ort_forms import fused
from .backends.standard_integers import standard_integers
from .capture import OPSET, Captured, to_onnx
from .errors import InvalidInput
from .graph.onnx_io import raise_opset
from .passes import Quantize
from .passes.base import AnyPass
from .passes.report import Report
from .pipeline import Job, stage


def as_onnx(job: Job, captured: Captured, opset: int | None = None) -> ir.Model:
    """The captured program as ONNX, at the opset asked for or else the best one.

    Raises:
        InvalidInput: it cannot be had at the opset asked for, or the passes need a newer one.
    """
    report, program = job.report, captured.program
    wanted = wanted_opset(job.passes, opset)
    with stage(report, "to onnx"):
        if isinstance(program, ExportedProgram):
            model, reason = to_onnx(program, wanted, captured.dims), "torch.onnx goes no further"
        else:
            model, reason = raise_opset(program, wanted)
    found = model.opset_imports.get("", wanted)
    if opset is not None and found != opset:
        raise InvalidInput(
            f"opset: got {found} instead of the {opset} asked for: {reason or LOWERED}"
        )
    if found != wanted and reason:
        report.notes.append(reason)
    check_opset(job.passes, found, reason)
    return model


LOWERED = "a model's opset can only be raised"


def wanted_opset(passes: Sequence[AnyPass], opset: int | None = None) -> int:
    """The opset asked for, or else one at which the passes can say what they write.

    Raises:
        InvalidInput: the one asked for is too old for that.
    """
    if opset is not None:
        check_opset(passes, opset)
        return opset
    return max([OPSET, *(one.opset for one in passes if isinstance(one, Quantize))])


def sayable(job: Job, program: ExportedProgram | ir.Model) -> ExportedProgram | ir.Model:
    """The program; an ONNX one at an opset at which the passes can say what they write."""
    if isinstance(program, ExportedProgram):
        return program
    wanted = max((one.opset for one in job.passes if isinstance(one, Quantize)), default=0)
    raised, reason = raise_opset(program, wanted)
    check_opset(job.passes, raised.opset_imports.get("", wanted), reason)
    return raised


def check_opset(passes: Sequence[AnyPass], opset: int, reason: str = "") -> None:
    """Refuse an opset that is too old for the formats of a scheme."""
    for one in passes:
        if isinstance(one, Quantize) and one.opset > opset:
            raise InvalidInput(
                f"opset: expected at least {one.opset} for scheme {one.scheme!r}, got {opset}"
                + (f" ({reason})" if reason else "")
            )


def file_form(report: Report, lowered: ir.Model, *, portable: bool) -> ir.Model:
    """What the passes made, as a file holds it: standard operators, or ONNX Runtime's own too."""
    if not portable:
        return fused(integer_products(lowered))
    standard = standard_integers(lowered)
    if not _dequantizers(standard):
        return standard
    found = readable(standard)
    lost = _dequantizers(standard) - _dequantizers(found)
    if lost:
        report.notes.append(
            f"weights stored in float after all: {lost}; ONNX Runtime 1.32 multiplies "
            "standard Q/DQ of their format and shape wrongly, without portable it has kernels"
        )
    return found


def _dequantizers(model: ir.Model) -> int:
    return sum(node.op_type == "DequantizeLinear" for node in model.graph)
