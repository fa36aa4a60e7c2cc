"""What an ONNX node says besides its operator: constants, the module it came from, its shape."""

import ast

import numpy as np
import onnx_ir as ir

from .ops import Elementwise, Norm
from .shapes import broadcast
from .value import Op


def constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node."""
    if (node.domain, node.op_type) != ("", "Constant") or len(node.attributes) != 1:
        return None
    attribute = next(iter(node.attributes.values()))
    if attribute.name == "value":
        return attribute.as_tensor()
    if attribute.name in ("value_int", "value_ints"):
        return ir.Tensor(np.array(attribute.value, np.int64))
    if attribute.name in ("value_float", "value_floats"):
        return ir.Tensor(np.array(attribute.value, np.float32))
    return None


def scope(node: ir.Node) -> str:
    """Dotted path of the module that a node was exported from."""
    props = node.metadata_props
    try:
        scopes = ast.literal_eval(props.get("pkg.torch.onnx.name_scopes", "[]"))
    except (ValueError, SyntaxError):
        scopes = []
    if len(scopes) > 1:
        return str(scopes[-2])
    if "namespace" in props:
        parts = [part.split(":")[0].strip() for part in props["namespace"].split("/")]
        return parts[-2] if len(parts) > 1 else ""
    if node.name and node.name.startswith("/"):  # the TorchScript exporter's habit
        return ".".join(node.name.split("/")[1:-1])
    return ""


def complete_shape(op: Op) -> None:
    """Fill in what ONNX cannot infer: results of operators it has no schema for."""
    if len(op.outputs) != 1 or op.output.shape is not None:
        return
    shapes = [value.shape for value in op.inputs if value is not None]
    known = [shape for shape in shapes if shape is not None]
    if isinstance(op, Norm):
        op.output.shape, op.output.dtype = op.x.shape, op.output.dtype or op.x.dtype
    elif isinstance(op, Elementwise) and op.fn in ("gelu", "gelu_tanh", "silu"):
        if len(known) == len(shapes):
            op.output.shape = broadcast(*known)
        op.output.dtype = op.output.dtype or op.require(0).dtype
