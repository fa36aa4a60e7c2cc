"""The arithmetic that makes a weight of tables, several parts and factors, written into a graph."""

from dataclasses import replace

import ml_dtypes
import numpy as np

from ...graph import Graph, Op, Value
from ...graph.ops import Cast, Concat, Elementwise, Gather, Reshape, Slice, Transpose
from .rounded import Part, Rounded

INT32 = np.dtype(np.int32)
UINT4 = np.dtype(ml_dtypes.uint4)
FP4 = "float4_e2m1fn"


class Writer:
    """Adds ops right before another one, in its scope and in the dtype of its result."""

    def __init__(self, graph: Graph, op: Op) -> None:
        self.graph, self.op = graph, op
        self.dtype = op.output.dtype
        assert self.dtype is not None

    def add(self, made: Op, shape: tuple[int, ...], dtype: np.dtype | None = None) -> Value:
        """One op, whose result has the writer's dtype unless another is given."""
        made.scope = self.op.scope
        name = f"{self.op.name}_{made.kind.lower()}"
        self.graph.add(made, (shape, dtype or self.dtype), before=self.op, name=name)
        return made.output

    def constant(self, array: np.ndarray, hint: str) -> Value:
        """A constant as it is."""
        return self.graph.constant(np.ascontiguousarray(array), f"{self.op.name}_{hint}")

    def number(self, array: np.ndarray, hint: str) -> Value:
        """A constant in the writer's dtype."""
        return self.constant(np.asarray(array).astype(self.dtype), hint)

    def binary(
        self, fn: str, left: Value, right: np.ndarray | Value, shape: tuple[int, ...]
    ) -> Value:
        """A pointwise function of two, the right one broadcast to the left one's shape."""
        other = self.number(right, fn) if isinstance(right, np.ndarray) else right
        return self.add(Elementwise(inputs=[left, other], fn=fn), shape)


def write_sum(graph: Graph, op: Op, rounded: Rounded, *, by_columns: bool) -> Value:
    """(rows ⊗ columns)⊙Σ parts as [O, I], or as [I, O] `by_columns`, right before `op`."""
    writer, shape = Writer(graph, op), rounded.shape
    values = [_placed(writer, _part(writer, part), part, shape) for part in rounded.parts]
    total = values[0]
    for value in values[1:]:
        total = writer.binary("add", total, value, shape)
    if rounded.rows is not None:
        total = writer.binary("mul", total, rounded.rows.reshape(-1, 1), shape)
    if rounded.columns is not None:
        total = writer.binary("mul", total, rounded.columns.reshape(1, -1), shape)
    if not by_columns:
        return total
    return writer.add(Transpose(inputs=[total], perm=(1, 0)), shape[::-1])


def _part(writer: Writer, part: Part) -> Value:
    """scale·value(codes) + offset as [O, I'], I' being the columns that the part holds."""
    part = _tabulated(part)
    codes = _blocked(part)
    shape = codes.shape
    scale, offset = part.scale[:, :, None], _offset(part)
    if part.table is None:
        grid = part.format.grid
        stored = writer.constant(codes.astype(grid.dtype), "codes")
        assert writer.dtype is not None
        value = writer.add(Cast(inputs=[stored], dtype=writer.dtype), shape)
        held = None
    else:
        table = _table(part)
        index = _index(writer, codes, table)
        value = _looked_up(writer, table, index, shape)
        held = None if part.mask is None else _held(writer, part.table, index, shape)
    value = writer.binary("mul", value, scale, shape)
    if offset is not None:
        shift: Value | np.ndarray = offset
        if held is not None:
            shift = writer.binary("mul", held, offset, shape)
        value = writer.binary("add", value, shift, shape)
    return _flat(writer, value, shape, part.codes.shape)


