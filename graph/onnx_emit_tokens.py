"""How the ops that choose positions at run time are written in ONNX."""

import numpy as np
import onnx_ir as ir

from .onnx_build import Builder, Operand
from .onnx_emit import Results, emits, needed
from .onnx_emit_shape import target
from .ops import Fill, Put, Range, Scatter, Sort, Take, TopK, Triangle


@emits(TopK)
def _topk(build: Builder, op: TopK, operands: "list[Operand]") -> Results:
    k = operands[1] if op.k is None else build.ints(op.k)
    largest = None if op.largest else 0
    found = build.many("TopK", operands[0], k, results=2, axis=op.axis, largest=largest)
    return _typed(found[0], found[1])[: len(op.outputs)]


def _typed(values: ir.Value, indices: ir.Value) -> "list[ir.Value]":
    indices.type = ir.TensorType(ir.DataType.INT64)
    return [values, indices]


@emits(Sort)
def _sort(build: Builder, op: Sort, operands: "list[Operand]") -> Results:
    x = needed(operands[0])
    found = build.many("TopK", x, build.extent(x, -1), results=2, largest=0)
    return _typed(*found)[0]


@emits(Fill)
def _fill(build: Builder, op: Fill, operands: "list[Operand]") -> Results:
    assert op.output.dtype is not None
    held = ir.Tensor(np.array([op.number]).astype(op.output.dtype))
    shape = operands[0] if op.dims is None else target(build, op.dims, operands)
    filled = build("ConstantOfShape", shape, value=held)
    filled.type = ir.TensorType(held.dtype)
    return filled


@emits(Scatter)
def _scatter(build: Builder, op: Scatter, operands: "list[Operand]") -> Results:
    x, indices, updates = (needed(operand) for operand in operands[:3])
    if op.updates.shape == ():
        updates = build("Expand", updates, build("Shape", indices))
    return build("ScatterElements", x, indices, updates, axis=op.axis)


@emits(Take)
def _take(build: Builder, op: Take, operands: "list[Operand]") -> Results:
    x = _permuted(build, needed(operands[0]), op.front)
    rows = build("Unsqueeze", operands[1], build.ints(2))
    return _permuted(build, build("GatherND", x, rows, batch_dims=1), op.back)


@emits(Put)
def _put(build: Builder, op: Put, operands: "list[Operand]") -> Results:
    x, updates = (_permuted(build, needed(operands[k]), op.front) for k in (0, 2))
    places = _places(build, needed(operands[1]))
    return _permuted(build, build("ScatterND", x, places, updates), op.back)


@emits(Range)
def _range(build: Builder, op: Range, operands: "list[Operand]") -> Results:
    start = build.index(op.start)
    return build("Range", start, build("Add", operands[0], start), build.index(1))


def _places(build: Builder, indices: ir.Value) -> ir.Value:
    """[B, k] as [B, k, 2]: the batch element beside each index, as ScatterND wants it."""
    batch = None if indices.shape is None else indices.shape[0]
    if isinstance(batch, int):
        rows = build.array(np.arange(batch, dtype=np.int64).reshape(batch, 1), "rows")
    else:
        count = build("Squeeze", build.extent(indices, 0), build.ints(0))
        numbers = build("Range", build.index(0), count, build.index(1))
        rows = build("Unsqueeze", numbers, build.ints(1))
    spread = build("Add", rows, build("Sub", indices, indices))  # cheaper than Shape and Expand
    pair = (build("Unsqueeze", value, build.ints(2)) for value in (spread, indices))
    return build("Concat", *pair, axis=2)


def _permuted(build: Builder, x: ir.Value, order: tuple[int, ...]) -> ir.Value:
    return x if order == tuple(sorted(order)) else build("Transpose", x, perm=order)


@emits(Triangle)
def _triangle(build: Builder, op: Triangle, operands: "list[Operand]") -> Results:
    return build("Trilu", operands[0], build.index(op.diagonal), upper=int(op.upper))
