"""Copy an ONNX node with other operands, bodies of control flow included."""

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from .ops import Attention
from .value import Op


def is_copyable(op: Op) -> bool:
    """Whether the op's own node, given other operands, still says what the op means.

    A narrow mask means the same, but only as it is written anew does ONNX Runtime take it.
    """
    if not isinstance(op.source, ir.Node) or (isinstance(op, Attention) and is_narrow(op)):
        return False
    arity = len(op.source.inputs)
    order = set(range(arity) if op.order is None else op.order)
    covered = order | set(range(arity, len(op.lifted_inputs)))  # what a subgraph captures
    before = [*op.lifted_inputs, *[None] * (len(op.inputs) - len(op.lifted_inputs))]
    after = [*op.inputs, *[None] * (len(before) - len(op.inputs))]
    return all(a is b or i in covered for i, (a, b) in enumerate(zip(after, before, strict=True)))


def is_narrow(op: Attention) -> bool:
    """Whether the mask is to be broadcast over queries or keys.

    The standard allows it; ONNX Runtime 1.32 fails at run time: it broadcasts batch and heads only.
    """
    mask, q, k = op.operand(3), op.require(0).shape, op.require(1).shape
    if mask is None or mask.shape is None or q is None or k is None:
        return False
    ends = zip(mask.shape[-2:], (q[2], k[2]), strict=False)
    return len(mask.shape) == 1 or any(own == 1 != full for own, full in ends)


def copy_node(op: Op, operands: "Sequence[ir.Value | None]") -> ir.Node:
    """The op's node with other operands; a body's captured values are rebound alike."""
    node = op.source
    arity = len(node.inputs)
    order = range(arity) if op.order is None else op.order
    captured = dict(zip(captures(node), operands[arity:], strict=False))
    return ir.Node(
        node.domain,
        node.op_type,
        [operands[i] if i < len(operands) else None for i in order],
        [_rebound(attribute, captured) for attribute in node.attributes.values()],
        overload=node.overload,
        num_outputs=len(node.outputs),
        name=node.name,
        doc_string=node.doc_string,
        metadata_props=dict(node.metadata_props),
    )


def _rebound(attribute: ir.Attr, captured: "dict[ir.Value, ir.Value | None]") -> ir.Attr:
    """The attribute, its graphs cloned and reading the new values."""
    bodies = [graph.clone(allow_outer_scope_values=True) for graph in subgraphs(attribute)]
    if not bodies:
        return attribute
    for body in bodies:
        _rebind(body, captured)
    value = bodies[0] if attribute.type == ir.AttributeType.GRAPH else bodies
    return ir.Attr(attribute.name, attribute.type, value, doc_string=attribute.doc_string)


def _rebind(body: ir.Graph, captured: "dict[ir.Value, ir.Value | None]") -> None:
    for node in ir.traversal.RecursiveGraphIterator(body):
        for index, value in enumerate(node.inputs):
            if value in captured:
                node.replace_input_with(index, captured[value])
    for graph in (body, *body.subgraphs()):
        for index, value in enumerate(graph.outputs):
            new = captured.get(value)
            if new is not None:
                graph.outputs[index] = new


def subgraphs(attribute: ir.Attr) -> Sequence[ir.Graph]:
    """The graphs that an attribute holds."""
    if attribute.type == ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    return attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else ()


def captures(node: ir.Node) -> list[ir.Value]:
    """Values of outer graphs that the node's subgraphs read, each once, in order of first use."""
    inner: set[ir.Value] = set()
    read: dict[ir.Value, None] = {}
    for attribute in node.attributes.values():
        for body in subgraphs(attribute):
            for graph in (body, *body.subgraphs()):
                inner.update(values_of(graph))
                for reader in graph:
                    read.update(dict.fromkeys(v for v in reader.inputs if v is not None))
                read.update(dict.fromkeys(graph.outputs))
    return [value for value in read if value not in inner]


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """What a graph defines: inputs, initializers and results, without those of its subgraphs."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
