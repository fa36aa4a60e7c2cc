"""What a node of an IR spells out besides its operands, as canonical text.

It is needed where the graph's vocabulary has no word for a node, or leaves something to the IR.
Bodies of control flow are written out node by node, their values numbered as they are met.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...graph.movement_ops import Ref
from ...graph.value import Shape

Dims = Callable[[Shape | None], str]
"""Writes a shape, its symbols numbered."""
ELEMENTS = 64
"""Elements of a tensor attribute up to which they are written out."""


def plain(value: object) -> str:
    """An attribute of the vocabulary as text, equal for equal values only."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, Ref):
        return f"@{value.index}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!s}: {plain(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return "[" + ", ".join(map(plain, value)) + "]"
    return repr(value) if isinstance(value, str) else str(value)


def literals(source: Any, dims: Dims) -> str:
    """What an fx node or an ONNX node spells out; "" for an op that was written anew."""
    if source is None:
        return ""
    if type(source).__module__.startswith("torch"):
        return _Fx().arguments(source)
    if hasattr(source, "attributes"):
        return _Onnx(dims).attributes(source)
    return ""  # an initializer that callers may override: its value is the op's result


class _Fx:
    """Text of fx nodes."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def arguments(self, node: Any) -> str:
        """The literals of a call, operands of the program left out."""
        return f"{self._text(node.args, inside=False)} {self._text(node.kwargs, inside=False)}"

    def _text(self, value: Any, *, inside: bool) -> str:
        from torch import fx

        if isinstance(value, fx.Node):
            return self._node(value, inside)
        if isinstance(value, Mapping):
            pairs = [f"{key}: {self._text(value[key], inside=inside)}" for key in sorted(value)]
            return "{" + ", ".join(pairs) + "}"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(self._text(entry, inside=inside) for entry in value) + "]"
        if isinstance(value, slice):
            return self._text([value.start, value.stop, value.step], inside=inside)
        return plain(value)

    def _node(self, node: Any, inside: bool) -> str:
        if node.op == "get_attr":
            return self._attribute(node)
        return f"%{self.numbers.setdefault(node, len(self.numbers))}" if inside else "%"

    def _attribute(self, node: Any) -> str:
        from torch import fx

        from ...graph.fx_call import attribute_of

        found = attribute_of(node)
        if not isinstance(found, fx.GraphModule):
            return f"{getattr(found, 'dtype', '')}{list(getattr(found, 'shape', ()))}"
        return "<" + "; ".join(_Fx().body(found)) + ">"

    def body(self, module: Any) -> list[str]:
        """A line for each node of a body."""
        lines = []
        for node in module.graph.nodes:
            target = node.target if node.op == "call_function" else ""
            arguments = self._text([node.args, node.kwargs], inside=True)
            lines.append(f"{self._node(node, True)} {node.op} {target} {arguments}")
        return lines


class _Onnx:
    """Text of ONNX nodes."""

    def __init__(self, dims: Dims) -> None:
        self.dims = dims
        self.numbers: dict[Any, int] = {}

    def attributes(self, node: Any) -> str:
        """All attributes by name."""
        names = sorted(node.attributes)
        return " ".join(f"{name}={self._attribute(node.attributes[name])}" for name in names)

    def _attribute(self, attribute: Any) -> str:
        import onnx_ir as ir

        value, kind = attribute.value, attribute.type
        if kind == ir.AttributeType.GRAPH:
            return self._graph(value)
        if kind == ir.AttributeType.GRAPHS:
            return " ".join(self._graph(graph) for graph in value)
        if kind == ir.AttributeType.TENSOR:
            return _tensor(value)
        return plain(value)

    def _graph(self, graph: Any) -> str:
        lines = [f"{self._value(value)} input" for value in graph.inputs]
        for value in graph.initializers.values():
            lines.append(f"{self._value(value)} {_tensor(value.const_value)}")
        for node in graph:
            operands = [self._value(value) for value in node.inputs]
            results = [self._value(value) for value in node.outputs]
            head = f"{node.domain}::{node.op_type} {operands} {results}"
            lines.append(f"{head} {self.attributes(node)}")
        lines.append(f"return {[self._value(value) for value in graph.outputs]}")
        return "<" + "; ".join(lines) + ">"

    def _value(self, value: Any) -> str:
        if value is None:
            return "-"
        number = self.numbers.setdefault(value, len(self.numbers))
        dtype = "" if value.dtype is None else value.dtype.name
        shape = None if value.shape is None else tuple(_extent(dim) for dim in value.shape)
        return f"%{number}:{dtype}{self.dims(shape)}"


def _extent(dim: Any) -> int | str:
    return dim if isinstance(dim, int) else dim.value or "?"


def _tensor(tensor: Any) -> str:
    """A tensor's dtype and shape, and its elements if they are few."""
    if tensor is None:
        return "?"
    head = f"{tensor.dtype.name}{list(tensor.shape)}"
    small = np.prod(list(tensor.shape), dtype=np.int64) <= ELEMENTS
    return head + (f"={np.ascontiguousarray(tensor.numpy()).tobytes().hex()}" if small else "")
