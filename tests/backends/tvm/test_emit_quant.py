"""Quantize and dequantize through Relax against the vocabulary's own arithmetic, code by code."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from passel.backends.tvm.emit import emit
from passel.graph import Graph, bits_of
from passel.graph.ops import Cast, Dequantize, DynamicQuantize, Quantize
from passel.graph.quant_numbers import dequantized, dynamically_quantized, quantized
from tests.backends.tvm.emission import built, running

EMPTY = """
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[4, 6] x) => (float[4, 6] y) { y = Identity(x) }"""


@dataclass(frozen=True)
class Grid:
    """Codes of a type on one scale, one per position of an axis, or one per block."""

    codes: type
    axis: int | None = None
    block: int = 0
    zero: bool = True
    scale: type = np.float32

    def scales(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        shape: tuple[int, ...] = ()
        if self.axis is not None:
            shape = (4, 6)[self.axis : self.axis + 1]
            if self.block:
                shape = tuple(
                    -(-n // self.block) if k == self.axis else n for k, n in enumerate((4, 6))
                )
        scale = rng.uniform(0.05, 0.4, shape).astype(self.scale)
        zero = rng.integers(0, 3, shape).astype(np.int32).astype(self.codes)
        return scale, zero if self.zero else None


GRIDS = {
    "uint8": Grid(np.uint8),
    "int8, no zero point": Grid(np.int8, zero=False),
    "int8 by row": Grid(np.int8, axis=0),
    "uint8 by column": Grid(np.uint8, axis=1),
    "int16": Grid(np.int16),
    "int4 by row": Grid(ml_dtypes.int4, axis=0, zero=False),
    "uint4 by blocks": Grid(ml_dtypes.uint4, axis=1, block=4),
    "uint2 by blocks of rows": Grid(ml_dtypes.uint2, axis=0, block=2),
    "int8 at float16": Grid(np.int8, axis=1, scale=np.float16),
}


def both(graph: Graph, grid: Grid, x: np.ndarray) -> list[np.ndarray]:
    """Make the graph quantize and dequantize x on a grid; gives what it must give."""
    scale, zero = grid.scales(np.random.default_rng(1))
    constants = [graph.constant(a, "grid") for a in (scale, zero) if a is not None]
    where = {"axis": grid.axis, "block": grid.block}
    source = graph.inputs[0]
    coded = graph.add(
        Quantize(inputs=[source, *constants], **where), ((4, 6), np.dtype(grid.codes))
    )
    made = graph.add(
        Dequantize(inputs=[coded.output, *constants], **where), ((4, 6), np.dtype(grid.scale))
    )
    graph.outputs = [coded.output, made.output]
    codes = quantized(x, scale, zero, np.dtype(grid.codes), grid.axis, grid.block)
    return [
        codes,
        dequantized(codes, scale, zero, np.dtype(grid.scale), grid.axis, grid.block),
    ]


def numbers() -> np.ndarray:
    """Numbers of which some fall between two codes and some beyond the last."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, (4, 6)).astype(np.float32)
    x[0, :3] = 1e6, -1e6, 0
    return x


@pytest.mark.parametrize("name", GRIDS)
def test_codes_and_back(machine, onnx_text, name):
    x = numbers()
    graph, _ = onnx_text(EMPTY)
    codes, y = both(graph, GRIDS[name], x)
    emitted = emit(graph, machine)
    found = running(emitted, machine)([x])
    narrow = bits_of(codes.dtype) < 8
    assert [f"holds {codes.dtype} codes" in note for note in emitted.notes] == [True] * narrow
    assert found[0].itemsize == codes.itemsize
    assert np.array_equal(found[0].astype(np.int32), codes.astype(np.int32))
    assert found[1].dtype == y.dtype
    assert np.array_equal(found[1], y)


def test_halves_go_to_even_codes(machine, onnx_text):
    graph, _ = onnx_text(EMPTY)
    scale = graph.constant(np.float32(1.0).reshape(()), "scale")
    op = graph.add(Quantize(inputs=[graph.inputs[0], scale]), ((4, 6), np.dtype(np.int8)))
    graph.outputs = [op.output]
    x = np.resize(np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5], np.float32), (4, 6))
    assert built(graph, machine)([x])[0][0].tolist() == [0, 2, 2, 0, -2, -2]


@pytest.mark.parametrize("kind", [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.uint2, np.int32])
def test_stored_weights(machine, onnx_text, kind):
    graph, _ = onnx_text(EMPTY)
    rng = np.random.default_rng(2)
    bound = 2**30 if kind is np.int32 else 4
    codes = rng.integers(0, bound, (4, 6)).astype(np.int32).astype(kind)
    scale = rng.uniform(0.1, 1, 4).astype(np.float32)
    held = [graph.constant(codes, "codes"), graph.constant(scale, "scale")]
    op = graph.add(Dequantize(inputs=held, axis=0), ((4, 6), np.dtype(np.float32)))
    graph.outputs = [op.output]
    emitted = emit(graph, machine)
    (found,) = running(emitted, machine)([numbers()])
    assert np.array_equal(found, dequantized(codes, scale, None, np.dtype(np.float32), 0))


@pytest.mark.parametrize("x", [numbers(), np.abs(numbers()) + 1, np.zeros((4, 6), np.float32)])
def test_scales_found_at_run_time(machine, onnx_text, x):
    graph, _ = onnx_text(EMPTY)
    results = [((4, 6), np.dtype(np.uint8)), ((), np.dtype(np.float32)), ((), np.dtype(np.uint8))]
    op = graph.add(DynamicQuantize(inputs=[graph.inputs[0]]), *results)
    graph.outputs = list(op.outputs)
    for expected, found in zip(dynamically_quantized(x), built(graph, machine)([x]), strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("kind", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_float8(machine, onnx_text, kind):
    x = numbers()
    graph, _ = onnx_text(EMPTY)
    codes, y = both(graph, Grid(kind, zero=False), x)
    found = built(graph, machine)([x])
    assert np.array_equal(found[0].view(np.uint8), codes.view(np.uint8))
    assert np.array_equal(found[1], y)


@pytest.mark.parametrize("kind", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_every_float8_is_written_and_read_as_it_is(machine, onnx_text, kind):
    graph, _ = onnx_text(EMPTY)
    codes = np.arange(256, dtype=np.uint8).view(kind).astype(np.float32)
    finite = codes[np.isfinite(codes)]
    x = np.concatenate([finite, finite * np.float32(1.03125), finite * np.float32(0.96875)])
    x = np.append(x[np.abs(x) <= float(ml_dtypes.finfo(kind).max)], np.float32(np.nan))
    (source,), float32 = graph.inputs, np.dtype(np.float32)
    source.shape = x.shape
    narrow = graph.add(Cast(inputs=[source], dtype=np.dtype(kind)), (x.shape, np.dtype(kind)))
    wide = graph.add(Cast(inputs=[narrow.output], dtype=float32), (x.shape, float32))
    graph.outputs = [narrow.output, wide.output]
    found = built(graph, machine)([x])
    expected = x.astype(kind)
    assert np.array_equal(found[0][:-1].view(np.uint8), expected[:-1].view(np.uint8))
    assert np.array_equal(found[1], expected.astype(np.float32), equal_nan=True)
