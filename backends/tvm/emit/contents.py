"""What is known of values at emission: constants, what is computed of them, and shape arithmetic.

ONNX computes shapes with tensors: Shape, Gather, Concat, Mul, then Reshape. Such values become no
kernels: their elements are numbers, or expressions over the extents of the inputs (an array of
objects then), and what reads them takes those. What of them is read as data becomes a tensor.
"""

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ....graph import Op, Value
from ....graph.onnx_direct import compute
from ....graph.ops import MOVEMENT, Cast, Concat, Elementwise, Reduce, Reshape, ShapeOf
from .dims import Dims, Extent, Unknown

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

SMALL = 1 << 16
"""Elements of a result that is computed at emission even where its operands have fewer."""


class Contents:
    """The values known at emission."""

    def __init__(self, emitter: "Emitter") -> None:
        self._emitter = emitter
        self._found: dict[Value, np.ndarray] = {}

    def get(self, value: Value | None) -> np.ndarray | None:
        """The elements of a value: numbers, or an array of objects with expressions among them."""
        if value is None:
            return None
        if value.constant is not None:
            return value.array()
        if value not in self._found:
            scalar = scalar_of(value, self._emitter.dims)
            if scalar is not None:
                self._found[value] = boxed(scalar, value.dtype)
        return self._found.get(value)

    def numbers(self, value: Value | None) -> np.ndarray | None:
        """The elements of a value if they are all numbers."""
        found = self.get(value)
        return None if found is None or found.dtype == object else found

    def extents(self, value: Value) -> list[Extent]:
        """The elements of an integer value, flat.

        Raises:
            Unknown: they depend on the elements of the inputs.
        """
        found = self.get(value)
        if found is None:
            raise Unknown(value.name)
        return [x if _is_expression(x) else int(x) for x in found.reshape(-1).tolist()]

    def learn(self, op: Op) -> bool:
        """Compute the results of an op here and now, if its operands allow it."""
        if isinstance(op, ShapeOf):
            shape = self._emitter.shape(op.require(0))
            found: list[np.ndarray] | None = [_picked(op, shape)]
        else:
            found = None
            if all(value is None or self._knows(value) for value in op.inputs):
                found = self._computed(op, [self.get(value) for value in op.inputs])
        if found is None:
            return False
        for value, array in zip(op.outputs, found, strict=False):
            self._found[value] = self._settled(array, value.dtype)
        return True

    def tensor(self, array: np.ndarray, dtype: str) -> "relax.Var":
        """Shape arithmetic as data: a kernel that writes the elements out."""
        from tvm import relax

        elements = relax.ShapeExpr([*array.reshape(-1)])
        flat = self._emitter.emit(relax.op.shape_to_tensor(elements))
        shaped = self._emitter.emit(relax.op.reshape(flat, array.shape))
        return self._emitter.cast(shaped, dtype)

    def _knows(self, value: Value) -> bool:
        """Whether `get` finds something; loads no weight."""
        return value.constant is not None or self.get(value) is not None

    def _computed(self, op: Op, operands: list[np.ndarray | None]) -> list[np.ndarray] | None:
        if any(a is not None and a.dtype == object for a in operands):
            return _symbolic(op, operands, self._emitter.dims)
        if op.effectful or not _is_worth_it(op, operands):
            return None
        try:
            return self._emitter.graph.binding.evaluate(op, operands, wide=False)
        except Exception:  # what the view cannot run on its own is emitted like any other op
            return None

    def _settled(self, array: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
        """In short form, and as plain numbers where all are."""
        if array.dtype != object:
            return array
        short = [
            self._emitter.dims.simple(x) if _is_expression(x) else x for x in array.reshape(-1)
        ]
        if not any(map(_is_expression, short)):
            return np.array(short, dtype or np.int64).reshape(array.shape)
        result = np.empty(array.shape, object)
        result.reshape(-1)[:] = short
        return result


def scalar_of(value: Value, dims: Dims) -> Extent | None:
    """The integer that a node of torch's makes of extents, e.g. `sym_size` or a product of two."""
    node: Any = getattr(getattr(value.origin, "meta", {}).get("val"), "node", None)
    if value.shape != () or value.dtype != np.int64 or not hasattr(node, "expr"):
        return None
    try:
        return dims(str(node.expr))
    except Unknown:
        return None


def boxed(element: Any, dtype: np.dtype | None = None) -> np.ndarray:
    """A 0-d array of one number or expression."""
    result = np.empty((), object if _is_expression(element) else dtype or np.int64)
    result[()] = element
    return result


def _picked(op: ShapeOf, shape: list[Extent]) -> np.ndarray:
    picked = np.empty(len(op.axes), object)
    picked[:] = [shape[axis] for axis in op.axes]
    return picked.reshape(()) if op.scalar else picked


def _is_expression(x: Any) -> bool:
    return not isinstance(x, bool | int | float | complex | np.generic)


def _is_worth_it(op: Op, operands: list[np.ndarray | None]) -> bool:
    """Whether the results take no more memory than the operands, or little."""
    sizes = [
        prod(d if isinstance(d, int) else SMALL + 1 for d in v.shape or ()) for v in op.outputs
    ]
    read = sum(array.size for array in operands if array is not None)
    return sum(sizes) <= max(SMALL, read)


def _symbolic(op: Op, operands: list[np.ndarray | None], dims: Dims) -> list[np.ndarray] | None:
    """Arithmetic on expressions; None where it has no closed form."""
    x = operands[0]
    assert x is not None
    if isinstance(op, Elementwise):
        function = _function(op.fn, dims)
        return None if function is None else _mapped(function, operands)
    if isinstance(op, Reduce) and op.fn in ("sum", "prod"):
        fold: Any = np.sum if op.fn == "sum" else np.prod
        return [_array(fold(x, axis=op.axes or None, keepdims=op.keepdims))]
    if isinstance(op, Cast):
        return [x] if op.dtype.kind in "iu" else None
    if isinstance(op, Reshape) and op.dims is None:
        target = operands[1]
        return None if target is None or target.dtype == object else [x.reshape(target.tolist())]
    is_placed = all(a is None or a.dtype != object for a in operands[1:])
    if not isinstance(op, Concat) and not (isinstance(op, MOVEMENT) and is_placed):
        return None
    found = compute(op, operands)
    return None if found is None else [_array(array) for array in found]


def _array(found: Any) -> np.ndarray:
    return found if isinstance(found, np.ndarray) else boxed(found)


def _mapped(
    function: Callable[..., Any], operands: list[np.ndarray | None]
) -> list[np.ndarray] | None:
    try:
        arrays = [a.astype(object) for a in operands if a is not None]
        return [_array(np.frompyfunc(function, len(arrays), 1)(*arrays))]
    except Unknown:
        return None


def _function(fn: str, dims: Dims) -> Callable[..., Any] | None:
    """A pointwise function on numbers and expressions."""

    def decided(answer: bool | None) -> bool:
        if answer is None:
            raise Unknown(fn)
        return answer

    table: dict[str, Callable[..., Any]] = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a // b,  # extents are not negative: towards zero is down
        "maximum": dims.largest,
        "minimum": dims.smallest,
        "equal": lambda a, b: decided(dims.equal(a, b)),
        "greater_equal": lambda a, b: decided(dims.at_least(a, b)),
        "less_equal": lambda a, b: decided(dims.at_least(b, a)),
        "greater": lambda a, b: not decided(dims.at_least(b, a)),
        "less": lambda a, b: not decided(dims.at_least(a, b)),
        "where": lambda c, a, b: a if c else b,
    }
    return table.get(fn)
