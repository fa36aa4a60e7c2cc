"""Rules that find norms spelled out in arithmetic: LayerNorm and RMSNorm, in all their dialects.

x/√(mean x² + ε), with the square as a power or a product, and the root divided by, or its
reciprocal multiplied; over x − mean(x) it is a LayerNorm, whose variance may also be its own op.
"""

from functools import partial

from ...graph import Graph, Op, Value
from ...graph.ops import Elementwise, Norm, Reduce, Reshape, Unsqueeze
from .moves import RESHAPES
from .rule import Match, Rule, elementwise, is_close, scalar, split_scalar, substitute


def _norm(graph: Graph, op: Op) -> Match | None:
    if not isinstance(op, Elementwise) or op.fn not in ("div", "mul"):
        return None
    for numerator, radicand in _quotients(op):
        found = _radicand(radicand)
        if found is None:
            continue
        spread, eps = found
        norm = _layer(numerator, spread, eps) or _rms(numerator, spread, eps)
        if norm is not None and norm.x.shape == op.output.shape:
            return partial(_write, op=op, norm=norm)
    return None


def _write(graph: Graph, op: Op, norm: Norm) -> None:
    norm.scope = op.scope
    graph.add(norm, (op.output.shape, op.output.dtype), before=op, name=f"{op.name}_norm")
    substitute(graph, op, norm.output)


def _quotients(op: Elementwise) -> list[tuple[Value, Value]]:
    """(n, r) for every way in which `op` is n/√r."""
    if op.fn == "div":
        root = elementwise(op.require(1), "sqrt")
        return [] if root is None else [(op.require(0), root.require(0))]
    found = []
    for index in (0, 1):
        inverse = _inverse_root(op.require(index))
        if inverse is not None:
            found.append((op.require(1 - index), inverse))
    return found


def _inverse_root(value: Value) -> Value | None:
    """r, if `value` is 1/√r."""
    direct = elementwise(value, "rsqrt")
    if direct is not None:
        return direct.require(0)
    inverse = elementwise(value, "reciprocal")
    if inverse is not None:
        root = elementwise(inverse.require(0), "sqrt")
        return None if root is None else root.require(0)
    power = elementwise(value, "pow")
    if power is not None and is_close(scalar(power.require(1)), -0.5):
        return power.require(0)
    quotient = elementwise(value, "div")
    if quotient is not None and scalar(quotient.require(0)) == 1.0:
        root = elementwise(quotient.require(1), "sqrt")
        return None if root is None else root.require(0)
    return None


def _radicand(value: Value) -> tuple[Reduce, float] | None:
    """The reduction and ε of mean(·) + ε."""
    total = elementwise(value, "add")
    found = None if total is None else split_scalar(total)
    if found is None:
        return None
    reduce = _reduction(found[0])
    if reduce is None or found[1] < 0:
        return None
    rank = reduce.require(0).rank or 0
    trailing = tuple(range(rank - len(reduce.axes), rank))
    return (reduce, found[1]) if tuple(sorted(reduce.axes)) == trailing else None


def _reduction(value: Value) -> Reduce | None:
    """The reduction that makes `value`, with the reduced axes kept, by itself or by a reshape."""
    op = value.producer
    if isinstance(op, Reduce):
        return op if op.keepdims else None
    inner = op.require(0).producer if isinstance(op, Reshape | Unsqueeze) else None
    if not isinstance(inner, Reduce) or inner.keepdims:
        return None
    dims = enumerate(inner.require(0).shape or ())
    kept = tuple(1 if axis in inner.axes else dim for axis, dim in dims)
    return inner if value.shape == kept else None


def _square(value: Value) -> Value | None:
    power = elementwise(value, "pow")
    if power is not None and scalar(power.require(1)) == 2.0:
        return power.require(0)
    product = elementwise(value, "mul")
    if product is not None and product.require(0) is product.require(1):
        return product.require(0)
    return None


def _centred(value: Value, axes: tuple[int, ...]) -> Value | None:
    """x, if `value` is x − mean(x) over these axes."""
    difference = elementwise(value, "sub")
    if difference is None:
        return None
    mean = _reduction(difference.require(1))
    if mean is None or mean.fn != "mean":
        return None
    same = sorted(mean.axes) == sorted(axes) and mean.require(0) is difference.require(0)
    return difference.require(0) if same else None


def _layer(numerator: Value, spread: Reduce, eps: float) -> Norm | None:
    x = _centred(numerator, spread.axes)
    if x is None:
        return None
    if spread.fn == "var":
        same = spread.require(0) is x
    else:
        squared = _square(spread.require(0)) if spread.fn == "mean" else None
        same = squared is not None and (squared is numerator or _centred(squared, spread.axes) is x)
    return Norm(inputs=[x], norm="layer", ndim=len(spread.axes), eps=eps) if same else None


def _rms(numerator: Value, spread: Reduce, eps: float) -> Norm | None:
    if spread.fn != "mean" or _square(spread.require(0)) is not numerator:
        return None
    return Norm(inputs=[numerator], norm="rms", ndim=len(spread.axes), eps=eps)


def _between_reshapes(graph: Graph, op: Op) -> Match | None:
    """Reshape → norm → reshape back, with the normalised axis whole: the norm alone."""
    if not isinstance(op, RESHAPES):
        return None
    norm = op.require(0).producer
    if not isinstance(norm, Norm) or norm.ndim != 1:
        return None
    inner = norm.x.producer
    if not isinstance(inner, RESHAPES) or inner.require(0).shape != op.output.shape:
        return None
    before, between = inner.require(0).shape, norm.x.shape
    if not before or not between or before[-1] != between[-1]:
        return None
    return lambda graph: _lift_norm(graph, op, norm, inner.require(0))


def _lift_norm(graph: Graph, op: Op, norm: Norm, x: Value) -> None:
    lifted = Norm(inputs=[x, *norm.inputs[1:]], norm=norm.norm, eps=norm.eps, scope=norm.scope)
    graph.add(lifted, (op.output.shape, op.output.dtype), before=op, name=norm.name)
    substitute(graph, op, lifted.output)


RULES = (
    Rule("find-norm", (Elementwise,), _norm),
    Rule("norm-between-reshapes", RESHAPES, _between_reshapes),
)
