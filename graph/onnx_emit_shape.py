"""How the ops that move, drop, repeat or join elements are written in ONNX."""

from collections.abc import Iterator
from itertools import groupby

import onnx_ir as ir

from .onnx_build import Builder, Operand
from .onnx_emit import Results, emits, needed
from .ops import (
    Cast,
    Concat,
    Expand,
    Gather,
    Identity,
    Ref,
    Reshape,
    ShapeOf,
    Slice,
    Split,
    Squeeze,
    Transpose,
    Unbind,
    Unsqueeze,
)


def target(build: Builder, dims: "tuple[int | Ref, ...]", operands: "list[Operand]") -> ir.Value:
    """A shape operand: one constant, or pieces joined where some extents are computed."""
    pieces = list(_pieces(build, dims, operands))
    if len(pieces) == 1:
        return pieces[0]
    return build("Concat", *pieces, axis=0) if pieces else build.ints()


def _pieces(
    build: Builder, dims: "tuple[int | Ref, ...]", operands: "list[Operand]"
) -> Iterator[ir.Value]:
    for computed, run in groupby(dims, key=lambda dim: isinstance(dim, Ref)):
        if not computed:
            yield build.ints(*(dim for dim in run if isinstance(dim, int)))
            continue
        for dim in run:
            assert isinstance(dim, Ref)
            yield build("Reshape", _int64(build, needed(operands[dim.index])), build.ints(1))


def _int64(build: Builder, extent: ir.Value) -> ir.Value:
    if extent.dtype in (None, ir.DataType.INT64):
        return extent
    return build("Cast", extent, to=ir.DataType.INT64.value)


@emits(Reshape)
def _reshape(build: Builder, op: Reshape, operands: "list[Operand]") -> Results:
    if op.dims is None:
        return build("Reshape", *operands[:2])
    # Only then does a 0 mean an extent of 0, as it does in the vocabulary.
    allow = 1 if 0 in op.dims and build.opset >= 14 else None
    return build("Reshape", operands[0], target(build, op.dims, operands), allowzero=allow)


@emits(Expand)
def _expand(build: Builder, op: Expand, operands: "list[Operand]") -> Results:
    if op.dims is None:
        return build("Expand", *operands[:2])
    kept = tuple(1 if dim == -1 else dim for dim in op.dims)
    return build("Expand", operands[0], target(build, kept, operands))


@emits(Transpose)
def _transpose(build: Builder, op: Transpose, operands: "list[Operand]") -> Results:
    return build("Transpose", operands[0], perm=op.perm)


@emits(Squeeze)
def _squeeze(build: Builder, op: Squeeze, operands: "list[Operand]") -> Results:
    return build("Squeeze", operands[0], build.ints(*op.axes))


@emits(Unsqueeze)
def _unsqueeze(build: Builder, op: Unsqueeze, operands: "list[Operand]") -> Results:
    return build("Unsqueeze", operands[0], build.ints(*op.axes))


@emits(Slice)
def _slice(build: Builder, op: Slice, operands: "list[Operand]") -> Results:
    axes = build.ints(*op.axes)
    if op.starts is None or op.ends is None:
        return build("Slice", operands[0], operands[1], operands[2], axes, operands[4])
    steps = build.ints(*(op.steps or (1,) * len(op.axes)))
    return build("Slice", operands[0], build.ints(*op.starts), build.ints(*op.ends), axes, steps)


@emits(Concat)
def _concat(build: Builder, op: Concat, operands: "list[Operand]") -> Results:
    return build("Concat", *operands[: len(op.inputs)], axis=op.axis)


@emits(Split)
def _split(build: Builder, op: Split, operands: "list[Operand]") -> Results:
    sizes = build.ints(*op.sizes)
    return build.many("Split", operands[0], sizes, results=len(op.outputs), axis=op.axis)


@emits(Unbind)
def _unbind(build: Builder, op: Unbind, operands: "list[Operand]") -> Results:
    count = len(op.outputs)
    sizes = build.ints(*[1] * count)
    pieces = build.many("Split", operands[0], sizes, results=count, axis=op.axis)
    return [build("Squeeze", piece, build.ints(op.axis)) for piece in pieces]


@emits(Gather)
def _gather(build: Builder, op: Gather, operands: "list[Operand]") -> Results:
    return build("Gather", operands[0], operands[1], axis=op.axis)


@emits(Cast)
def _cast(build: Builder, op: Cast, operands: "list[Operand]") -> Results:
    return build("Cast", operands[0], to=ir.DataType.from_numpy(op.dtype).value)


@emits(Identity)
def _identity(build: Builder, op: Identity, operands: "list[Operand]") -> Results:
    return build("Identity", operands[0])


@emits(ShapeOf)
def _shape_of(build: Builder, op: ShapeOf, operands: "list[Operand]") -> Results:
    if op.scalar:
        return build("Gather", build("Shape", operands[0]), build.index(op.axes[0]), axis=0)
    first = op.axes[0] if op.axes else 0
    consecutive = op.axes == tuple(range(first, first + len(op.axes)))
    if consecutive and op.axes and build.opset >= 15:
        return build("Shape", operands[0], start=first, end=first + len(op.axes))
    return build("Gather", build("Shape", operands[0]), build.ints(*op.axes), axis=0)
