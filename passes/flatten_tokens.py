"""Run token-wise ops on matrices: [batch, tokens, d] becomes [batch·tokens, d] for whole blocks.

Rewrite:
    y = f(x), x [b, n, d]   ->   y = reshape(f(reshape(x, [b·n, d])), [b, n, d])

Why: Linears, norms over the features and pointwise ops treat every token alike, so the leading axes
may be one. The reshapes between neighbours cancel; what is left merges into the reshapes that
attention makes for its heads.
Exactness: bitwise, unless the runtime picks another kernel for the matrix form.
Legality: all computed operands have the result's own shape, and at most one leading extent is
symbolic (so that the shape can be restored).
Effect: a runtime that knows a fused product-and-bias kernel for matrices only (ONNX Runtime's Gemm)
uses it without two reshapes around each Linear, and also where the batch is dynamic.
References: ONNX operator Gemm (opset 13): operands of rank 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from ..graph import Graph, Op, Shape, Value
from ..graph.ops import Affine, Elementwise, Linear, Norm, Reshape, Split
from .base import Exactness, Pass, Refusal


@dataclass(frozen=True)
class Region:
    """Token-wise ops that feed each other.

    Attributes:
        ops: in topological order.
    """

    ops: tuple[Op, ...]

    @property
    def anchor(self) -> Op:
        return self.ops[0]

    @property
    def touched(self) -> tuple[Op, ...]:
        return self.ops


@dataclass(frozen=True)
class FlattenTokens(Pass[Region]):
    """Collapse the leading axes of every region that holds a Linear; see the module docstring."""

    name: ClassVar[str] = "flatten-tokens"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES

    def match(self, graph: Graph) -> Iterator[Region]:
        position = {op: k for k, op in enumerate(graph.ops)}
        members = {op for op in position if is_token_wise(op)}
        for start in list(position):
            if start not in members:
                continue
            region = _component(start, members)
            members -= region
            if len(region) > 1 and any(isinstance(op, Linear | Norm) for op in region):
                yield Region(tuple(sorted(region, key=position.__getitem__)))

    def refuse(self, graph: Graph, site: Region) -> Refusal | None:
        for op in site.ops:
            if any(output in graph.pinned for output in op.outputs):
                return Refusal("a control-flow body reads the value", op.name)
        return None

    def rewrite(self, graph: Graph, site: Region) -> None:
        flat: dict[Value, Value] = {}
        region = set(site.ops)
        for op in site.ops:
            for index, value in enumerate(op.inputs):
                if value is not None and value.constant is None:
                    graph.set_input(op, index, _flattened(graph, flat, value, op))
            if isinstance(op, Split):
                graph.update(op, axis=1)
            for value in list(op.outputs):
                _flatten_result(graph, value, flat, region)


def is_token_wise(op: Op) -> bool:
    """Whether the op treats every leading index alike, and its shape can be restored."""
    if not isinstance(op, Linear | Norm | Elementwise | Affine | Split):
        return False
    shape = op.output.shape
    if shape is None or len(shape) < 3 or not isinstance(shape[-1], int) or not op.output.is_float:
        return False
    if sum(isinstance(dim, str) for dim in shape[:-1]) > 1:
        return False
    if isinstance(op, Linear):
        return op.weight.constant is not None and op.weight.rank == 2
    if isinstance(op, Split):
        return op.axis == len(shape) - 1 and op.require(0).constant is None
    if isinstance(op, Norm) and op.ndim != 1:
        return False
    return all(value is None or _fits(value, shape) for value in op.inputs)


def _fits(value: Value, shape: Shape) -> bool:
    if value.constant is None:
        return value.shape == shape and value.is_float
    return value.shape is not None and len(value.shape) <= 1


def _component(start: Op, members: set[Op]) -> set[Op]:
    """Members joined to `start` by values of one leading shape."""
    found, worklist = {start}, [start]
    while worklist:
        op = worklist.pop()
        near = [v.producer for v in op.inputs if v is not None]
        near += [reader for output in op.outputs for reader in output.readers]
        for other in near:
            if other is not None and other in members and other not in found:
                found.add(other)
                worklist.append(other)
    return found


def flat_shape(shape: Shape) -> Shape:
    """[*, d] as [Π*, d]."""
    lead = shape[:-1]
    if all(isinstance(dim, int) for dim in lead):
        return (prod(int(dim) for dim in lead), shape[-1])
    return ("*".join(str(dim) for dim in lead if dim != 1), shape[-1])


def _flattened(graph: Graph, flat: dict[Value, Value], value: Value, op: Op) -> Value:
    """The matrix form of an operand: a region value's own, or a reshape before its first reader."""
    if value not in flat:
        shape = value.shape or ()
        width = shape[-1]
        assert isinstance(width, int)
        target = flat_shape(shape)
        first = target[0] if isinstance(target[0], int) else -1
        reshape = Reshape(inputs=[value], dims=(first, width), scope=op.scope)
        graph.add(reshape, (target, value.dtype), before=op, name=f"{value.name}_flat")
        flat[value] = reshape.output
    return flat[value]


def _flatten_result(graph: Graph, value: Value, flat: dict[Value, Value], region: set[Op]) -> None:
    """Make a result a matrix, and give its readers outside the region the old shape."""
    op, shape = value.producer, value.shape or ()
    assert op is not None
    matrix = graph.renew(value, flat_shape(shape))
    outside = [(reader, k) for reader, k in value.uses if reader not in region]
    if outside or graph.is_output(value):
        dims = tuple(dim if isinstance(dim, int) else -1 for dim in shape)
        restored = Reshape(inputs=[matrix], dims=dims, scope=op.scope)
        graph.add(restored, (shape, value.dtype), after=op, name=f"{value.name}_restored")
        graph.redirect(value, restored.output, outside)
    flat[value] = matrix
