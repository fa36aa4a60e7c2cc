"""Rules that find activations spelled out in arithmetic: GELU (erf and tanh) and SiLU.

A product is first flattened to a coefficient and its factors, so the order of writing is moot.
"""

from collections.abc import Iterator
from functools import partial
from math import nan, pi, sqrt

from ...graph import Graph, Op, Value
from ...graph.ops import Elementwise
from .rule import Match, Rule, elementwise, is_close, scalar, split_scalar, substitute

CUBIC = 0.044715
MOST_FACTORS = 8


def _activation(graph: Graph, op: Op) -> Match | None:
    if not isinstance(op, Elementwise) or op.fn not in ("mul", "div") or not op.output.is_float:
        return None
    coefficient, factors = product(op.output)
    for position, gate in enumerate(factors):
        rest = factors[:position] + factors[position + 1 :]
        for x, fn, half in _gated(gate):
            if x.shape == op.output.shape and _is_product(coefficient / half, rest, x):
                return partial(_write, op=op, x=x, fn=fn)
    return None


def _write(graph: Graph, op: Op, x: Value, fn: str) -> None:
    activation = Elementwise(inputs=[x], fn=fn, scope=op.scope)
    graph.add(activation, (op.output.shape, op.output.dtype), before=op, name=f"{op.name}_{fn}")
    substitute(graph, op, activation.output)


def product(value: Value) -> tuple[float, list[Value]]:
    """`value` as coefficient · Π factors, looking through products with scalars.

    One of too many factors is (nan, []), which nothing is equal to.
    """
    coefficient, factors, worklist = 1.0, [], [value]
    while worklist:
        current = worklist.pop()
        op = current.producer
        if isinstance(op, Elementwise) and op.fn == "mul":
            worklist += [op.require(1), op.require(0)]
        elif isinstance(op, Elementwise) and op.fn == "div" and scalar(op.require(1)):
            coefficient /= scalar(op.require(1)) or 1.0
            worklist.append(op.require(0))
        elif (number := scalar(current)) is not None:
            coefficient *= number
        else:
            factors.append(current)
        if len(factors) > MOST_FACTORS:
            return nan, []
    return coefficient, factors


def _is_product(coefficient: float, factors: list[Value], x: Value, power: int = 1) -> bool:
    """Whether coefficient · Π factors is x to a power."""
    own, parts = product(x)
    same = sorted(map(id, factors)) == sorted(map(id, parts * power))
    return same and is_close(coefficient, own**power)


def _gated(gate: Value) -> Iterator[tuple[Value, str, float]]:
    """Every (x, activation, coefficient) such that coefficient · x · gate is activation(x)."""
    sigmoid = elementwise(gate, "sigmoid")
    if sigmoid is not None:
        yield sigmoid.require(0), "silu", 1.0
    total = elementwise(gate, "add")
    found = None if total is None else split_scalar(total)
    if found is None or not is_close(found[1], 1.0):
        return
    erf, tanh = elementwise(found[0], "erf"), elementwise(found[0], "tanh")
    for x in () if erf is None else _unscaled(erf.require(0), sqrt(0.5)):
        yield x, "gelu", 0.5
    for cubic in () if tanh is None else _unscaled(tanh.require(0), sqrt(2 / pi)):
        for x in _cubed(cubic):
            yield x, "gelu_tanh", 0.5


def _unscaled(value: Value, factor: float) -> Iterator[Value]:
    """Every x that is in the graph such that `value` is factor · x."""
    coefficient, factors = product(value)
    if len(factors) == 1 and is_close(coefficient, factor):
        yield factors[0]
    op = value.producer
    if isinstance(op, Elementwise) and op.fn in ("mul", "div"):
        found = split_scalar(op)
        inverse = op.fn == "div" and found is not None and found[0] is op.require(0)
        if found is not None and is_close(found[1], 1 / factor if inverse else factor):
            if op.fn == "mul" or inverse:
                yield found[0]


def _cubed(value: Value) -> Iterator[Value]:
    """Every x such that `value` is x + 0.044715·x³."""
    total = elementwise(value, "add")
    if total is None:
        return
    left, right = total.require(0), total.require(1)
    for x, rest in ((left, right), (right, left)):
        coefficient, factors = product(rest)
        power = elementwise(factors[0], "pow") if len(factors) == 1 else None
        if power is not None and scalar(power.require(1)) == 3.0:
            if power.require(0) is x and is_close(coefficient, CUBIC):
                yield x
        elif _is_product(coefficient / CUBIC, factors, x, 3):
            yield x


RULES = (Rule("find-activation", (Elementwise,), _activation),)
