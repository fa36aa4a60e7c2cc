"""What a canonicalisation rule is: an op it starts from, and an edit if the op matches."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...graph import Graph, Op, Value
from ...graph.ops import Elementwise
from ..numbers import SEARCHED

Match = Callable[[Graph], None]
"""The edit that a matched rule makes."""


@dataclass(frozen=True)
class Rule:
    """One rewrite of one spelling into a simpler one.

    Attributes:
        name: what reports call it.
        kinds: op classes it may start from.
        match: the edit, or None where the rule does not apply. Pure.
    """

    name: str
    kinds: tuple[type[Op], ...]
    match: Callable[[Graph, Op], Match | None]


def elementwise(value: Value | None, fn: str) -> Elementwise | None:
    """The op that makes `value`, if it is this pointwise function."""
    op = None if value is None else value.producer
    return op if isinstance(op, Elementwise) and op.fn == fn else None


def scalar(value: Value | None) -> float | None:
    """The number that a one-element constant holds."""
    if value is None or value.constant is None or int(np.prod(value.constant.shape)) != 1:
        return None
    return float(value.array().reshape(()))


def holds_only(value: Value, number: float) -> bool:
    """Whether a constant of moderate size is `number` throughout (a mask that masks nothing)."""
    if value.constant is None or int(np.prod(value.constant.shape)) > SEARCHED:
        return False
    return bool(np.all(value.array() == number))


def is_close(number: float | None, target: float) -> bool:
    """Equal up to the rounding of a float32 literal (or of bfloat16 for wide constants)."""
    return number is not None and abs(number - target) <= 1e-6 * max(1.0, abs(target))


def split_scalar(op: Elementwise) -> tuple[Value, float] | None:
    """The computed operand and the scalar of a binary op with one constant."""
    if len(op.inputs) != 2:
        return None
    left, right = op.require(0), op.require(1)
    for value, other in ((left, right), (right, left)):
        number = scalar(other)
        if number is not None and value.constant is None:
            return value, number
    return None


def substitute(graph: Graph, op: Op, value: Value) -> None:
    """Let `value` stand for the op's result, and drop what only the op kept alive."""
    graph.replace(op.output, value)
    graph.prune(op)
