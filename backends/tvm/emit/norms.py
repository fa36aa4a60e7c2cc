"""How norms are spelled: one kernel each, its sums in float32 or wider.

With n elements in the normalised axes, and gain γ and shift β where given:

    layer: y = (x − m)/√(Σ(x − m)²/n + ε)·γ + β, m = Σx/n
    rms:   y = x/√(Σx²/n + ε)·γ + β
    crms:  y = x/√((Σx² + (Σx)²)/(n + 1) + ε)·γ + β     (arXiv:2305.14858)
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ....graph.ops import Norm
from .expressions import dtype_of
from .movement import reshaped
from .pointwise import applied

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

Element = Callable[..., Any]
"""An element of x, by all indices, in the wide type."""


def norm(emitter: "Emitter", op: Norm) -> "list[relax.Expr]":
    """Any of the three norms."""
    scale, shift = (None if v is None else emitter[v] for v in (op.scale, op.shift))
    dtype = emitter.dtype(op.output)
    return [normed(emitter, op.norm, emitter[op.x], op.ndim, op.eps, scale, shift, dtype)]


def normed(
    emitter: "Emitter",
    kind: str,
    x: "relax.Expr",
    ndim: int,
    eps: float,
    scale: "relax.Expr | None",
    shift: "relax.Expr | None",
    dtype: str,
) -> "relax.Expr":
    """A norm over the last `ndim` axes of x, in `dtype`."""
    from tvm import te, tirx

    wide = "float64" if dtype == "float64" else "float32"
    shape = emitter.extents(x)
    front = len(shape) - ndim
    length = emitter.dims.product(shape[front:])

    def compute(data: Any, *given: Any) -> Any:
        def read(*i: Any) -> Any:
            return data(*i).astype(wide)

        n, added = tirx.convert(length).astype(wide), tirx.const(eps, wide)
        scaled = STATISTICS[kind](shape[:front], shape[front:], read, n, added)

        def element(*i: Any) -> Any:
            result, left = scaled(*i), iter(given)
            if scale is not None:
                result = result * next(left)(*i[front:]).astype(wide)
            if shift is not None:
                result = result + next(left)(*i[front:]).astype(wide)
            return result.astype(dtype)

        return te.compute(shape, element, name=f"{kind}_norm")

    operands = [operand for operand in (x, scale, shift) if operand is not None]
    return emitter.call_te(compute, *operands, name=f"{kind}_norm")


def group_normed(
    emitter: "Emitter",
    x: "relax.Expr",
    groups: int,
    eps: float,
    scale: "relax.Expr | None",
    shift: "relax.Expr | None",
) -> "relax.Expr":
    """A layer norm over each group of channels and all positions; gain and shift per channel."""
    shape, dtype = emitter.extents(x), dtype_of(x)
    rest = emitter.dims.simple(emitter.dims.product(shape[1:]) // groups)
    found = normed(
        emitter, "layer", reshaped(emitter, x, [shape[0], groups, rest]), 1, eps, None, None, dtype
    )
    result = reshaped(emitter, found, shape)
    for part, fn in ((scale, "mul"), (shift, "add")):
        if part is not None:
            row = reshaped(emitter, part, [shape[1], *[1] * (len(shape) - 2)])
            result = applied(emitter, fn, dtype, result, row)
    return result


def _sum(lead: Sequence[Any], extents: Sequence[Any], element: Element, name: str) -> Any:
    """Σ over the normalised axes, for each position of the others."""
    from tvm import te

    axes = [te.reduce_axis((0, extent), name=f"k{k}") for k, extent in enumerate(extents)]
    return te.compute(list(lead), lambda *i: te.sum(element(*i, *axes), axis=axes), name=name)


def _layer(
    lead: Sequence[Any], extents: Sequence[Any], x: Element, n: Any, eps: Any
) -> Callable[..., Any]:
    from tvm import te

    front = len(lead)
    total = _sum(lead, extents, x, "total")
    mean = te.compute(list(lead), lambda *i: total(*i) / n, name="mean")

    def square(*i: Any) -> Any:
        centred = x(*i) - mean(*i[:front])
        return centred * centred

    squares = _sum(lead, extents, square, "squares")
    return _by_root(lead, lambda *i: x(*i) - mean(*i[:front]), lambda *i: squares(*i) / n + eps)


def _rms(
    lead: Sequence[Any], extents: Sequence[Any], x: Element, n: Any, eps: Any
) -> Callable[..., Any]:
    squares = _sum(lead, extents, lambda *i: x(*i) * x(*i), "squares")
    return _by_root(lead, x, lambda *i: squares(*i) / n + eps)


def _crms(
    lead: Sequence[Any], extents: Sequence[Any], x: Element, n: Any, eps: Any
) -> Callable[..., Any]:
    squares = _sum(lead, extents, lambda *i: x(*i) * x(*i), "squares")
    total = _sum(lead, extents, x, "total")
    return _by_root(lead, x, lambda *i: (squares(*i) + total(*i) * total(*i)) / (n + 1) + eps)


def _by_root(lead: Sequence[Any], x: Element, moment: Callable[..., Any]) -> Callable[..., Any]:
    """x divided by the root of a moment, which is taken once per position."""
    from tvm import te, tirx

    inverse = te.compute(list(lead), lambda *i: 1 / tirx.sqrt(moment(*i)), name="inverse")
    return lambda *i: x(*i) * inverse(*i[: len(lead)])


STATISTICS: dict[str, Callable[..., Any]] = {"layer": _layer, "rms": _rms, "crms": _crms}
"""From x to an element of the result before gain and shift."""
