"""Quantization to 8 bits at a scale found at run time, in as few passes over x as it takes.

    scale = (max(x, 0) − min(x, 0))/255, zero_point = round(−min(x, 0)/scale)
    codes = saturate(round(x/scale) + zero_point)
One scale for the whole tensor (ONNX DynamicQuantizeLinear, what the graph says) takes two passes:
the least and most of each row, then the codes. One scale per row takes a single pass, as no row
waits for another. A norm in front joins the first pass.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ....graph import Op, Value
from ....graph.ops import Dequantize, DynamicQuantize, Norm
from ....passes.quantization.by_row import RowCodes, row_codes
from ..machine import Machine
from ..vnni import dot_of
from .emission import Emission, computed
from .integer_grid import code, step, zero_point
from .norms import STATISTICS
from .quant import typed

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

Element = Callable[..., Any]


def per_tensor(op: Op, machine: Machine) -> Emission | None:
    """Codes of a float32 tensor with at least two axes, at one scale."""
    if not isinstance(op, DynamicQuantize) or not _is_table(op.x) or dot_of(machine) is None:
        return None
    norm = _norm_of(op.x, {op})
    reads = computed(op.inputs if norm is None else norm.inputs)

    def emit(emitter: "Emitter") -> "Sequence[relax.Expr]":
        x, low, high = _with_ranges(emitter, op.x, norm)
        scale, zero_point = _grid(emitter, low, high)
        return [_coded(emitter, x, scale, zero_point), *typed(emitter, op, scale, zero_point)]

    return Emission(op, reads, emit)


def by_row(op: Op, machine: Machine) -> Emission | None:
    """Codes of a float32 tensor at one scale per row, with scales and zero points."""
    found = row_codes(op)
    if found is None or not _is_table(found.codes.x) or dot_of(machine) is None:
        return None
    if not _are_read_behind(found):
        return None
    x = found.codes.x
    norm = _norm_of(x, found.reads)
    reads = computed([x] if norm is None else norm.inputs)

    def emit(emitter: "Emitter") -> "Sequence[relax.Expr]":
        codes, scale, zero = _by_row(emitter, x, norm)
        wider = [emitter.cast(zero, emitter.dtype(cast.output)) for cast in found.casts]
        return [codes, scale, zero, *wider]

    return Emission(op, reads, emit, also=found.made[1:])


def _are_read_behind(found: RowCodes) -> bool:
    """Whether all that reads scales and zero points comes after the codes."""
    made = set(found.made)
    readers = {reader for op in found.made[1:] for reader in op.output.readers} - made
    return all(isinstance(op, Dequantize) and op.x is found.codes.output for op in readers)


def _is_table(x: Value) -> bool:
    return x.dtype == np.float32 and x.rank is not None and x.rank > 1


def _norm_of(x: Value, readers: Collection[Op]) -> Norm | None:
    """The norm that makes x, over its last axis and for no others than these readers."""
    norm = x.producer
    if not isinstance(norm, Norm) or norm.ndim != 1 or norm.x.dtype != np.float32:
        return None
    return norm if set(x.readers) == set(readers) else None


def _row_of(emitter: "Emitter", x: Value, norm: Norm | None) -> "tuple[list[relax.Expr], Any]":
    """Operands, and a function from their tensors to an element of x."""
    if norm is None:
        return [emitter[x]], lambda data: lambda *i: data(*i)
    operands = [emitter[v] for v in (norm.x, norm.scale, norm.shift) if v is not None]
    *lead, width = emitter.extents(operands[0])

    def normalised(data: Any, *given: Any) -> Element:
        from tvm import tirx

        n, eps = tirx.convert(width).astype("float32"), tirx.const(norm.eps, "float32")
        plain = STATISTICS[norm.norm](lead, [width], lambda *i: data(*i), n, eps)

        def element(*i: Any) -> Any:
            result, left = plain(*i), iter(given)
            if norm.scale is not None:
                result = result * next(left)(i[-1])
            return result if norm.shift is None else result + next(left)(i[-1])

        return element

    return operands, normalised


def _ranges(lead: Sequence[Any], width: Any, x: Element) -> tuple[Any, Any]:
    """Least and most of each row."""
    from tvm import te

    k, j = te.reduce_axis((0, width), "k"), te.reduce_axis((0, width), "j")
    low = te.compute([*lead], lambda *i: te.min(x(*i, k), axis=k), name="low")
    high = te.compute([*lead], lambda *i: te.max(x(*i, j), axis=j), name="high")
    return low, high


def _with_ranges(
    emitter: "Emitter", x: Value, norm: Norm | None
) -> "tuple[relax.Expr, relax.Expr, relax.Expr]":
    """x, and the least and most of each row."""
    from tvm import te

    operands, row = _row_of(emitter, x, norm)
    shape = emitter.extents(operands[0])

    def compute(*tensors: Any) -> list[Any]:
        element = row(*tensors)
        if norm is None:
            return [*_ranges(shape[:-1], shape[-1], element)]
        made = te.compute(shape, element, name="norm")
        return [made, *_ranges(shape[:-1], shape[-1], made)]

    found = emitter.call_te(compute, *operands, name="ranges")
    parts = [emitter.emit(found[k]) for k in range(len(found.ty.fields))]
    return tuple(parts) if norm is not None else (operands[0], *parts)


def _grid(
    emitter: "Emitter", low: "relax.Expr", high: "relax.Expr"
) -> "tuple[relax.Expr, relax.Expr]":
    """Scale and zero point (), from the least and most of each row."""
    from tvm import te

    lead = emitter.extents(low)

    def extreme(best: Any, rows: Any, name: str) -> Any:
        axes = [te.reduce_axis((0, extent), "k") if extent != 1 else None for extent in lead]
        place = [0 if axis is None else axis for axis in axes]
        whole = [axis for axis in axes if axis is not None]
        found = rows(*place)
        return te.compute([], lambda: best(found, axis=whole) if whole else found, name=name)

    def compute(low: Any, high: Any) -> list[Any]:
        least, most = extreme(te.min, low, "least"), extreme(te.max, high, "most")
        scale = te.compute([], lambda: step(least(), most()), name="scale")
        zero = te.compute([], lambda: zero_point(least(), scale()).astype("uint8"), name="zero")
        return [scale, zero]

    found = emitter.call_te(compute, low, high, name="grid")
    return emitter.emit(found[0]), emitter.emit(found[1])


def _coded(
    emitter: "Emitter", x: "relax.Expr", scale: "relax.Expr", zero: "relax.Expr"
) -> "relax.Expr":
    from tvm import te

    def compute(x: Any, s: Any, z: Any) -> Any:
        def one(*i: Any) -> Any:
            return code(x(*i), s(), z().astype("float32"))

        return te.compute(x.shape, one, name="codes")

    return emitter.call_te(compute, x, scale, zero, name="codes")


def _by_row(emitter: "Emitter", x: Value, norm: Norm | None) -> "list[relax.Expr]":
    """Codes [.., M, K], scales and zero points [.., M, 1]."""
    from tvm import te

    operands, row = _row_of(emitter, x, norm)
    *lead, width = shape = emitter.extents(operands[0])

    def compute(*tensors: Any) -> list[Any]:
        made = te.compute(shape, row(*tensors), name="row")
        low, high = _ranges(lead, width, made)

        def scale_at(*i: Any) -> Any:
            return step(low(*i[:-1]), high(*i[:-1]))

        scale = te.compute([*lead, 1], scale_at, name="scale")

        def zero_at(*i: Any) -> Any:
            return zero_point(low(*i[:-1]), scale(*i)).astype("uint8")

        zero = te.compute([*lead, 1], zero_at, name="zero")

        def code_at(*i: Any) -> Any:
            at = (*i[:-1], 0)
            return code(made(*i), scale(*at), zero(*at).astype("float32"))

        return [te.compute(shape, code_at, name="codes"), scale, zero]

    found = emitter.call_te(compute, *operands, name="codes_by_row")
    return [emitter.emit(found[k]) for k in range(3)]
