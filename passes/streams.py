"""Find residual streams: values joined by residual adds, with who writes to them and who reads.

A stream is grown from the operand of a norm along every op that commutes with a linear map of the
feature axis: adds, casts, moves on other axes, factors and masks that are constant along the
features, reductions over other axes. It stops at writers (a Linear, a Conv, an embedding table, a
constant, or any computed value) and at readers (norms over exactly the feature axis). Whatever else
reads it is a blocker: the stream's basis must then stay as it is.

Finding costs O(values of the stream); each computed value belongs to one stream. Streams are found
one by one, each on the graph as it then stands, so that rewriting one cannot make the next stale.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..graph import Graph, Op, Value
from ..graph.ops import (
    Affine,
    Cast,
    Concat,
    Conv,
    Elementwise,
    Expand,
    Gather,
    Identity,
    Linear,
    Norm,
    Reduce,
    Reshape,
    ShapeOf,
    Slice,
    Split,
    Squeeze,
    Transpose,
    Unbind,
    Unsqueeze,
)
from ..graph.shapes import reshape_groups
from .base import Refusal


@dataclass(frozen=True)
class Writer:
    """What puts values on a stream.

    Attributes:
        value: the value it writes.
        axis: the feature axis of that value.
        op: the Linear, Conv or Gather whose weight can be edited; None for a constant and for a
            computed value, which needs an explicit op after it.
    """

    value: Value
    axis: int
    op: Op | None = None

    @property
    def is_computed(self) -> bool:
        return self.op is None and self.value.constant is None


@dataclass
class Stream:
    """One residual stream.

    Attributes:
        width: extent of the feature axis.
        axes: every value on the stream, with its feature axis.
        writers, readers: where it begins and ends.
        blockers: why its basis must not change, if anything stands against it.
        shape_readers: ops that read only extents of a value on the stream.
    """

    width: int
    axes: dict[Value, int] = field(default_factory=dict)
    writers: list[Writer] = field(default_factory=list)
    readers: list[Norm] = field(default_factory=list)
    blockers: list[Refusal] = field(default_factory=list)
    shape_readers: list[ShapeOf] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.readers[0].name

    @property
    def computed(self) -> list[Writer]:
        """Writers whose result can only be changed by an explicit op."""
        return [writer for writer in self.writers if writer.is_computed]

    @property
    def edited(self) -> list[Op]:
        """Ops whose weights a change of basis edits."""
        return [writer.op for writer in self.writers if writer.op is not None]


def find_streams(graph: Graph, norms: Sequence[str]) -> Iterator[Stream]:
    """Every stream that a norm of one of these kinds ("layer", "rms", "crms") reads, in order."""
    seen: set[Norm] = set()
    order = {norm: position for position, norm in enumerate(graph.walk(Norm))}
    for norm in order:
        if norm.erased or norm.norm not in norms or norm in seen:
            continue
        width = norm.x.shape[-1] if norm.x.shape else None
        if norm.ndim != 1 or not isinstance(width, int):
            continue
        stream = _grow(graph, norm.x, width, norms)
        stream.readers.sort(key=lambda reader: order.get(reader, len(order)))
        seen.update(stream.readers)
        yield stream


def _grow(graph: Graph, start: Value, width: int, norms: Sequence[str]) -> Stream:
    stream = Stream(width)
    worklist = [(start, (start.rank or 0) - 1)]
    while worklist:
        value, axis = worklist.pop()
        known = stream.axes.get(value)
        if known is not None:
            if known != axis:
                stream.blockers.append(Refusal("the stream is read along two axes", value.name))
            continue
        stream.axes[value] = axis
        worklist += _upwards(stream, value, axis)
        if value.constant is None:
            worklist += _downwards(graph, stream, value, axis, norms)
    return stream


Step = list[tuple[Value, int]]
Operands = list[tuple[int, int]]
"""Positions among an op's inputs, with the feature axis of each operand; −1 where it is flat."""


def _upwards(stream: Stream, value: Value, axis: int) -> Step:
    """The operands that a value on the stream is joined from, or a writer."""
    op = value.producer
    if value.constant is None and op is not None:
        operands = joined_operands(op, value, axis, stream.width)
        if operands is not None:
            return [(op.require(index), shifted) for index, shifted in operands]
    stream.writers.append(Writer(value, axis, op if _is_editable(op, axis, value) else None))
    return []


def _downwards(
    graph: Graph, stream: Stream, value: Value, axis: int, norms: Sequence[str]
) -> Step:
    if graph.is_output(value):
        stream.blockers.append(Refusal("the stream is a graph output", value.name))
    found: Step = []
    for op, index in list(value.uses):
        if isinstance(op, Norm) and index == 0 and _reads_features(op, axis):
            if op.norm in norms:
                stream.readers.append(op)
            else:
                reason = "a norm of another kind reads the stream"
                stream.blockers.append(Refusal(reason, op.name, op.kind))
        elif isinstance(op, ShapeOf):
            stream.shape_readers.append(op)
        else:
            found += _joined_results(stream, op, index, axis)
    return found


def _joined_results(stream: Stream, op: Op, index: int, axis: int) -> Step:
    """The results that operand `index` goes into, if `op` lets a linear map pass."""
    for output in op.outputs:
        for result_axis in range(output.rank or 0):
            if output.shape is None or output.shape[result_axis] != stream.width:
                continue
            operands = joined_operands(op, output, result_axis, stream.width)
            if operands is not None and (index, axis) in operands:
                return [(result, result_axis) for result in op.outputs]
    reason = "an op reads the stream itself, not a norm of it"
    stream.blockers.append(Refusal(reason, op.name, op.kind))
    return []


