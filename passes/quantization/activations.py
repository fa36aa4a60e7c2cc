"""Write the quantization of activations: one Quantize per value and format, shared by its readers.

A Quantize goes above the ops that only move elements, so that they move codes, where nothing but
the reader needs what they moved.
"""

import numpy as np

from ...graph import Graph, Op, Value
from ...graph.ops import (
    Attention,
    Conv,
    Dequantize,
    DynamicQuantize,
    Elementwise,
    Identity,
    Quantize,
    Reshape,
    Slice,
    Squeeze,
    Transpose,
    Unsqueeze,
)
from .by_row import codes_by_row, has_rows
from .grid import Grid

MOVES = (Identity, Reshape, Slice, Squeeze, Transpose, Unsqueeze)
"""Ops that give some of the elements of their first operand, unchanged."""


def quantize_static(graph: Graph, op: Op, grid: Grid, low: float, high: float) -> np.ndarray:
    """Let operand 0 of `op` go through codes of `grid` that span [low, high]; gives the scale."""
    x = op.require(0)
    scale, zero = _fit(grid, low, high, x.dtype)
    path = [] if grid.is_float else moves_above(graph, op)  # a Slice takes no 8-bit floats
    source = path[-1].require(0) if path else x
    codes = _shared(source, grid, scale, zero) or _quantize(graph, source, grid, scale, zero)
    if path:
        graph.set_input(path[-1], 0, codes)
        for move in path:
            move.output.dtype = grid.dtype
            graph.update(move)
        codes = x
    _read(graph, op, codes, source.dtype, *_parameters(codes, path))
    return scale


def quantize_dynamic(graph: Graph, op: Op, *, by_row: bool = False) -> None:
    """Let operand 0 of `op` go through uint8 codes at a scale found at run time.

    By row, there is one for each row, where the width of rows is known.
    """
    x = op.require(0)
    if by_row and has_rows(x):
        by = codes_by_row(graph, x, op.scope)
        _read(graph, op, by.output, x.dtype, by.scale, by.require(2), by.axis, by.block)
        return
    found = next((reader for reader in x.readers if isinstance(reader, DynamicQuantize)), None)
    if found is None:
        found = DynamicQuantize(inputs=[x], scope=op.scope)
        codes, scale = np.dtype(np.uint8), np.dtype(np.float32)
        results = (x.shape, codes), ((), scale), ((), codes)
        graph.add_behind(x, found, *results, name=f"{x.name}_dynamicquantize")
    made, step, zero = found.outputs
    _read(graph, op, made, x.dtype, step, zero)


def quantize_result(graph: Graph, value: Value, grid: Grid, low: float, high: float) -> None:
    """Let all that read `value` read codes of `grid` that span [low, high], dequantized."""
    scale, zero = _fit(grid, low, high, value.dtype)
    assert value.shape is not None
    codes = _quantize(graph, graph.renew(value, value.shape), grid, scale, zero)
    made = codes.producer
    assert made is not None
    op = Dequantize(inputs=[codes, *_parameters(codes, [])], outputs=[value], scope=made.scope)
    graph.add(op, after=made, name=f"{value.name}_dequantize")


def result_of(graph: Graph, op: Op) -> Value | None:
    """What a convolution makes, behind a relu that alone reads it; None for other ops.

    Runtimes have convolutions of integers whose result is quantized as well, and no others; they
    take the relu in. None too where the result is one of the graph's.
    """
    if not isinstance(op, Conv):
        return None
    value, reader = op.output, graph.only_reader(op.output)
    if isinstance(reader, Elementwise) and reader.fn == "relu":
        value = reader.output
    return None if graph.is_output(value) or value.shape is None else value


def _fit(
    grid: Grid, low: float, high: float, dtype: np.dtype | None
) -> tuple[np.ndarray, np.ndarray]:
    """Scale, a number that `dtype` has, and zero point."""
    scale, zero = grid.fit(np.array(low, np.float64), np.array(high, np.float64))
    assert dtype is not None
    return np.asarray(np.maximum(scale, np.finfo(dtype).tiny), np.float32), zero


def moves_above(graph: Graph, op: Op) -> list[Op]:
    """Moves between operand 0 of `op` and its source, from the last to the first.

    Only moves whose results nothing else reads. Those right after attention stay with it: runtimes
    have it write the result as they want it.
    """
    path: list[Op] = []
    value, reader = op.require(0), op
    while isinstance(value.producer, MOVES) and graph.only_reader(value) is reader:
        reader = value.producer
        path.append(reader)
        value = reader.require(0)
    if value.constant is not None or not value.is_float or isinstance(value.producer, Attention):
        return []
    return path


def _shared(source: Value, grid: Grid, scale: np.ndarray, zero: np.ndarray) -> Value | None:
    """Codes of the same format and scale that another reader asked for."""
    above = source.producer
    made = [above.x.producer] if isinstance(above, Dequantize) else []
    for reader in (*made, *source.readers):
        if not isinstance(reader, Quantize) or reader.output.dtype != grid.dtype:
            continue
        old = None if reader.zero_point is None else reader.zero_point.constant
        if reader.axis is None and reader.scale.constant is not None and old is not None:
            held = reader.scale.array()
            same = np.array_equal(held, scale.astype(held.dtype))
            if same and float(old.array()) == float(zero):
                return reader.output
    return None


def _quantize(
    graph: Graph, source: Value, grid: Grid, scale: np.ndarray, zero: np.ndarray
) -> Value:
    dtype = source.dtype
    assert dtype is not None
    operands = [
        source,
        graph.constant(scale.astype(dtype), f"{source.name}_scale"),
        graph.constant(np.asarray(zero).astype(grid.dtype), f"{source.name}_zero_point"),
    ]
    scope = "" if source.producer is None else source.producer.scope
    op = Quantize(inputs=list(operands), scope=scope)
    graph.add_behind(source, op, (source.shape, grid.dtype), name=f"{source.name}_quantize")
    return op.output


def _parameters(codes: Value, path: list[Op]) -> tuple[Value, Value]:
    """Scale and zero point of codes, or of what they were moved from."""
    made = (path[-1].require(0) if path else codes).producer
    assert isinstance(made, Quantize)
    return made.scale, made.require(2)


def _read(
    graph: Graph,
    op: Op,
    codes: Value,
    dtype: np.dtype | None,
    scale: Value,
    zero: Value,
    axis: int | None = None,
    block: int = 0,
) -> None:
    """Let operand 0 of `op` be codes, dequantized."""
    found = next((one for one in codes.readers if isinstance(one, Dequantize)), None)
    if found is None:
        found = Dequantize(inputs=[codes, scale, zero], axis=axis, block=block, scope=op.scope)
        graph.add_behind(codes, found, (codes.shape, dtype), name=f"{codes.name}_dequantize")
    graph.set_input(op, 0, found.output)
