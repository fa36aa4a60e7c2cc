"""Find residual streams: values joined by residual adds, with who writes to them and who reads.

A stream is grown from the operand of a norm along every op that commutes with a linear map of the
feature axis: adds, casts, moves on other axes, factors and masks that are constant along the
features, reductions over other axes. It stops at writers (a Linear, a Conv, an embedding table, a
constant, or any computed value) and at readers (norms over exactly the feature axis). Whatever else
reads it is a blocker: the stream's basis must then stay as it is.

Finding costs O(values of the stream); each value belongs to one stream.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..graph import Graph, Op, Value
from ..graph.ops import (
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
    seen: set[Value] = set()
    order = {norm: position for position, norm in enumerate(graph.walk(Norm))}
    for norm in order:
        if norm.norm not in norms or norm.x in seen:
            continue
        width = norm.x.shape[-1] if norm.x.shape else None
        if norm.ndim != 1 or not isinstance(width, int):
            continue
        stream = _grow(graph, norm.x, width, norms)
        stream.readers.sort(key=order.__getitem__)
        seen.update(stream.axes)
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


def _upwards(stream: Stream, value: Value, axis: int) -> Step:
    """The operands that a value on the stream is joined from, or a writer."""
    if value.constant is not None:
        stream.writers.append(Writer(value, axis))
        return []
    op = value.producer
    operands = None if op is None else joined_operands(op, value, axis, stream.width)
    if operands is not None:
        return operands
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
            found += _joined_results(stream, op, value, axis)
    return found


def _joined_results(stream: Stream, op: Op, value: Value, axis: int) -> Step:
    for output in op.outputs:
        for result_axis in range(output.rank or 0):
            if output.shape is None or output.shape[result_axis] != stream.width:
                continue
            operands = joined_operands(op, output, result_axis, stream.width)
            if operands is not None and (value, axis) in operands:
                return _all_results(op, result_axis)
    reason = "an op reads the stream itself, not a norm of it"
    stream.blockers.append(Refusal(reason, op.name, op.kind))
    return []


def _all_results(op: Op, axis: int) -> Step:
    return [(output, axis) for output in op.outputs]


def _reads_features(norm: Norm, axis: int) -> bool:
    return norm.ndim == 1 and axis == (norm.x.rank or 0) - 1


def _is_editable(op: Op | None, axis: int, value: Value) -> bool:
    """Whether the op's weight can carry a linear map of the result's feature axis."""
    rank = value.rank or 0
    match op:
        case Linear():
            return axis == rank - 1 and _constant_weights(op)
        case Conv():
            return axis == 1 and _constant_weights(op) and not (op.transposed and op.groups > 1)
        case Gather():
            indices = op.indices.rank
            return op.x.constant is not None and op.axis == 0 and axis >= (indices or 0)
    return False


def _constant_weights(op: Linear | Conv) -> bool:
    return op.weight.constant is not None and (op.bias is None or op.bias.constant is not None)


def joined_operands(op: Op, result: Value, axis: int, width: int) -> Step | None:
    """The operands, with their feature axes, through which `op` lets a linear map pass.

    f(result) along `axis` equals op(f(operands)) for every linear f on the features. None when the
    op does not commute with such maps.
    """
    match op:
        case Elementwise(fn="add" | "sub"):
            return _terms((op.require(0), op.require(1)), result, axis, width)
        case Elementwise(fn="mul" | "div"):
            return _factor(op, result, axis, width)
        case Elementwise(fn="neg"):
            return [(op.require(0), axis)]
        case Elementwise(fn="where"):
            if not _is_flat(op.require(0), _aligned(op.require(0), result, axis)):
                return None
            return _terms((op.require(1), op.require(2)), result, axis, width)
        case Concat() if op.axis != axis:
            return [(value, axis) for value in op.inputs if value is not None]
        case Gather() if op.x.constant is not None and op.axis == 0:
            return None  # an embedding table: a writer
    moved = moved_axis(op, axis)
    return None if moved is None else [(op.require(0), moved)]


def _terms(operands: Sequence[Value], result: Value, axis: int, width: int) -> Step | None:
    """Operands that are added up, or chosen between; constants may be flat along the features."""
    found: Step = []
    for value in operands:
        shifted = _aligned(value, result, axis)
        if shifted < 0 or value.shape is None or value.shape[shifted] != width:
            if value.constant is None:
                return None
            shifted = -1 if shifted < 0 else shifted
        found.append((value, shifted))
    return found


def _factor(op: Elementwise, result: Value, axis: int, width: int) -> Step | None:
    """A product commutes when one factor is constant along the features."""
    for index in (0,) if op.fn == "div" else (0, 1):
        value, other = op.require(index), op.require(1 - index)
        shifted = _aligned(value, result, axis)
        if shifted < 0 or value.shape is None or value.shape[shifted] != width:
            continue
        if _is_flat(other, _aligned(other, result, axis)):
            return [(value, shifted)]
    return None


def _aligned(value: Value, result: Value, axis: int) -> int:
    """The operand's axis that broadcasts to the result's `axis`; negative if it has none."""
    return axis - ((result.rank or 0) - (value.rank or 0))


def _is_flat(value: Value, axis: int) -> bool:
    return value.shape is not None and (axis < 0 or value.shape[axis] == 1)


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


def flat_value(value: Value, axis: int) -> bool:
    """Whether a constant writer adds the same number to every feature (recorded with axis −1)."""
    return axis < 0 or (value.shape is not None and value.shape[axis] == 1)
