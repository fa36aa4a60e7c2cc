"""How reductions and softmax are spelled.

What is narrower than float32 is summed in float32 and rounded once.
"""

from typing import TYPE_CHECKING, Any

from ....graph.ops import Reduce, Softmax
from .expressions import widened

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

SUMS = ("mean", "sum", "prod", "var", "var_unbiased")


def softmax(emitter: "Emitter", op: Softmax) -> "list[relax.Expr]":
    """exp(x − max x), divided by its sum along one axis."""
    return [normalised(emitter, emitter[op.require(0)], op.axis, emitter.dtype(op.output))]


def normalised(
    emitter: "Emitter", x: "relax.Expr", axis: int, dtype: str, fn: str = "softmax"
) -> "relax.Expr":
    """Softmax of x over an axis, or its logarithm ("log_softmax"), in `dtype`."""
    from tvm import relax

    wide = emitter.cast(x, widened(dtype))
    return emitter.cast(emitter.emit(getattr(relax.op.nn, fn)(wide, axis)), dtype)


def reduce(emitter: "Emitter", op: Reduce) -> "list[relax.Expr]":
    """Any reduction."""
    x, dtype = emitter[op.require(0)], emitter.dtype(op.output)
    return [reduced(emitter, op.fn, x, op.axes, keepdims=op.keepdims, dtype=dtype)]


def reduced(
    emitter: "Emitter",
    fn: str,
    x: "relax.Expr",
    axes: tuple[int, ...],
    *,
    keepdims: bool,
    dtype: str,
) -> "relax.Expr":
    """A reduction of x over some axes, with a result in `dtype`."""
    from tvm import relax

    wide = emitter.cast(x, widened(dtype) if fn in SUMS else dtype)
    if not axes:
        return emitter.cast(wide, dtype)
    if fn.startswith("var"):
        found = _variance(emitter, wide, axes, keepdims, unbiased=fn == "var_unbiased")
    elif fn == "mean":
        found = _mean(emitter, wide, axes, keepdims)
    else:
        found = emitter.emit(getattr(relax.op, fn)(wide, list(axes), keepdims))
    return emitter.cast(found, dtype)


def _mean(
    emitter: "Emitter", x: "relax.Expr", axes: tuple[int, ...], keepdims: bool
) -> "relax.Expr":
    from tvm import tirx, topi

    count = _count(emitter, x, axes)

    def compute(data: Any) -> Any:
        total = topi.sum(data, axes, keepdims)
        length = tirx.convert(count).astype(str(data.dtype.dtype))
        return topi.divide(total, length)

    return emitter.call_te(compute, x, name="mean")


def _variance(
    emitter: "Emitter", x: "relax.Expr", axes: tuple[int, ...], keepdims: bool, *, unbiased: bool
) -> "relax.Expr":
    """Σ(x − mean)²/n, or /(n − 1): one kernel."""
    from tvm import te, tirx, topi

    count = _count(emitter, x, axes)

    def compute(data: Any) -> Any:
        dtype = str(data.dtype.dtype)
        total = topi.sum(data, axes, keepdims=True)
        length = tirx.convert(count).astype(dtype)

        def square(*i: Any) -> Any:
            place = [0 if k in axes else j for k, j in enumerate(i)]
            centred = data(*i) - total(*place) / length
            return centred * centred

        squares = te.compute(data.shape, square, name="squares")
        divisor = tirx.convert(count - unbiased).astype(dtype)
        return topi.divide(topi.sum(squares, axes, keepdims), divisor)

    return emitter.call_te(compute, x, name="variance")


def _count(emitter: "Emitter", x: "relax.Expr", axes: tuple[int, ...]) -> Any:
    """How many elements the axes span."""
    shape = emitter.extents(x)
    return emitter.dims.product([shape[axis] for axis in axes])