def _reads_features(norm: Norm, axis: int) -> bool:
    return norm.ndim == 1 and axis == (norm.x.rank or 0) - 1


def _is_editable(op: Op | None, axis: int, value: Value) -> bool:
    """Whether the op's weight can carry a linear map of the result's feature axis."""
    rank = value.rank or 0
    match op:
        case Linear():
            return axis == rank - 1 and _constant_weights(op)
        case Conv():
            return axis == 1 and _constant_weights(op) and op.groups == 1
        case Gather():
            indices = op.indices.rank
            return op.x.constant is not None and op.axis == 0 and axis >= (indices or 0)
    return False


def _constant_weights(op: Linear | Conv) -> bool:
    return op.weight.constant is not None and (op.bias is None or op.bias.constant is not None)


def joined_operands(op: Op, result: Value, axis: int, width: int) -> Operands | None:
    """The operands, with their feature axes, through which `op` lets a linear map pass.

    f(result) along `axis` equals op(f(operands)) for every linear f on the features. None when the
    op does not commute with such maps. An operand that the map does not touch (a flat factor, a
    mask) is not listed.
    """
    match op:
        case Elementwise(fn="add" | "sub"):
            return _terms(op, (0, 1), result, axis, width)
        case Elementwise(fn="mul" | "div"):
            return _factor(op, result, axis, width)
        case Elementwise(fn="neg"):
            return [(0, axis)]
        case Elementwise(fn="where"):
            condition = op.require(0)
            flat = is_flat(condition, _aligned(condition, result, axis))
            return _terms(op, (1, 2), result, axis, width) if flat else None
        case Affine():
            return _affine(op, result, axis, width)
        case Concat() if op.axis != axis:
            return [(index, axis) for index in range(len(op.inputs))]
        case Gather() if op.x.constant is not None and op.axis == 0:
            return None  # an embedding table: a writer
    moved = moved_axis(op, axis)
    return None if moved is None else [(0, moved)]


def _terms(
    op: Op, indices: Sequence[int], result: Value, axis: int, width: int
) -> Operands | None:
    """Operands that are added up, or chosen between; constants may be flat along the features."""
    found: Operands = []
    for index in indices:
        value = op.require(index)
        shifted = _aligned(value, result, axis)
        if not is_flat(value, shifted) and value.shape is not None and value.shape[shifted] == width:
            found.append((index, shifted))
        elif value.constant is not None:
            found.append((index, -1))
        else:
            return None
    return found


def _affine(op: Affine, result: Value, axis: int, width: int) -> Operands | None:
    """s·x + c for a factor s that is constant along the features."""
    scale = op.scale
    if scale is not None and not is_flat(scale, _aligned(scale, result, axis)):
        return None
    return _terms(op, (0,) if op.shift is None else (0, 2), result, axis, width)


def _factor(op: Elementwise, result: Value, axis: int, width: int) -> Operands | None:
    """A product commutes when one factor is constant along the features."""
    for index in (0,) if op.fn == "div" else (0, 1):
        value, other = op.require(index), op.require(1 - index)
        shifted = _aligned(value, result, axis)
        if shifted < 0 or value.shape is None or value.shape[shifted] != width:
            continue
        if is_flat(other, _aligned(other, result, axis)):
            return [(index, shifted)]
    return None


def _aligned(value: Value, result: Value, axis: int) -> int:
    """The operand's axis that broadcasts to the result's `axis`; negative if it has none."""
    return axis - ((result.rank or 0) - (value.rank or 0))


def is_flat(value: Value, axis: int) -> bool:
    """Whether a value is constant along the features; a negative axis says that it has none."""
    return axis < 0 or (value.shape is not None and value.shape[axis] == 1)


def moved_axis(op: Op, axis: int) -> int | None:
    """Where a result's axis was on the first operand, if the op leaves that axis whole."""
    match op:
        case Cast() | Identity():
            return axis
        case Transpose():
            return op.perm[axis]
        case Slice():
            return None if axis in op.axes else axis
        case Split():
            return None if axis == op.axis else axis
        case Unbind():
            return axis + (axis >= op.axis)
        case Gather():
            return _gathered_axis(op, axis)
        case Reduce() if op.fn in ("mean", "sum"):
            return _reduced_axis(op, axis)
        case Expand():
            shifted = axis - ((op.output.rank or 0) - (op.require(0).rank or 0))
            return shifted if shifted >= 0 and _extent(op, shifted) != 1 else None
        case Reshape() | Squeeze() | Unsqueeze():
            return _reshaped_axis(op, axis)
    return None


def _extent(op: Op, axis: int) -> int | str | None:
    shape = op.require(0).shape
    return None if shape is None else shape[axis]


def _gathered_axis(op: Gather, axis: int) -> int | None:
    inserted = op.indices.rank
    if inserted is None or op.axis <= axis < op.axis + inserted:
        return None
    return axis if axis < op.axis else axis - inserted + 1


def _reduced_axis(op: Reduce, axis: int) -> int | None:
    if op.keepdims:
        return None if axis in op.axes else axis
    kept = [k for k in range(op.require(0).rank or 0) if k not in op.axes]
    return kept[axis]


def _reshaped_axis(op: Op, axis: int) -> int | None:
    before, after = op.require(0).shape, op.output.shape
    if before is None or after is None:
        return None
    for group in reshape_groups(before, after):
        if axis in group.after:
            return group.before[0] if len(group.before) == len(group.after) == 1 else None
    return None
