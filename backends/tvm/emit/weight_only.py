"""Products of a float x with a weight that stays in 1, 2, 4 or 8 bits in memory.

The weight is packed as `schedules.weight_only_format` says, for a kernel that makes floats of the
codes in registers as it goes (`schedules/weight_only.py`). The plain form of the kernel is the sum
that it stands for; what follows (bias, residual, GELU, a gate) is fused by TVM.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ....graph import Op, Value
from ....graph.ops import Linear, MatMul
from ..machine import Machine
from ..schedules.weight_only_format import ENTRIES, WORD, Format, Operands, element
from .emission import Emission, computed
from .kernels import FUSES, PATTERN
from .pointwise import applied
from .weight_only_codes import Coded, coded, straight

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

SHORTEST = 8
"""Rows of a block below which scales outweigh codes."""


def weight_only(op: Op, machine: Machine) -> Emission | None:
    """A linear, or a product from the right, whose weight is stored in few bits."""
    found = _weight(op)
    if found is None or op.require(0).dtype != np.float32 or op.output.dtype != np.float32:
        return None
    weight, turned = found
    stored = coded(weight)
    if stored is None or stored.codes.ndim != 2:
        return None
    stored = straight(stored.moved(np.transpose) if turned else stored)
    form = format_of(stored, machine.lanes())
    if form is None:
        return None
    arrays = packed(stored, form)
    reads = tuple(value for value in computed(op.inputs) if value is not weight)

    def emit(emitter: "Emitter") -> "list[relax.Expr]":
        result = _product(emitter, emitter[op.require(0)], form, arrays, weight.name)
        bias = op.bias if isinstance(op, Linear) else None
        if bias is None:
            return [result]
        return [applied(emitter, "add", emitter.dtype(op.output), result, emitter[bias])]

    return Emission(op, reads, emit)


def format_of(stored: Coded, lanes: int) -> Format | None:
    """How a matrix [K, N] is packed; None where its blocks are too short.

    Codes take more bits than they have where a block is shorter than a word of them.
    """
    rows, columns = stored.codes.shape
    block = stored.block
    if block < min(SHORTEST, rows):
        return None
    for bits in (1, 2, 4, 8):
        each = WORD // bits
        fits = stored.bits <= bits and (stored.table is None or bits < 8)
        if fits and (block == rows or block % each == 0):
            return Format(bits, rows, columns, lanes, -(-block // each))
    return None


def packed(stored: Coded, form: Format) -> Operands:
    """The arrays of a weight in its format."""
    codes = stored.codes
    zero = np.broadcast_to(stored.zero, codes.shape)[:: form.block].astype(np.int16)
    if stored.table is None:
        moved = _moved(codes, zero, form.bits)
        codes, zero = codes + moved, zero + moved
    scale = np.broadcast_to(stored.scale, codes.shape)[:: form.block]
    offset = np.broadcast_to(stored.offset, codes.shape)[:: form.block]
    shift = None
    if offset.any():
        shift = (offset - zero * scale.astype(np.float64)).astype(np.float32)
    elif zero.any():
        shift = zero.astype(np.int8)
    return Operands(
        pack_codes(codes, form),
        _by_panel(scale.astype(np.float32), form),
        None if shift is None else _by_panel(shift, form),
        None if stored.table is None else _entries(stored.table, form),
    )


def _moved(codes: np.ndarray, zero: np.ndarray, bits: int) -> int:
    """What is added to codes and zero points so that the codes have the sign of their format."""
    if bits < 8:
        return max(0, -int(codes.min()))
    return -128 if max(codes.max(), zero.max()) > 127 else 0


def pack_codes(codes: np.ndarray, form: Format) -> np.ndarray:
    """Codes [K, N], none negative unless they have 8 bits, as [P, S, L, 4]."""
    rows, columns = codes.shape
    per_byte = 8 // form.bits
    filled = np.zeros((form.words * form.each, form.panels * form.lanes), np.uint8)
    filled[:rows, :columns] = codes.astype(np.uint8)
    parts = filled.reshape(form.words, 4, per_byte, form.panels, form.lanes)
    held = np.zeros((form.words, 4, form.panels, form.lanes), np.uint8)
    for place in range(per_byte):
        held |= parts[:, :, place] << np.uint8(place * form.bits)
    result = np.ascontiguousarray(held.transpose(2, 0, 3, 1))
    return result.view(np.int8) if form.bits == 8 else result


def _by_panel(array: np.ndarray, form: Format) -> np.ndarray:
    """[B, N] as [P, B, L]."""
    blocks, columns = array.shape
    filled = np.zeros((blocks, form.panels * form.lanes), array.dtype)
    filled[:, :columns] = array
    return np.ascontiguousarray(filled.reshape(blocks, form.panels, form.lanes).transpose(1, 0, 2))


def _entries(table: np.ndarray, form: Format) -> np.ndarray:
    """The table with 16 entries: filled up to the codes' bits, then repeated."""
    filled = np.zeros(1 << form.bits, np.float32)
    filled[: len(table)] = table
    return np.tile(filled, ENTRIES >> form.bits)


def _product(
    emitter: "Emitter", x: "relax.Expr", form: Format, arrays: Operands, name: str
) -> "relax.Expr":
    """x·W, float32."""
    parts = {key: array for key, array in vars(arrays).items() if array is not None}
    held = [emitter.constant(array, f"{name}_{key}") for key, array in parts.items()]

    def compute(x: Any, *tensors: Any) -> Any:
        return product(x, form, Operands(**dict(zip(parts, tensors, strict=True))))

    return emitter.call_te(compute, x, *held, name="weight_only", attributes={PATTERN: FUSES})


def product(x: Any, form: Format, weight: Operands) -> Any:
    """y[.., n] = Σ_k x[.., k]·W[k, n] as a tensor expression."""
    from tvm import te

    k = te.reduce_axis((0, form.rows), "k")

    def one(*i: Any) -> Any:
        return te.sum(x(*i[:-1], k) * element(form, weight, k, i[-1]), axis=k)

    return te.compute([*x.shape[:-1], form.columns], one, name="product")


def _weight(op: Op) -> tuple[Value, bool] | None:
    """The matrix that an op multiplies by, if it is computed, and whether it is [O, I]."""
    if isinstance(op, Linear):
        weight, turned = op.weight, op.layout == "oi"
    elif isinstance(op, MatMul):
        weight, turned = op.require(1), False
    else:
        return None
    is_matrix = weight.constant is None and weight.rank == 2 and op.require(0).rank
    return (weight, turned) if is_matrix else None
