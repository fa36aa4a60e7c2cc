"""Products of 8-bit codes as they are: y = x·W + b with x = dq(q(x)) and W = dq(codes).

With x = (a − z)·s, a unsigned bytes, and W = (w − v)·t, w signed bytes and t, v by column:
    y[m, n] = (Σ_k a[m, k]·w[k, n] − z·Σ_k (w[k, n] − v[n]) − v[n]·Σ_k a[m, k]) · s·t[n] + b[n]
The first sum is one kernel with the packed weight (`integer_weights.py`), which the dot product
instruction computes exactly (`schedules/integer.py`); the second is known at emission. What follows
is elementwise and becomes part of that kernel, with all that TVM fuses to it: GELU, the residual,
the codes for the next product where their scale is known.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ....graph import Op, Value
from ....graph.onnx_direct import compute
from ....graph.ops import Dequantize, Linear
from ....passes.quantization.by_row import is_by_row, uncast
from ..machine import Machine
from ..vnni import GROUP, Dot, dot_of
from .emission import Emission, computed
from .expressions import pointwise
from .integer_weights import loaded, packed, stored
from .kernels import OPAQUE, PATTERN

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


def integer_linear(op: Op, machine: Machine) -> Emission | None:
    """A product of x and a weight that are both stored in 8 bits."""
    dot = dot_of(machine)
    if not isinstance(op, Linear) or dot is None or not is_integer_product(op):
        return None
    x = codes_of(op)
    assert x is not None
    return Emission(
        op,
        computed((x.x, x.scale, uncast(x.zero_point)[0])),
        lambda emitter: [_Product(emitter, op, x, dot).expression()],
    )


def is_integer_product(op: Linear) -> bool:
    """Whether the codes of both sides can be multiplied as bytes."""
    is_whole = op.output.dtype == np.float32 and _is_known(op.bias)
    return is_whole and codes_of(op) is not None and stored(op) is not None


def codes_of(op: Linear) -> Dequantize | None:
    """What dequantizes x, if it has 8-bit codes at one scale, or one for each row."""
    found = op.x.producer
    if not isinstance(found, Dequantize) or found.output.dtype != np.float32:
        return None
    is_byte = found.x.dtype in (np.int8, np.uint8)
    return found if is_byte and (_is_lone(found) or is_by_row(found)) else None


def _is_lone(op: Dequantize) -> bool:
    """Whether there is one scale."""
    return not op.block and (op.axis is None or op.scale.shape in ((), (1,)))


class _Product:
    """One product being emitted; names are those of the module docstring."""

    def __init__(self, emitter: "Emitter", op: Linear, x: Dequantize, dot: Dot) -> None:
        self.emitter = emitter
        self.op = op
        self.x = x
        self.dot = dot
        self.weight = loaded(op)

    def expression(self) -> "relax.Expr":
        """y."""
        codes = self._codes()
        columns = self.weight.codes.shape[1]
        panels = self._constant(packed(self.weight.codes, self.dot.lanes))
        sums = self.emitter.call_te(byte_sums, codes, panels, columns, name="byte_sums")
        result = self._scaled(self._centred(sums, codes))
        if self.op.bias is None:
            return result
        known = _known(self.op.bias)
        assert known is not None
        bias = self._constant(np.broadcast_to(known, columns).astype(np.float32))
        return pointwise(self.emitter, "bias", lambda y, b: y + b, result, bias)

    def _codes(self) -> "relax.Expr":
        """a: unsigned, the last axis a multiple of 4."""
        codes = self.emitter[self.x.x]
        if self.x.x.dtype == np.int8:
            codes = pointwise(self.emitter, "unsigned", _shifted, codes)
        return _whole_groups(self.emitter, codes)

    def _centred(self, sums: "relax.Expr", codes: "relax.Expr") -> "relax.Expr":
        """The sums without what the zero points add to them, int32."""
        if self.weight.zero.any():
            total, zero = _row_sums(self.emitter, codes), self._constant(self.weight.zero)
            sums = pointwise(
                self.emitter, "center_weight", lambda s, v, a: s - v * a, sums, zero, total
            )
        shift = 128 if self.x.x.dtype == np.int8 else 0
        zero = uncast(self.x.zero_point)[0]
        known = np.zeros(1) if zero is None else self._one(zero)
        if known is not None:
            offset = (int(known.reshape(-1)[0]) + shift) * self.weight.sums
            return pointwise(
                self.emitter, "center", lambda s, o: s - o, sums, self._constant(offset)
            )
        assert zero is not None
        zero_point = self.emitter[zero]

        def element(s: Any, z: Any, w: Any) -> Any:
            return s - (z.astype("int32") + shift) * w

        columns = self._constant(self.weight.sums)
        return pointwise(self.emitter, "center", element, sums, zero_point, columns)

    def _scaled(self, sums: "relax.Expr") -> "relax.Expr":
        """The sums times both scales, float32."""
        known, by_column = self._one(self.x.scale), self.weight.scale
        if known is not None:
            factor = self._constant(known.reshape(-1)[:1].astype(np.float32) * by_column)
            return pointwise(
                self.emitter, "scale", lambda y, t: y.astype("float32") * t, sums, factor
            )
        scale = self.emitter[self.x.scale]

        def element(y: Any, s: Any, t: Any) -> Any:
            return y.astype("float32") * (s.astype("float32") * t)

        return pointwise(self.emitter, "scale", element, sums, scale, self._constant(by_column))

    def _one(self, value: Value) -> np.ndarray | None:
        """The number that x's scale or zero point is, if it is one and known."""
        return _known(value) if _is_lone(self.x) else None

    def _constant(self, array: np.ndarray) -> "relax.Expr":
        return self.emitter.constant(array, self.op.weight.name)


