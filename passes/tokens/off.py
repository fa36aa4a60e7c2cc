"""What a choice makes known of a value: the number that it holds at the positions dropped."""

from dataclasses import dataclass

import numpy as np

from ...graph import Op, Value
from ...graph.ops import Cast
from ..numbers import Number
from ..triangles import sides
from .selection import Choice


@dataclass(frozen=True)
class Off:
    """What is known of a value along one axis.

    Attributes:
        batch: the value's axis along which the choice differs; None where all share one.
        off, on: the number at positions dropped, and kept.
        given: the axis that has to be cut to the same choice for `off` to hold; None mostly.
    """

    choice: Choice
    batch: int | None
    off: Number
    on: Number
    given: int | None = None


Known = dict[int, Off]
Masks = dict[Value, Known]


def aside(value: Value | None) -> Number:
    """What a constant matrix [.., n, n] holds beside its diagonal, if that is one number.

    A kept row and a dropped column never meet on the diagonal.
    """
    found = None if value is None else sides(value)
    if found is None:
        return None
    number = found.before.flat[0]
    both = np.all(found.before == number) and np.all(found.after == number)
    return float(number) if both else None


def cast(op: Op, off: Off) -> tuple[Number, Number]:
    """Both numbers after an op that moves elements, which may make booleans of them."""
    if not isinstance(op, Cast) or op.dtype.kind != "b":
        return off.off, off.on
    return _truth(off.off), _truth(off.on)


def _truth(number: Number) -> Number:
    return None if number is None else float(bool(number))
