"""Write the quantization of an activation by row: each token has a scale, found at run time.

    low = min(x, 0), high = max(x, 0) of a row, scale = (high − low)/255, or 1/255 for a row of 0
    zero_point = q(−low; scale), codes = q(x; scale, zero_point)
with q as Quantize to uint8 in blocks of a whole row. One outlier then costs its own token
precision, not all of them (Yao et al. 2022, ZeroQuant, arXiv:2206.01861, section 4.1: token-wise).
"""

from dataclasses import dataclass

import numpy as np

from ...graph import Graph, Op, Shape, Value
from ...graph.ops import Cast, Dequantize, Elementwise, Quantize, Reduce
from ..numbers import uniform

UINT8 = np.dtype(np.uint8)
NARROW = 4
"""Bytes of a float below which scales are found in float32."""
STEPS = 255.0
"""From the least code to the greatest."""


def has_rows(x: Value) -> bool:
    """Whether the width of a row is known, so that a block can be one."""
    return bool(x.shape) and isinstance((x.shape or ("",))[-1], int)


def codes_by_row(graph: Graph, x: Value, scope: str) -> Quantize:
    """The codes of x, made if no op has made them."""
    for reader in x.readers:
        if isinstance(reader, Quantize) and row_codes(reader) is not None:
            return reader
    return _Chain(graph, x, scope).codes()


class _Chain:
    """Ops that are written one behind the other, after what makes x."""

    def __init__(self, graph: Graph, x: Value, scope: str) -> None:
        assert x.shape is not None
        self.graph, self.x, self.scope = graph, x, scope
        self.last = x
        self.grid: Shape = (*x.shape[:-1], 1)
        self.dtype = np.dtype(np.float32)
        if x.dtype is not None and x.dtype.itemsize >= NARROW:
            self.dtype = x.dtype

    def codes(self) -> Quantize:
        """The op that makes the codes."""
        zero = self._number(0.0)
        low = self._fn("minimum", self._extreme("min"), zero)
        high = self._fn("maximum", self._extreme("max"), zero)
        width = self._fn("sub", high, low)
        is_zero = self._fn("equal", width, zero, dtype=np.dtype(np.bool_))
        whole = self._fn("where", is_zero, self._number(1.0), width)
        scale = self._fn("div", whole, self._number(STEPS))
        zero_point = self._quantize(self._fn("neg", low), scale)
        return self._quantize(self.x, scale, zero_point.output)

    def _extreme(self, fn: str) -> Value:
        axes = ((self.x.rank or 1) - 1,)
        found = self._add(Reduce(inputs=[self.x], fn=fn, axes=axes), self.grid, self.x.dtype)
        if self.x.dtype != self.dtype:
            found = self._add(Cast(inputs=[found], dtype=self.dtype), self.grid, self.dtype)
        return found

    def _fn(self, fn: str, *operands: Value, dtype: np.dtype | None = None) -> Value:
        op = Elementwise(inputs=list(operands), fn=fn)
        return self._add(op, self.grid, self.dtype if dtype is None else dtype)

    def _quantize(self, x: Value, *grid: Value) -> Quantize:
        assert x.shape is not None
        block = x.shape[-1]
        assert isinstance(block, int)
        op = Quantize(inputs=[x, *grid], axis=len(x.shape) - 1, block=block)
        self._add(op, x.shape, UINT8)
        return op

    def _number(self, number: float) -> Value:
        return self.graph.constant(np.array(number, self.dtype), f"{self.x.name}_number")

    def _add(self, op: Op, shape: Shape, dtype: np.dtype | None) -> Value:
        op.scope = self.scope
        name = f"{self.x.name}_{op.kind.lower()}"
        self.last = self.graph.add_behind(self.last, op, (shape, dtype), name=name).output
        return self.last


@dataclass(frozen=True)
class RowCodes:
    """What `codes_by_row` wrote.

    Attributes:
        codes: the op that makes the codes.
        scale: that which makes the scales.
        zero_point: that which makes the zero points.
        casts: of the zero points for `codes`, in order (torch wants them wider).
        reads: the ops that read x.
    """

    codes: Quantize
    scale: Op
    zero_point: Quantize
    casts: tuple[Cast, ...]
    reads: frozenset[Op]

    @property
    def made(self) -> tuple[Op, ...]:
        """The ops whose results are read from outside."""
        return (self.codes, self.scale, self.zero_point, *self.casts)


def row_codes(op: Op) -> RowCodes | None:
    """What makes the scales and zero points of codes by row, if it is as written here."""
    if not isinstance(op, Quantize) or not is_by_row(op) or op.output.dtype != UINT8:
        return None
    zero_point, casts = uncast(op.zero_point)
    made, scale = None if zero_point is None else zero_point.producer, op.scale.producer
    if not isinstance(made, Quantize) or made.output.dtype != UINT8:
        return None
    if made.zero_point is not None and uniform(made.zero_point) != 0.0:
        return None
    if scale is None or made.scale is not op.scale or not is_by_row(made):
        return None
    reduced = _reduced(op.scale, made.x)
    if reduced is None or any(reduce.require(0) is not op.x for reduce in reduced):
        return None
    return RowCodes(op, scale, made, tuple(casts), frozenset((op, *reduced)))


def is_by_row(op: Quantize | Dequantize) -> bool:
    """Whether every row has a scale of its own."""
    shape = op.x.shape or ("",)
    return op.axis == len(shape) - 1 and op.block == shape[-1]


def uncast(value: Value | None) -> tuple[Value | None, list[Cast]]:
    """A value before it was cast, and the casts."""
    casts: list[Cast] = []
    while value is not None and isinstance(value.producer, Cast):
        casts.insert(0, value.producer)
        value = value.producer.require(0)
    return value, casts


def _reduced(scale: Value, below: Value) -> list[Reduce] | None:
    """The least and most of each row that a scale comes from, `below` being −low."""
    whole, steps = _operands(scale, "div")
    is_zero, one, width = _operands(whole, "where")
    compared, zero = _operands(is_zero, "equal")
    high, low = _operands(width, "sub")
    if not (uniform(steps) == STEPS and uniform(one) == 1.0 and uniform(zero) == 0.0):
        return None
    if compared is not width or _operands(below, "neg")[0] is not low:
        return None
    found = [_extreme(low, "minimum", "min"), _extreme(high, "maximum", "max")]
    return [one for one in found if one is not None] if all(found) else None


def _extreme(value: Value | None, bound: str, fn: str) -> Reduce | None:
    """The reduction of rows that a value is, bounded by 0."""
    extreme, zero = _operands(value, bound)
    if zero is None or uniform(zero) != 0.0:
        return None
    found, _ = uncast(extreme)
    op = None if found is None else found.producer
    if not isinstance(op, Reduce) or op.fn != fn or not op.keepdims:
        return None
    return op if op.axes == ((op.require(0).rank or 0) - 1,) else None


ARITY = {"where": 3, "neg": 1}
"""Operands of functions that do not take two."""


def _operands(value: Value | None, fn: str) -> list[Value | None]:
    """The operands of the function that makes a value; as many None if it is made otherwise."""
    op = None if value is None else value.producer
    if isinstance(op, Elementwise) and op.fn == fn:
        return [op.require(index) for index in range(ARITY.get(fn, 2))]
    return [None] * ARITY.get(fn, 2)
