"""How quantize and dequantize are spelled where no kernel takes the codes as they are.

Codes of less than a byte take a byte each. The arithmetic is that of `graph.quant_numbers`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ....graph import Value
from ....graph.ops import Dequantize, DynamicQuantize, Quantize
from ....graph.quant_numbers import is_integer, limits
from .expressions import pointwise
from .float8 import decoded, encoded, is_float8
from .integer_grid import step, zero_point
from .movement import reshaped

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

UINT8 = np.dtype(np.uint8)


def quantize(emitter: "Emitter", op: Quantize) -> "list[relax.Expr]":
    """saturate(round(x/scale) + zero_point), half to even."""
    assert op.output.dtype is not None
    wide = _wide(op.x, op.scale)
    return [_on_grid(emitter, op, _coded(op.output.dtype, wide, emitter.dtype(op.output)))]


def dequantize(emitter: "Emitter", op: Dequantize) -> "list[relax.Expr]":
    """(codes − zero_point)·scale, rounded once."""
    exact = op.x.dtype is not None and op.x.dtype.itemsize < 4
    wide = "float32" if exact and op.scale.dtype != np.float64 else "float64"
    dtype = emitter.dtype(op.output)

    codes = emitter.dtype(op.x)
    narrow = is_float8(codes)

    def element(code: Any, scale: Any, *zero_point: Any) -> Any:
        centred = (decoded(code, codes) if narrow else code).astype(wide)
        if zero_point:
            centred = centred - zero_point[0].astype(wide)
        return (centred * scale.astype(wide)).astype(dtype)

    return [_on_grid(emitter, op, element)]


def dynamic_quantize(emitter: "Emitter", op: DynamicQuantize) -> "list[relax.Expr]":
    """uint8 codes at the scale that the range of x asks for, 0 included."""
    x = emitter.cast(emitter[op.x], "float32")
    scale, zero = _range(emitter, x)
    code = _coded(UINT8, "float32", "uint8")
    codes = pointwise(emitter, "quantize", code, x, scale, zero)
    return [codes, *typed(emitter, op, scale, zero)]


def typed(
    emitter: "Emitter", op: DynamicQuantize, scale: "relax.Expr", zero: "relax.Expr"
) -> "list[relax.Expr]":
    """A lone scale and zero point in the types and shapes that the graph gives them."""
    found = []
    for part, value in zip((scale, zero), op.outputs[1:], strict=True):
        part = emitter.cast(part, emitter.dtype(value))
        found.append(reshaped(emitter, part, [1] * value.rank) if value.rank else part)
    return found


def _range(emitter: "Emitter", x: "relax.Expr") -> "tuple[relax.Expr, relax.Expr]":
    """scale = (max(x, 0) − min(x, 0))/255 and zero_point = saturate(round(−min(x, 0)/scale))."""
    from tvm import relax, tirx

    least = emitter.emit(relax.op.min(x))
    most = emitter.emit(relax.op.max(x))

    def zero(low: Any, scale: Any) -> Any:
        return zero_point(low, scale, tirx.nearbyint).astype("uint8")

    scale = pointwise(emitter, "scale", step, least, most)
    return scale, pointwise(emitter, "zero_point", zero, least, scale)


def _coded(codes: np.dtype, wide: str, carrier: str) -> Any:
    """An element's code, from x, its scale and maybe its zero point."""
    from tvm import tirx

    low, high = (tirx.const(bound, wide) for bound in limits(codes))
    whole, narrow = is_integer(codes), is_float8(carrier)

    def element(x: Any, scale: Any, *zero_point: Any) -> Any:
        ratio = x.astype(wide) / scale.astype(wide)
        if whole:
            ratio = tirx.nearbyint(ratio)
        if zero_point:
            ratio = ratio + zero_point[0].astype(wide)
        clipped = tirx.max(tirx.min(ratio, high), low)
        if whole:
            return clipped.astype("int32").astype(carrier)
        return encoded(clipped, carrier, wide) if narrow else clipped.astype(carrier)

    return element


def _on_grid(emitter: "Emitter", op: "Quantize | Dequantize", element: Any) -> "relax.Expr":
    """One kernel over x, its scales and zero points."""
    from tvm import te

    x = emitter[op.x]
    grid = [_flat(emitter, value, op.axis) for value in (op.scale, op.zero_point) if value]
    shape = emitter.extents(x)

    def place(i: Any) -> list[Any]:
        if op.axis is None:
            return []
        if not op.block:
            return [i[op.axis]]
        return [j // op.block if k == op.axis else j for k, j in enumerate(i)]

    def compute(data: Any, *grids: Any) -> Any:
        def one(*i: Any) -> Any:
            return element(data(*i), *(g(*(place(i) if len(g.shape) else [])) for g in grids))

        return te.compute(shape, one, name="on_grid")

    name = "quantize" if isinstance(op, Quantize) else "dequantize"
    return emitter.call_te(compute, x, *grid, name=name)


def _flat(emitter: "Emitter", value: Value, axis: int | None) -> "relax.Expr":
    """Scales as they are; a lone one without axes."""
    known = emitter.contents.numbers(value)
    lone = axis is None or (known is not None and known.size == 1)
    if not lone:
        return emitter[value]
    if known is not None:
        return emitter.number(known.reshape(()), emitter.dtype(value))
    x = emitter[value]
    return reshaped(emitter, x, []) if x.ty.ndim else x


def _wide(x: Value, scale: Value) -> str:
    """The type that the quotient is taken in."""
    return "float64" if np.float64 in (x.dtype, scale.dtype) else "float32"
