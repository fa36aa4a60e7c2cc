"""Makes the ONNX nodes that spell one op: the vocabulary of the emit rules."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from .onnx_node import normal_axes
from .value import Value

Operand = ir.Value | None


class Builder:
    """Collects nodes in order, for one opset.

    Attributes:
        opset: version of the standard operator set.
        nodes: what was made so far.
    """

    def __init__(
        self,
        opset: int,
        constant: Callable[[np.ndarray, str], ir.Value],
        transposed: Callable[[Value], Operand],
    ) -> None:
        self.opset = opset
        self.nodes: list[ir.Node] = []
        self._constant = constant
        self._transposed = transposed

    def __call__(self, op_type: str, *inputs: Operand, **attributes: Any) -> ir.Value:
        """Add a node with one result."""
        return self.many(op_type, *inputs, results=1, **attributes)[0]

    def many(
        self, op_type: str, *inputs: Operand, results: int, **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """Add a node with several results."""
        operands = list(inputs)
        while operands and operands[-1] is None:
            operands.pop()
        given = {name: value for name, value in attributes.items() if value is not None}
        node = ir.node(op_type, operands, given, num_outputs=results)
        self.nodes.append(node)
        for output in node.outputs:
            output.type = _result_type(op_type, operands)
        return tuple(node.outputs)

    def ints(self, *numbers: int) -> ir.Value:
        """A 1-D int64 constant."""
        return self._constant(np.array(numbers, np.int64), "ints")

    def index(self, number: int) -> ir.Value:
        """A 0-D int64 constant."""
        return self._constant(np.array(number, np.int64), "index")

    def scalar(self, number: float, like: ir.Value) -> ir.Value:
        """A 0-D constant of the element type of `like`."""
        return self._constant(np.array(number, dtype_of(like)), "scalar")

    def array(self, array: np.ndarray, hint: str) -> ir.Value:
        """A constant of any shape and type."""
        return self._constant(array, hint)

    def full(self, number: float, shape: tuple[int, ...], like: ir.Value) -> ir.Value:
        return self._constant(np.full(shape, number, dtype_of(like)), "full")

    def transposed(self, weight: Value, operand: ir.Value) -> ir.Value:
        """A matrix turned over: the constant itself where no one else reads it, else by a node."""
        return self._transposed(weight) or self("Transpose", operand, perm=(1, 0))

    def cast(self, x: ir.Value, dtype: np.dtype) -> ir.Value:
        result = self("Cast", x, to=ir.DataType.from_numpy(dtype).value)
        result.type = ir.TensorType(ir.DataType.from_numpy(dtype))
        return result

    def reduce(
        self, fn: str, x: ir.Value, axes: tuple[int, ...], *, keepdims: bool = True
    ) -> ir.Value:
        """A reduction; ReduceSum took its axes as an operand from 13 on, the others from 18 on."""
        name = f"Reduce{fn.capitalize()}"
        if fn == "sum" or self.opset >= 18:
            return self(name, x, self.ints(*axes), keepdims=int(keepdims))
        return self(name, x, axes=axes, keepdims=int(keepdims))

    def extent(self, x: ir.Value, axis: int) -> ir.Value:
        """One extent of x as a 1-D int64 value, read at run time unless it is known."""
        if x.shape is not None:
            (axis,) = normal_axes((axis,), len(x.shape))
            known = x.shape[axis]
            if isinstance(known, int):
                return self.ints(known)
        return self("Gather", self("Shape", x), self.ints(axis), axis=0)

    def length(self, x: ir.Value, axes: tuple[int, ...]) -> ir.Value:
        """How many elements the axes span, as a 0-D value of x's element type."""
        known = [None if x.shape is None else x.shape[axis] for axis in axes]
        static = [dim for dim in known if isinstance(dim, int)]
        if len(static) == len(known):
            return self.scalar(float(np.prod(static)), x)
        picked = self("Gather", self("Shape", x), self.ints(*axes), axis=0)
        return self.cast(self.reduce("prod", picked, (0,), keepdims=False), dtype_of(x))


RESULT_TYPES = {
    "Shape": ir.DataType.INT64,
    **dict.fromkeys(
        ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or"),
        ir.DataType.BOOL,
    ),
    "Not": ir.DataType.BOOL,
    "IsNaN": ir.DataType.BOOL,
}
"""Element types of the operators whose result is not of their first operand's type."""


def _result_type(op_type: str, operands: "list[Operand]") -> ir.TypeProtocol | None:
    if op_type in RESULT_TYPES:
        return ir.TensorType(RESULT_TYPES[op_type])
    typed = operands[1 if op_type == "Where" else 0]
    return None if typed is None else typed.type


def dtype_of(value: ir.Value) -> np.dtype:
    """Element type of a value; float32 where the model does not say."""
    return np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
