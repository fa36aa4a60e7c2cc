"""Decide whether a node can be copied with other operands, and find its new arguments."""

from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from .fx_call import attribute_of
from .fx_tensor import signature_of
from .value import Op, Value

if TYPE_CHECKING:
    from .fx_call import Writer


def copied_arguments(op: Op, lowering: "Writer") -> tuple[Any, Any] | None:
    """Arguments for a copy of the op's node; None where the op must be written anew."""
    values = occurrences(op)
    if values is None:
        return None
    left = iter(values)

    def argument(found: fx.Node) -> Any:
        if is_body(found):
            return lowering.body(found)
        return _replacement(found, next(left), lowering)

    return fx.map_arg(op.source.args, argument), fx.map_arg(op.source.kwargs, argument)


def occurrences(op: Op) -> list[Value] | None:
    """The value at each node argument of the op's node; None if the node cannot express the op.

    It can when every operand that a pass has changed is one of the node's arguments.
    """
    if not isinstance(op.source, fx.Node):
        return None
    order = range(len(op.lifted_inputs)) if op.order is None else op.order
    lifted = op.lifted_inputs
    for index in range(max(len(lifted), len(op.inputs))):
        before = lifted[index] if index < len(lifted) else None
        after = op.operand(index)
        if after is not before and (index not in order or after is None):
            return None
    return [op.require(index) for index in order]


def is_body(node: fx.Node) -> bool:
    """Whether a node stands for a module, the body of a higher-order operator."""
    return node.op == "get_attr" and isinstance(attribute_of(node), torch.nn.Module)


def same_inputs(source: fx.Node, copied: fx.Node) -> bool:
    """Whether two nodes read operands of the same shapes, strides and types."""
    before = pytree.tree_leaves((source.args, source.kwargs))
    after = pytree.tree_leaves((copied.args, copied.kwargs))
    return len(before) == len(after) and all(map(_same, before, after))


def _same(before: Any, after: Any) -> bool:
    before, after = _val(before), _val(after)
    return before is after or signature_of(before) == signature_of(after)


def _val(leaf: Any) -> Any:
    return leaf.meta.get("val") if isinstance(leaf, fx.Node) else leaf


def _replacement(found: fx.Node, value: Value, lowering: "Writer") -> Any:
    """The new argument: a number where the node took a symbolic one that is known by now."""
    symbolic = not isinstance(found.meta.get("val"), torch.Tensor)
    if symbolic and value.constant is not None and value.shape == ():
        return value.array().item()
    return lowering.node(value)