def byte_sums(codes: Any, panels: Any, columns: int) -> Any:
    """Σ_k a[.., m, k]·w[k, n] as a tensor expression.

    Args:
        codes: a, uint8 [.., M, K], K a multiple of 4.
        panels: w as `packed`, int8 [P, K/4, L, 4].
        columns: N.

    Returns:
        int32 [.., M, N].
    """
    from tvm import te

    *lead, depth = codes.shape
    lanes = int(panels.shape[2])
    k = te.reduce_axis((0, depth), "k")

    def one(*i: Any) -> Any:
        weight = panels[i[-1] // lanes, k // GROUP, i[-1] % lanes, k % GROUP].astype("int32")
        return te.sum(codes(*i[:-1], k).astype("int32") * weight, axis=k)

    return te.compute([*lead, columns], one, name="byte_sums")


def _whole_groups(emitter: "Emitter", codes: "relax.Expr") -> "relax.Expr":
    """Codes with zeros behind each row, so that rows are whole groups of four.

    To TVM that looks like elementwise work, to be part of the product that makes the codes; it is
    not, as it makes rows longer, and so it is marked as a kernel that nothing is fused to.
    """
    from tvm import te, tirx

    *lead, depth = emitter.extents(codes)
    missing = -depth % GROUP
    if not missing:
        return codes

    def compute(tensor: Any) -> Any:
        def one(*i: Any) -> Any:
            return tirx.if_then_else(i[-1] < depth, tensor(*i), tirx.const(0, "uint8"))

        return te.compute([*lead, depth + missing], one, name="whole_groups")

    return emitter.call_te(compute, codes, name="whole_groups", attributes={PATTERN: OPAQUE})


def _row_sums(emitter: "Emitter", codes: "relax.Expr") -> "relax.Expr":
    """Σ_k a[.., m, k], int32 [.., M, 1]."""
    from tvm import relax

    return emitter.emit(relax.op.sum(emitter.cast(codes, "int32"), axis=-1, keepdims=True))


def _shifted(code: Any) -> Any:
    """An int8 code as the uint8 that is 128 more."""
    return (code.astype("int32") + 128).astype("uint8")


def _is_known(value: Value | None) -> bool:
    return value is None or _stored_value(value) is not None


def _stored_value(value: Value) -> Value | Dequantize | None:
    """A constant, or what dequantizes one."""
    if value.constant is not None:
        return value
    op = value.producer
    if isinstance(op, Dequantize) and not op.block:
        return None if computed(op.inputs) else op
    return None


def _known(value: Value | None) -> np.ndarray | None:
    """The elements of a constant, or of one that is stored in a quantized format."""
    found = None if value is None else _stored_value(value)
    if found is None or isinstance(found, Value):
        return None if found is None else found.array()
    arrays = compute(found, [None if v is None else v.array() for v in found.inputs])
    return None if arrays is None else arrays[0]
