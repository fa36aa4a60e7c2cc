"""Quantized weights and activations put into a lifted graph, and numpy's word on what they do."""

import ml_dtypes
import numpy as np

from passel.graph import Graph
from passel.graph import ops as o

FORMATS = "int8 uint8 int4 uint4 int2 uint2 float8_e4m3fn float8_e5m2 float4_e2m1fn".split()
LAYOUTS = [(None, 0), (0, 0), (1, 0), (0, 4), (1, 4), (0, 3), (1, 5)]
PEAK = {"int8": 127, "uint8": 128, "int4": 7, "uint4": 8, "int2": 1, "uint2": 1}
F32 = np.dtype(np.float32)


def dtype_of(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def grid_shape(shape, axis, block):
    if axis is None:
        return ()
    if not block:
        return (shape[axis],)
    return tuple(-(-n // block) if k == axis else n for k, n in enumerate(shape))


def broadcast_grid(grid, shape, axis, block):
    """Every element's scale, by index arithmetic."""
    if axis is None:
        return np.broadcast_to(grid, shape)
    index = np.indices(shape)
    if not block:
        return grid[index[axis]]
    return grid[tuple(i // block if k == axis else i for k, i in enumerate(index))]


def code(weight, dtype, axis, block):
    """Codes, scale, zero point and the float64 weight they stand for."""
    shape = grid_shape(weight.shape, axis, block)
    peak = PEAK.get(dtype.name, 6)
    spread = np.random.default_rng(1).uniform(0.8, 1.2, shape)
    scale = (np.abs(weight).max() / peak * spread).astype(np.float32)
    ratio = weight / broadcast_grid(scale, weight.shape, axis, block)
    zero = None
    if dtype.name.startswith("u"):
        zero = np.full(shape, peak, np.int32).astype(dtype)
        ratio = np.clip(np.rint(ratio) + peak, 0, 2 * peak - 1).astype(np.int32)
    elif dtype.name.startswith("int"):
        ratio = np.clip(np.rint(ratio), -peak - 1, peak).astype(np.int32)
    codes = ratio.astype(dtype)
    centred = codes.astype(np.float64) - (0 if zero is None else peak)
    return codes, scale, zero, centred * broadcast_grid(scale, weight.shape, axis, block)


def store(graph: Graph, linear: o.Linear, dtype, axis, block=0):
    """Let a linear read a dequantized weight; gives what that weight then is, float64."""
    codes, scale, zero, stands_for = code(linear.weight.array(), dtype, axis, block)
    inputs = [graph.constant(codes, "codes"), graph.constant(scale, "scale")]
    if zero is not None:
        inputs.append(graph.constant(zero, "zero"))
    op = o.Dequantize(inputs=inputs, axis=axis, block=block)
    graph.add(op, (codes.shape, F32), before=linear)
    graph.set_input(linear, 1, op.output)
    return stands_for


def round_trip(graph: Graph, value, dtype, scale, zero=None, axis=None, block=0):
    """Let the readers of a value read what is left of it after Quantize and Dequantize."""
    readers = list(value.uses)
    grid = [graph.constant(np.asarray(scale, np.float32), "scale")]
    if zero is not None:
        grid.append(graph.constant(np.asarray(zero).astype(dtype), "zero"))
    how = {"axis": axis, "block": block}
    first = o.Quantize(inputs=[value, *grid], **how)
    where = {"after": value.producer} if value.producer is not None else {"before": readers[0][0]}
    graph.add(first, (value.shape, dtype), **where)
    second = o.Dequantize(inputs=[first.output, *grid], **how)
    graph.add(second, (value.shape, value.dtype), after=first)
    graph.redirect(value, second.output, readers)
    return first, second
