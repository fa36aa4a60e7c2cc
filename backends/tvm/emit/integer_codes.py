"""Quantization to 8 bits at a scale found at run time, in as few passes over x as it takes.

    scale = (max(x, 0) − min(x, 0))/255, zero_point = round(−min(x, 0)/scale)
    codes = saturate(round(x/scale) + zero_point)
One scale for the whole tensor (ONNX DynamicQuantizeLinear, what the graph says) takes two passes:
the least and most of each row, then the codes. A norm in front joins the first pass.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ....graph import Op, Value
from ....graph.ops import DynamicQuantize, Norm
from ..machine import Machine
from ..vnni import dot_of
from .emitter import Emission, computed
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
    norm = _norm_of(op)
    reads = computed(op.inputs if norm is None else norm.inputs)

    def emit(emitter: "Emitter") -> "Sequence[relax.Expr]":
        x, low, high = _with_ranges(emitter, op.x, norm)
        scale, zero_point = _grid(emitter, low, high)
        return [_coded(emitter, x, scale, zero_point), *typed(emitter, op, scale, zero_point)]

    return Emission(op, reads, emit)


def _is_table(x: Value) -> bool:
    return x.dtype == np.float32 and x.rank is not None and x.rank > 1


def _norm_of(op: DynamicQuantize) -> Norm | None:
    """The norm that makes x, over its last axis and for no other reader."""
    norm = op.x.producer
    if not isinstance(norm, Norm) or norm.ndim != 1 or norm.x.dtype != np.float32:
        return None
    return norm if op.x.readers == [op] else None


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
