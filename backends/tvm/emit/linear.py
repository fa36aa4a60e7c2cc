"""Products with a weight that is known at emission, packed for the kernel.

The weight W [I, O] becomes P [⌈O/r⌉, I, r], r elements of the sum's type to a register, zeros
beyond O:  P[j // r, i, j % r] = W[i, j].  All rows that a register of columns meets lie one behind
the other, so a kernel streams the weight from front to back, and any width is whole registers.

What follows (bias, GELU, a residual) is fused into the kernel by TVM.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ....graph import Op, Value
from ....graph.ops import Linear, MatMul
from ..machine import Machine
from .emission import Emission, computed
from .expressions import dtype_of, widened
from .pointwise import applied

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

PACKED = ("float16", "bfloat16", "float32", "float64")


def linear(op: Op, machine: Machine) -> Emission | None:
    """A linear, or a product by a constant matrix from the right."""
    weight = _weight(op)
    if weight is None or weight.dtype is None or weight.dtype.name not in PACKED:
        return None
    x = op.require(0)
    reads = computed(op.inputs)
    if x.dtype != weight.dtype or op.output.dtype != weight.dtype:
        return None

    def emit(emitter: "Emitter") -> "list[relax.Expr]":
        matrix = weight.array()
        turned = isinstance(op, Linear) and op.layout == "oi"
        result = packed_product(emitter, emitter[x], matrix.T if turned else matrix, weight.name)
        bias = op.bias if isinstance(op, Linear) else None
        if bias is None:
            return [result]
        return [applied(emitter, "add", emitter.dtype(op.output), result, emitter[bias])]

    return Emission(op, reads, emit)


def packed_product(
    emitter: "Emitter", x: "relax.Expr", weight: np.ndarray, name: str
) -> "relax.Expr":
    """x·W in the type of x, summed in at least float32.

    Args:
        emitter: where it is emitted.
        x: [..., I].
        weight: [I, O], of the type of x.
        name: what the weight is called.
    """
    dtype = dtype_of(x)
    total = widened(dtype)
    panels, lanes = panels_of(emitter, weight, name)
    width = weight.shape[1]

    def compute(x: Any, panels: Any) -> Any:
        from tvm import te, tirx

        k = te.reduce_axis((0, weight.shape[0]), "k")

        def element(*index: Any) -> Any:
            *row, column = index
            factor = panels[tirx.floordiv(column, lanes), k, tirx.floormod(column, lanes)]
            return te.sum(x(*row, k).astype(total) * factor.astype(total), axis=k)

        return te.compute([*x.shape[:-1], width], element, name="product")

    return emitter.cast(emitter.call_te(compute, x, panels, name="linear"), dtype)


def panels_of(emitter: "Emitter", weight: np.ndarray, name: str) -> "tuple[relax.Var, int]":
    """W [I, O] as a packed parameter, and the columns of one panel."""
    lanes = emitter.machine.lanes(64 if weight.dtype == np.float64 else 32)
    return emitter.constant(packed(weight, lanes), name), lanes


def packed(weight: np.ndarray, lanes: int) -> np.ndarray:
    """W [I, O] as [⌈O/lanes⌉, I, lanes]."""
    inner, width = weight.shape
    whole = width // lanes
    panels = np.zeros((-(-width // lanes), inner, lanes), weight.dtype)
    panels[:whole] = weight[:, : whole * lanes].reshape(inner, whole, lanes).transpose(1, 0, 2)
    panels[whole:, :, : width % lanes] = weight[None, :, whole * lanes :]
    return panels


def _weight(op: Op) -> Value | None:
    """The constant matrix that an op multiplies by, if it does."""
    if isinstance(op, Linear):
        weight = op.weight
    elif isinstance(op, MatMul):
        weight = op.require(1)
    else:
        return None
    known = weight.constant is not None and weight.rank == 2
    return weight if known and op.require(0).rank else None
