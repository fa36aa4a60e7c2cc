"""How convolutions are spelled where no kernel of ours takes them: Relax's own operators."""

from typing import TYPE_CHECKING, Any

from ....graph.ops import Conv
from .expressions import dtype_of, widened
from .movement import reshaped
from .pointwise import applied

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


def conv(emitter: "Emitter", op: Conv) -> "list[relax.Expr]":
    """A convolution, transposed or not, plus its bias; summed in at least float32, rounded once."""
    dtype = emitter.dtype(op.output)
    x, weight = (emitter.cast(emitter[value], widened(dtype)) for value in (op.x, op.weight))
    result = _without_bias(emitter, op, x, weight)
    if op.bias is not None:
        bias = emitter.cast(emitter[op.bias], dtype_of(result))
        spatial = len(emitter.extents(x)) - 2
        row = reshaped(emitter, bias, [emitter.extents(bias)[0], *[1] * spatial])
        result = applied(emitter, "add", dtype_of(result), result, row)
    return [emitter.cast(result, dtype)]


def _without_bias(
    emitter: "Emitter", op: Conv, x: "relax.Expr", weight: "relax.Expr"
) -> "relax.Expr":
    from tvm import relax

    spatial = len(emitter.extents(x)) - 2
    name, extra = f"conv{spatial}d", {}
    if op.transposed:
        name += "_transpose"
        extra["output_padding"] = list(op.output_padding) or [0] * spatial
    pads = op.padding if op.padding is not None else _same(emitter, op, x, weight)
    operator: Any = getattr(relax.op.nn, name)
    call = operator(
        x,
        weight,
        strides=list(op.stride),
        padding=[begin for begin, _ in pads] + [end for _, end in pads],
        dilation=list(op.dilation),
        groups=op.groups,
        **extra,
    )
    return emitter.emit(call)


def _same(
    emitter: "Emitter", op: Conv, x: "relax.Expr", weight: "relax.Expr"
) -> tuple[tuple[int, int], ...]:
    """The padding that gives ⌈extent/stride⌉ positions; what is odd of it goes at the end."""
    extents, kernel = emitter.extents(x)[2:], emitter.extents(weight)[2:]
    found = []
    for extent, size, stride, dilation in zip(extents, kernel, op.stride, op.dilation, strict=True):
        if stride == 1 and isinstance(size, int):
            total = (size - 1) * dilation
        elif isinstance(extent, int) and isinstance(size, int):
            reach = (-(-extent // stride) - 1) * stride + (size - 1) * dilation + 1
            total = max(reach - extent, 0)
        else:
            raise ValueError('expected known extents where padding is "same" and strides are not 1')
        found.append((total // 2, total - total // 2))
    return tuple(found)
