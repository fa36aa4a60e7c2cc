"""Rules that find activations spelled out in arithmetic: GELU (erf and tanh) and SiLU.

A product is first flattened to a coefficient and its factors, so the order of writing is moot.
"""

from math import pi, sqrt

from ...graph import Graph, Op, Value
from ...graph.ops import Elementwise
from .rule import Match, Rule, elementwise, is_close, scalar, split_scalar, substitute


def _activation(graph: Graph, op: Op) -> Match | None:
    if not isinstance(op, Elementwise) or op.fn not in ("mul", "div") or not op.output.is_float:
        return None
    coefficient, factors = product(op.output)
    if len(factors) != 2:
        return None
    for x, gate in (factors, factors[::-1]):
        fn = _gate(x, gate, coefficient)
        if fn is not None and x.shape == op.output.shape:
            return lambda graph, x=x, fn=fn: _write(graph, op, x, fn)
    return None


def _write(graph: Graph, op: Op, x: Value, fn: str) -> None:
    activation = Elementwise(inputs=[x], fn=fn, scope=op.scope)
    graph.add(activation, (op.output.shape, op.output.dtype), before=op, name=f"{op.name}_{fn}")
    substitute(graph, op, activation.output)


def product(value: Value) -> tuple[float, list[Value]]:
    """`value` as coefficient · Π factors, looking through products with scalars."""
    coefficient, factors, worklist = 1.0, [], [value]
    while worklist:
        current = worklist.pop(0)
        op = current.producer
        if isinstance(op, Elementwise) and op.fn == "mul":
            worklist = [op.require(0), op.require(1), *worklist]
        elif isinstance(op, Elementwise) and op.fn == "div" and scalar(op.require(1)):
            coefficient /= scalar(op.require(1)) or 1.0
            worklist = [op.require(0), *worklist]
        elif (number := scalar(current)) is not None:
            coefficient *= number
        else:
            factors.append(current)
        if len(factors) > 4:
            break
    return coefficient, factors


def _gate(x: Value, gate: Value, coefficient: float) -> str | None:
    """The activation that coefficient · x · gate is, if it is one."""
    sigmoid = elementwise(gate, "sigmoid")
    if sigmoid is not None and is_close(coefficient, 1.0) and sigmoid.require(0) is x:
        return "silu"
    total = elementwise(gate, "add")
    found = None if total is None else split_scalar(total)
    if found is None or not is_close(coefficient, 0.5) or not is_close(found[1], 1.0):
        return None
    erf, tanh = elementwise(found[0], "erf"), elementwise(found[0], "tanh")
    if erf is not None and _is_scaled(erf.require(0), x, sqrt(0.5)):
        return "gelu"
    return "gelu_tanh" if tanh is not None and _is_cubic(tanh.require(0), x) else None


def _is_scaled(value: Value, x: Value, factor: float) -> bool:
    coefficient, factors = product(value)
    return factors == [x] and is_close(coefficient, factor)


def _is_cubic(value: Value, x: Value) -> bool:
    """√(2/π)·(x + 0.044715·x³)."""
    coefficient, factors = product(value)
    if not is_close(coefficient, sqrt(2 / pi)) or len(factors) != 1:
        return False
    total = elementwise(factors[0], "add")
    if total is None:
        return False
    terms = [total.require(0), total.require(1)]
    rest = [term for term in terms if term is not x]
    return len(rest) == 1 and _is_cube(rest[0], x)


def _is_cube(value: Value, x: Value) -> bool:
    coefficient, factors = product(value)
    if not is_close(coefficient, 0.044715):
        return False
    power = elementwise(factors[0], "pow") if len(factors) == 1 else None
    if power is not None:
        return power.require(0) is x and scalar(power.require(1)) == 3.0
    return factors == [x, x, x]


RULES = (Rule("find-activation", (Elementwise,), _activation),)
