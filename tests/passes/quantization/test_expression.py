"""The arithmetic of weights: one function of parts, whatever is in them."""

import ml_dtypes
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from passel.graph.ops import Cast, Gather, Linear
from passel.passes.quantization.expression import write_sum
from passel.passes.quantization.grid import Grid
from passel.passes.quantization.rounded import Format, Part, Rounded
from tests.conftest import View

VIEW = View("fx")
PROGRAMS: dict[tuple[int, int], object] = {}


def graph_of(rows: int, width: int):
    x = (torch.zeros(1, width),)
    key = rows, width
    if key not in PROGRAMS:
        PROGRAMS[key] = VIEW.export(nn.Linear(width, rows), x)
    return VIEW.open(PROGRAMS[key], x)[0]


@st.composite
def sums(draw):
    """One or two parts of a small weight, each with what parts may have."""
    rows, width = draw(st.sampled_from([(1, 1), (3, 5), (4, 8)]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    return Rounded(
        tuple(draw_part(draw, rng, rows, width) for _ in range(draw(st.integers(1, 2)))),
        (rows, width),
        rows=rng.uniform(0.5, 2, rows) if draw(st.booleans()) else None,
        columns=rng.uniform(0.5, 2, width) if draw(st.booleans()) else None,
    )


def draw_part(draw, rng, rows, width):
    held = np.flatnonzero(rng.random(width) < 0.6) if draw(st.booleans()) else None
    held = None if held is not None and not len(held) else held
    inner = width if held is None else len(held)
    grid = draw(st.sampled_from(["int8", "uint4", "uint2"]))
    form = Format(Grid(grid, symmetric=grid == "int8"), draw(st.sampled_from([-1, 0, 2, 3, 16])))
    shape = (1, 1) if form.block < 0 else (rows, form.blocks(inner))
    kind = draw(st.sampled_from(["numbers", "table", "tables"]))
    entries = 4
    table = None
    if kind != "numbers":
        table = rng.standard_normal(entries if kind == "table" else (rows, entries))
    high = entries - 1 if table is not None else form.grid.high
    masked = draw(st.booleans())
    offset = rng.standard_normal(shape) if draw(st.booleans()) else None
    mask = (
        rng.random((rows, inner)) < 0.5
        if masked and (offset is None or kind != "numbers")
        else None
    )
    codes = rng.integers(0, high + 1, (rows, inner)).astype(np.float32)
    if mask is not None:
        codes = np.where(mask, codes, 0)
    zero = np.zeros(shape) if grid == "int8" else rng.integers(0, form.grid.high + 1, shape)
    scale = rng.uniform(0.1, 1, shape)
    return Part(codes, scale, zero.astype(float), form, table, held, offset, mask)


@given(sums(), st.booleans())
def test_the_graph_computes_the_sum(rounded, by_columns):
    rows, width = rounded.shape
    graph = graph_of(rows, width)
    (op,) = graph.walk(Linear)
    value = write_sum(graph, op, rounded, by_columns=by_columns)
    (found,) = graph.probe([value], graph.inputs)([np.zeros((1, width), np.float32)])
    wanted = rounded.dense()
    found = found.T if by_columns else found
    assert found.shape == wanted.shape
    bound = 1e-5 * max(1.0, float(np.abs(wanted).max()))
    assert np.abs(found - wanted).max() <= bound


def test_four_bit_floats_are_indices_of_a_table():
    """Runtimes cannot cast them."""
    graph = graph_of(4, 8)
    (op,) = graph.walk(Linear)
    values = np.array([-6, -1.5, -0.5, 0, 0.5, 1, 3, 6], np.float32)
    codes = np.tile(values, (4, 1))
    form = Format(Grid("float4_e2m1fn"), 4)
    part = Part(codes, np.full((4, 2), 0.5), np.zeros((4, 2)), form)
    value = write_sum(graph, op, Rounded((part,), (4, 8)), by_columns=False)
    (found,) = graph.probe([value], graph.inputs)([np.zeros((1, 8), np.float32)])
    assert np.array_equal(found, codes * 0.5)
    stored = [cast.require(0).dtype for cast in graph.walk(Cast)]
    assert stored == [np.dtype(ml_dtypes.uint4)]
    assert len(list(graph.walk(Gather))) == 1
