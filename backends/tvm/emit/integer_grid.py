"""The arithmetic of 8-bit codes, and codes at a scale that is known.

    scale = (max(x, 0) − min(x, 0))/255, zero_point = round(−min(x, 0)/scale)
    codes = saturate(round(x/scale) + zero_point)
Ties go to the even number, and x is divided by the scale, not multiplied by its inverse: a product
rounds differently. This is for CPUs; `quant.py` spells the same for any target.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ....graph import Op
from ....graph.ops import Quantize
from ..machine import Machine
from ..vnni import dot_of
from .emission import Emission
from .expressions import pointwise

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

STEPS = 255
"""From the least code of a byte to the greatest."""


def known_grid(op: Op, machine: Machine) -> Emission | None:
    """Codes of 8 bits of a float32 tensor at a scale that is known."""
    if not isinstance(op, Quantize) or op.output.dtype not in (np.uint8, np.int8) or op.block:
        return None
    lone = op.axis is None and op.scale.constant is not None and op.scale.shape in ((), (1,))
    if not lone or op.x.dtype != np.float32 or dot_of(machine) is None:
        return None
    if op.zero_point is not None and op.zero_point.constant is None:
        return None

    def emit(emitter: "Emitter") -> "list[relax.Expr]":
        grid = [np.zeros(1) if v is None else v.array() for v in (op.scale, op.zero_point)]
        scale, zero = (emitter.number(part.reshape(-1)[0], "float32") for part in grid)
        low = 0 if op.output.dtype == np.uint8 else -128
        dtype = emitter.dtype(op.output)

        def element(x: Any, s: Any, z: Any) -> Any:
            return bounded(nearest(x / s) + z, low).astype(dtype)

        return [pointwise(emitter, "codes", element, emitter[op.x], scale, zero)]

    return Emission(op, (op.x,), emit)


def step(low: Any, high: Any) -> Any:
    """The scale for values from low to high, 0 among them; 1/255 where all are 0."""
    from tvm import tirx

    zero = tirx.const(0, "float32")
    width = tirx.max(high, zero) - tirx.min(low, zero)
    whole = tirx.Select(width.equal(zero), tirx.const(1, "float32"), width)
    return whole / tirx.const(STEPS, "float32")


def nearest(x: Any) -> Any:
    """The nearest integer, half to even: LLVM's form of `round` is that, and stays in vectors."""
    from tvm import tirx

    return tirx.round(x)


def zero_point(low: Any, scale: Any, rounded: Callable[[Any], Any] = nearest) -> Any:
    """The code of 0, as an int32."""
    from tvm import tirx

    zero = tirx.const(0, "float32")
    return bounded(rounded((zero - tirx.min(low, zero)) / scale))


def code(x: Any, scale: Any, zero: Any) -> Any:
    """The uint8 code of a number; `zero` is a float32."""
    return bounded(nearest(x / scale) + zero).astype("uint8")


def bounded(number: Any, low: int = 0) -> Any:
    """A whole float32 as an int32 of a byte that begins at `low`."""
    from tvm import tirx

    least, most = tirx.const(low, "float32"), tirx.const(low + STEPS, "float32")
    return tirx.max(tirx.min(number, most), least).astype("int32")