def _tabulated(part: Part) -> Part:
    """Codes of 4-bit floats, which runtimes cannot cast, as codes of a table of their values."""
    if part.format.grid.name != FP4:
        return part
    values = np.arange(16).astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    table = np.unique(values)
    return replace(part, codes=np.searchsorted(table, part.codes), table=table)


def _blocked(part: Part) -> np.ndarray:
    """Codes as [O, blocks, block], the last block filled up.

    Where a mask hides an entry, the code is one after the table, or that of the number 0.
    """
    codes, block = part.codes, part.format.block
    rows, width = codes.shape
    if part.mask is not None:
        nothing = part.format.spread(part.zero, width) if part.table is None else _entries(part)
        codes = np.where(part.mask, codes, nothing)
    size = block if block > 0 else width
    return np.pad(codes, ((0, 0), (0, -width % size))).reshape(rows, -1, size)


def _entries(part: Part) -> int:
    assert part.table is not None
    return part.table.shape[-1]


def _offset(part: Part) -> np.ndarray | None:
    """What is added after scaling, [.., blocks, 1]: the part's offset, and −scale·zero point."""
    offset = None if part.offset is None else part.offset[:, :, None]
    if part.table is not None or not np.any(part.zero):
        return offset
    moved = -(part.scale * part.zero)[:, :, None]
    return moved if offset is None else offset + moved


def _table(part: Part) -> np.ndarray:
    """The table, with 0 after it for what a mask hides."""
    assert part.table is not None
    if part.mask is None:
        return part.table
    return np.concatenate([part.table, np.zeros((*part.table.shape[:-1], 1))], axis=-1)


def _index(writer: Writer, codes: np.ndarray, table: np.ndarray) -> Value:
    stored = writer.constant(codes.astype(UINT4 if table.shape[-1] <= 16 else np.uint8), "codes")
    return writer.add(Cast(inputs=[stored], dtype=INT32), codes.shape, INT32)


def _looked_up(writer: Writer, table: np.ndarray, index: Value, shape: tuple[int, ...]) -> Value:
    """Entries of a table [K] or [O, K]."""
    if table.ndim == 2:
        starts = np.arange(len(table), dtype=np.int32).reshape(-1, 1, 1) * table.shape[1]
        by = writer.constant(starts, "starts")
        index = writer.add(Elementwise(inputs=[index, by], fn="add"), shape, INT32)
    held = writer.number(table.reshape(-1), "table")
    return writer.add(Gather(inputs=[held, index], axis=0), shape)


def _held(writer: Writer, table: np.ndarray, index: Value, shape: tuple[int, ...]) -> Value:
    """1 where the part holds an entry, 0 elsewhere."""
    flags = writer.number(np.append(np.ones(table.shape[-1]), 0.0), "held")
    return writer.add(Gather(inputs=[flags, index], axis=0), shape)


def _flat(writer: Writer, value: Value, shape: tuple[int, ...], wanted: tuple[int, ...]) -> Value:
    """[O, blocks, block] as [O, I'], without what filled up the last block."""
    rows, width = shape[0], shape[1] * shape[2]
    flat = writer.add(Reshape(inputs=[value], dims=(rows, width)), (rows, width))
    if width == wanted[1]:
        return flat
    cut = Slice(inputs=[flat], axes=(1,), starts=(0,), ends=(wanted[1],), steps=(1,))
    return writer.add(cut, (rows, wanted[1]))


def _placed(writer: Writer, value: Value, part: Part, shape: tuple[int, int]) -> Value:
    """The part's columns where they belong, zeros elsewhere: columns of [value | 0]."""
    if part.columns is None:
        return value
    held = len(part.columns)
    zeros = writer.number(np.zeros((shape[0], 1)), "zeros")
    wide = writer.add(Concat(inputs=[value, zeros], axis=1), (shape[0], held + 1))
    places = np.full(shape[1], held, np.int32)
    places[part.columns] = np.arange(held)
    index = writer.constant(places, "places")
    return writer.add(Gather(inputs=[wide, index], axis=1), shape)
