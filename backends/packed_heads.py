"""Let the standard Attention operator split the heads itself, instead of a transpose per operand.

reshape [B, S, H·D] → [B, S, H, D], transpose, Attention, transpose back, reshape: with the heads
given as attributes, Attention (opset 23) takes and gives [B, S, H·D] and moves the data itself.
Exact: ONNX Runtime computes the same bits.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

HEADS_SECOND = (0, 2, 1, 3)


@dataclass(frozen=True)
class Operand:
    """q, k or v before its heads were split.

    Attributes:
        source: the value that is reshaped to [B, S, H, D].
        target: that reshape's constant target, four entries.
        heads, width: H and D.
    """

    source: ir.Value
    target: tuple[int, ...]
    heads: int
    width: int


def packed_heads(model: ir.Model) -> ir.Model:
    """The model with every Attention whose operands allow it in its three-axis form."""
    result = model.clone()
    for node in list(result.graph):
        if node.op_type == "Attention" and node.domain in ("", "ai.onnx"):
            _pack(result.graph, node)
    return result


def _pack(graph: ir.Graph, node: ir.Node) -> None:
    operands = [_operand(node.inputs[index]) for index in range(3)]
    merged = _merged(node)
    if any(operand is None for operand in operands) or merged is None:
        return
    if len(node.outputs) > 1 or any(value is not None for value in node.inputs[4:]):
        return
    found = [operand for operand in operands if operand is not None]
    inputs = [_flat(graph, node, operand, k) for k, operand in enumerate(found)]
    attributes = [a for a in node.attributes.values() if not a.name.endswith("num_heads")]
    attributes.append(ir.AttrInt64("q_num_heads", found[0].heads))
    attributes.append(ir.AttrInt64("kv_num_heads", found[1].heads))
    packed = ir.Node(
        "", "Attention", [*inputs, *node.inputs[3:]], attributes=attributes, name=node.name
    )
    _describe(packed.outputs[0], node.outputs[0], found)
    graph.insert_after(node, packed)
    transpose, reshapes = merged
    unread = [value for value in node.inputs[:3] if value is not None]
    for reshape in reshapes:
        reshape.replace_input_with(0, packed.outputs[0])
    graph.remove([transpose, node], safe=True)
    _drop_unread(graph, unread)


def _operand(value: ir.Value | None) -> Operand | None:
    """What was split into heads, if the value is transpose(reshape(source, [., ., H, D]))."""
    transpose = None if value is None else value.producer()
    if not _is_head_transpose(transpose):
        return None
    assert transpose is not None
    inner = transpose.inputs[0]
    reshape = None if inner is None else inner.producer()
    if reshape is None or reshape.op_type != "Reshape" or reshape.inputs[0] is None:
        return None
    target, shape = _constant(reshape.inputs[1]), reshape.outputs[0].shape
    if target is None or len(target) != 4 or 0 in target or shape is None:
        return None
    heads, width = shape[2], shape[3]
    if not isinstance(heads, int) or not isinstance(width, int):
        return None
    return Operand(reshape.inputs[0], target, heads, width)


def _merged(node: ir.Node) -> tuple[ir.Node, list[ir.Node]] | None:
    """The transpose after the node and the reshapes that merge the heads again, if that is all."""
    readers = list(node.outputs[0].consumers())
    if len(readers) != 1 or not _is_head_transpose(readers[0]) or node.outputs[0].is_graph_output():
        return None
    result = readers[0].outputs[0]
    reshapes = list(result.consumers())
    targets = [_constant(r.inputs[1]) if r.op_type == "Reshape" else None for r in reshapes]
    if result.is_graph_output() or any(target is None or 0 in target for target in targets):
        return None
    return readers[0], reshapes


def _is_head_transpose(node: ir.Node | None) -> bool:
    if node is None or node.op_type != "Transpose":
        return False
    return tuple(node.attributes.get_ints("perm", ())) == HEADS_SECOND


def _constant(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None or value.const_value is None:
        return None
    return tuple(int(entry) for entry in value.const_value.numpy().reshape(-1))


def _flat(graph: ir.Graph, node: ir.Node, operand: Operand, index: int) -> ir.Value:
    """The operand as [B, S, H·D]: the source itself, or one reshape of it."""
    source = operand.source
    if source.shape is not None and len(source.shape) == 3:
        return source
    name = f"{node.name}_packed_{index}"
    target = np.array([*operand.target[:2], operand.heads * operand.width], dtype=np.int64)
    shape = ir.Value(name=f"{name}_shape", const_value=ir.Tensor(target, name=f"{name}_shape"))
    shape.shape, shape.type = ir.Shape([3]), ir.TensorType(ir.DataType.INT64)
    graph.register_initializer(shape)
    reshape = ir.Node("", "Reshape", [source, shape], name=name)
    result = reshape.outputs[0]
    result.name, result.type = f"{name}_value", source.type
    graph.insert_before(node, reshape)
    return result


def _describe(result: ir.Value, old: ir.Value, operands: list[Operand]) -> None:
    """Name, type and shape [B, S, H·E] of the packed result."""
    result.name, result.type = f"{old.name}_packed", old.type
    if old.shape is not None:
        width = operands[0].heads * operands[2].width
        result.shape = ir.Shape([old.shape[0], old.shape[2], width])


def _drop_unread(graph: ir.Graph, values: list[ir.Value]) -> None:
    """Remove the transposes and reshapes that only the old form read."""
    for value in dict.fromkeys(values):
        node = value.producer()
        while node is not None and not any(
            output.uses() or output.is_graph_output() for output in node.outputs
        ):
            source = node.inputs[0]
            graph.remove(node, safe=True)
            node = None if source is None or node.op_type == "Reshape" else source.producer()
