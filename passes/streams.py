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
from dataclasses import dataclass, field, replace

from ..graph import Graph, Op, Value
from ..graph.ops import Conv, Gather, Linear, Norm, ShapeOf
from .base import Refusal
from .commuting import joined_operands


@dataclass(frozen=True)
class Writer:
    """What puts values on a stream.

    Attributes:
        value: the value it writes.
        axis: the feature axis of that value; −1 for a constant that is flat along the features,
            which every basis here maps to zero.
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
        blocked: the values that the blockers hold.
        joined: operands, on the stream, of every value that is joined from some.
    """

    width: int
    axes: dict[Value, int] = field(default_factory=dict)
    writers: list[Writer] = field(default_factory=list)
    readers: list[Norm] = field(default_factory=list)
    blockers: list[Refusal] = field(default_factory=list)
    shape_readers: list[ShapeOf] = field(default_factory=list)
    blocked: list[Value] = field(default_factory=list)
    joined: dict[Value, list[Value]] = field(default_factory=dict)

    def block(self, value: Value, reason: Refusal) -> None:
        """Note that `value` must keep its basis."""
        self.blocked.append(value)
        self.blockers.append(reason)

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
    """Every stream that a norm of one of these kinds ("layer", "rms", "crms") reads, in order.

    Where a blocker holds only the first part of a residual stream (a positional convolution, a
    tapped feature map), the stream begins after it, with a computed writer.
    """
    seen: set[Norm] = set()
    order = {norm: position for position, norm in enumerate(graph.walk(Norm))}
    whole = Stream(0)
    for norm in order:
        if norm.erased or norm.norm not in norms or norm in seen:
            continue
        width = norm.x.shape[-1] if norm.x.shape else None
        if norm.ndim != 1 or not isinstance(width, int):
            continue
        if norm.x not in whole.axes or not whole.blocked:
            whole = _grow(graph, norm.x, width, norms, frozenset())
            fixed = fixed_values(whole)
        stream = _after(graph, whole, norm, norms, fixed)
        stream.readers.sort(key=lambda reader: order.get(reader, len(order)))
        seen.update(stream.readers)
        yield stream


def _after(
    graph: Graph, whole: Stream, norm: Norm, norms: Sequence[str], fixed: frozenset[Value]
) -> Stream:
    """The stream that `norm` reads, without what is fixed; the blocked one if little is left."""
    if not fixed:
        return whole
    if norm.x in fixed:
        return replace(whole, readers=[reader for reader in whole.readers if reader.x in fixed])
    rest = _grow(graph, norm.x, whole.width, norms, fixed)
    if len(rest.readers) > len(rest.computed):
        return rest
    return replace(whole, readers=rest.readers)


def fixed_values(stream: Stream) -> frozenset[Value]:
    """Values that must keep their basis because something that is no norm sees them.

    With a result its operands are fixed; and where one operand is fixed, the others are too: their
    sum can only be changed after it is made.
    """
    sources: dict[Value, list[Value]] = {}
    for result, operands in stream.joined.items():
        for operand in operands:
            sources.setdefault(operand, []).append(result)
    fixed: set[Value] = set()
    worklist = list(stream.blocked)
    while worklist:
        value = worklist.pop()
        if value in fixed:
            continue
        fixed.add(value)
        worklist += stream.joined.get(value, ())
        for result in sources.get(value, ()):
            worklist += stream.joined[result]
    return frozenset(fixed)


def _grow(
    graph: Graph, start: Value, width: int, norms: Sequence[str], fixed: frozenset[Value]
) -> Stream:
    stream = Stream(width)
    worklist = [(start, (start.rank or 0) - 1)]
    while worklist:
        value, axis = worklist.pop()
        known = stream.axes.get(value)
        if known is not None:
            if known != axis:
                stream.block(value, Refusal("the stream is read along two axes", value.name))
            continue
        stream.axes[value] = axis
        worklist += _upwards(stream, value, axis, fixed)
        if value.constant is None:
            worklist += _downwards(graph, stream, value, axis, norms)
        else:  # what else reads a constant keeps the original
            stream.readers += [op for op in _norms_of(value, axis) if op.norm in norms]
    return stream


Step = list[tuple[Value, int]]


def _upwards(stream: Stream, value: Value, axis: int, fixed: frozenset[Value]) -> Step:
    """The operands that a value on the stream is joined from, or a writer."""
    op = value.producer
    if value.constant is None and op is not None:
        operands = joined_operands(op, value, axis, stream.width)
        found = [(op.require(index), shifted) for index, shifted in operands or ()]
        if any(operand in fixed for operand, _ in found):
            stream.writers.append(Writer(value, axis))
            return []
        if operands is not None:
            stream.joined[value] = [operand for operand, _ in found]
            return found
    stream.writers.append(Writer(value, axis, op if _is_editable(op, axis, value) else None))
    return []


def _downwards(graph: Graph, stream: Stream, value: Value, axis: int, norms: Sequence[str]) -> Step:
    if graph.is_output(value):
        stream.block(value, Refusal("the stream is a graph output", value.name))
    found: Step = []
    normed = set(_norms_of(value, axis))
    for op, index in list(value.uses):
        if index == 0 and op in normed:
            assert isinstance(op, Norm)
            if op.norm in norms:
                stream.readers.append(op)
            else:
                reason = "a norm of another kind reads the stream"
                stream.block(value, Refusal(reason, op.name, op.kind))
        elif isinstance(op, ShapeOf):
            stream.shape_readers.append(op)
        else:
            results = _joined_results(stream, op, index, axis)
            if results is None:
                reason = "an op reads the stream itself, not a norm of it"
                stream.block(value, Refusal(reason, op.name, op.kind))
            found += results or []
    return found


def _joined_results(stream: Stream, op: Op, index: int, axis: int) -> Step | None:
    """The results that operand `index` goes into, or None if `op` lets no linear map pass."""
    for output in op.outputs:
        for result_axis in range(output.rank or 0):
            if output.shape is None or output.shape[result_axis] != stream.width:
                continue
            operands = joined_operands(op, output, result_axis, stream.width)
            if operands is not None and (index, axis) in operands:
                return [(result, result_axis) for result in op.outputs]
    return None


def _norms_of(value: Value, axis: int) -> list[Norm]:
    """The norms of `value` over exactly the feature axis."""
    if axis != (value.rank or 0) - 1:
        return []
    found = [op for op, index in value.uses if isinstance(op, Norm) and index == 0]
    return [norm for norm in found if norm.ndim == 1]


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
            table = op.x
            stored = table.constant is not None and table.is_float
            return stored and op.axis == 0 and axis >= (indices or 0)
    return False


def _constant_weights(op: Linear | Conv) -> bool:
    return op.weight.constant is not None and (op.bias is None or op.bias.constant is not None)
