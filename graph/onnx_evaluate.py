"""Run one op on constants: by numpy where that is one line, else as a model of one op."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from .onnx_build import Builder
from .onnx_copy import copy_node, is_copyable
from .onnx_direct import compute
from .onnx_emit import emit
from .onnx_reference import execute
from .value import Op, Value, is_float

Arrays = Sequence[np.ndarray | None]


def evaluate(op: Op, arrays: Arrays, opsets: Mapping[str, int], wide: bool) -> list[np.ndarray]:
    """Results of an op, if `wide` computed in float64 where the op allows."""
    if wide and all(output.is_float for output in op.outputs):
        try:
            return _evaluate(op, [None if a is None else _widened(a) for a in arrays], opsets)
        except Exception:
            pass  # e.g. an operator without a float64 kernel; running it as it is decides
    return _evaluate(op, arrays, opsets)


def _evaluate(op: Op, arrays: Arrays, opsets: Mapping[str, int]) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        found = compute(op, arrays)
    return _reference(op, arrays, opsets) if found is None else found


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64, copy=False) if is_float(array.dtype) else array


def _reference(op: Op, arrays: Arrays, opsets: Mapping[str, int]) -> list[np.ndarray]:
    """Run a model that holds this op alone."""
    operands = [_operand(f"x{index}", array) for index, array in enumerate(arrays)]
    made: list[ir.Value] = []

    def constant(array: np.ndarray, hint: str) -> ir.Value:
        value = ir.val(
            f"{hint}{len(made)}", const_value=ir.Tensor(array), type=_type(array), shape=array.shape
        )
        made.append(value)
        return value

    if is_copyable(op):
        nodes = [copy_node(op, operands)]
        results: Sequence[ir.Value] = nodes[0].outputs
    else:
        build = Builder(opsets.get("", 1), constant, _never)
        results, nodes = emit(build, op, operands), build.nodes
    named = [value for value in operands if value is not None]
    graph = ir.Graph(named, results, nodes=nodes, initializers=made, opset_imports=dict(opsets))
    for value in results:
        value.type = value.type or ir.TensorType(ir.DataType.UNDEFINED)
    feeds = {str(v.name): a for v, a in zip(operands, arrays, strict=True) if v is not None}
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    return execute(proto, {name: array for name, array in feeds.items() if array is not None})


def _never(weight: Value) -> None:
    return None


def _operand(name: str, array: np.ndarray | None) -> ir.Value | None:
    return None if array is None else ir.val(name, type=_type(array), shape=array.shape)


def _type(array: np.ndarray) -> ir.TensorType:
    return ir.TensorType(ir.DataType.from_numpy(array.dtype))
