"""ONNX Runtime's own norm operators, in place of the standard ones.

`fused` writes Add + RMSNormalization as one SkipSimplifiedLayerNormalization (its fourth result is
the sum, for the residual), and what is left as SimplifiedLayerNormalization, which also has a
bfloat16 kernel. ONNX Runtime 1.32 makes neither rewrite by itself.
"""

import onnx_ir as ir

CONTRIB = "com.microsoft"


def fused(model: ir.Model) -> ir.Model:
    """Every residual add that an RMS norm reads, and the norm, as one operator."""
    result = model.clone()
    for node in list(result.graph):
        if node.op_type == "RMSNormalization" and node.domain in ("", "ai.onnx"):
            _fuse(result, node)
    return result


def _fuse(model: ir.Model, norm: ir.Node) -> None:
    total = norm.inputs[0]
    add = None if total is None else total.producer()
    if add is None or add.op_type != "Add" or not _same_shapes(add) or not _over_last_axis(norm):
        norm.op_type = "SimplifiedLayerNormalization"
        return
    assert total is not None
    skip = ir.Node(
        CONTRIB,
        "SkipSimplifiedLayerNormalization",
        inputs=[add.inputs[0], add.inputs[1], norm.inputs[1]],
        attributes=[ir.AttrFloat32("epsilon", norm.attributes.get_float("epsilon", 1e-5))],
        num_outputs=4,
        name=f"{norm.name}_skip",
    )
    _replace(model, norm, skip, add, total)
    model.graph.opset_imports.setdefault(CONTRIB, 1)


def _replace(model: ir.Model, norm: ir.Node, skip: ir.Node, add: ir.Node, total: ir.Value) -> None:
    """Put the fused operator where the add was, and give it the names of both results."""
    for index, old in ((0, norm.outputs[0]), (3, total)):
        new = skip.outputs[index]
        new.shape, new.type = old.shape, old.type
        name, old.name = old.name, f"{old.name}_replaced"
        new.name = name
    for index in (1, 2):
        skip.outputs[index].name = ""
    model.graph.insert_before(add, skip)
    for old, index in ((norm.outputs[0], 0), (total, 3)):
        ir.convenience.replace_all_uses_with(old, skip.outputs[index], replace_graph_outputs=True)
    model.graph.remove([norm, add], safe=True)


def _same_shapes(add: ir.Node) -> bool:
    """The operator broadcasts nothing, and takes rank 2 or 3."""
    left, right = add.inputs
    if left is None or right is None or left.shape is None or right.shape is None:
        return False
    same = list(left.shape) == list(right.shape)
    return same and len(left.shape) in (2, 3) and left.const_value is right.const_value is None


def _over_last_axis(norm: ir.Node) -> bool:
    axis = norm.attributes.get_int("axis", -1)
    value = norm.inputs[0]
    rank = None if value is None or value.shape is None else len(value.shape)
    return axis == -1 or (rank is not None and axis == rank - 1)
