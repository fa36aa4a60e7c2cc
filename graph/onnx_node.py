"""What a lift rule sees of one ONNX node, and the table that rules enter themselves in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .onnx_attributes import Attributes
from .shapes import normal_axis
from .value import Op, Value

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class NodeView(Attributes):
    """One node with its lifted operands and results.

    Attributes:
        node: the ONNX node.
        inputs, outputs: its values in the graph; None for an operand left out.
        opset: version of the node's operator set.
    """

    node: ir.Node
    inputs: "list[Value | None]"
    outputs: list[Value]
    opset: int

    def operand(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def rank(self, index: int) -> int | None:
        value = self.operand(index)
        return None if value is None else value.rank

    def given(self, index: int) -> bool:
        return self.operand(index) is not None

    def constant(self, index: int) -> np.ndarray | None:
        """The payload of a constant operand."""
        value = self.operand(index)
        return None if value is None or value.constant is None else value.constant.array()

    def constant_ints(self, index: int) -> tuple[int, ...] | None:
        array = self.constant(index)
        return None if array is None else tuple(int(number) for number in array.reshape(-1))

    def axis(self, default: int, rank: int | None) -> int | None:
        """The `axis` attribute counted from the front."""
        return None if rank is None else normal_axis(self.attr_int("axis", default), rank)

    def only_first_output(self) -> bool:
        """Whether no result but the first is wanted."""
        return not any(out.uses() or out.is_graph_output() for out in self.node.outputs[1:])


Rule = Callable[[NodeView], Op | None]
"""Gives the op without operands, or None where the vocabulary has no word for this node."""
RULES: dict[tuple[str, str], Rule] = {}


def rule(*op_types: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Enter a rule in the table for some operators."""

    def enter(function: Rule) -> Rule:
        for op_type in op_types:
            RULES[domain, op_type] = function
        return function

    return enter


def normal_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    return tuple(normal_axis(axis, rank) for axis in axes)
