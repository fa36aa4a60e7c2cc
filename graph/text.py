"""A graph as text, one line an op: for `passel inspect`, golden tests and bug reports.

Values are numbered in the order in which they appear, so that the text of a graph does not depend
on the names that an IR or a pass gave; with `names` they go by their own.
"""

import numpy as np

from .graph import Graph
from .value import Op, Value, own_fields

SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "bool": "b1"}
ELEMENTS_SHOWN = 8


def to_text(graph: Graph, names: bool = False) -> str:
    """The whole graph: its inputs, its ops in order, its outputs."""
    labels = _Labels(names)
    lines = [f"{labels(value)}: {type_of(value)} = input" for value in graph.inputs]
    lines += [op_text(op, labels) for op in graph.ops]
    lines.append("return " + ", ".join(labels(value) for value in graph.outputs))
    return "\n".join(lines) + "\n"


def op_text(op: Op, labels: "_Labels") -> str:
    """One op: its results, kind, operands (constants by type or value) and attributes."""
    operands = ", ".join("none" if v is None else labels(v) for v in op.inputs)
    attributes = "; ".join(f"{name}={value!r}" for name, value in attributes_of(op).items())
    results = ", ".join(f"{labels(value)}: {type_of(value)}" for value in op.outputs)
    inside = "; ".join(part for part in (operands, attributes) if part)
    return f"{results} = {op.kind}({inside})" if results else f"{op.kind}({inside})"


def attributes_of(op: Op) -> dict[str, object]:
    """The fields that this kind of op adds to every op's, but for those that its kind says."""
    said = ("fn", "norm", "target", "impure")
    return {name: _plain(value) for name, value in own_fields(op).items() if name not in said}


def _plain(value: object) -> object:
    return value.name if isinstance(value, np.dtype) else value


def type_of(value: Value) -> str:
    """Element type and shape, such as f32[batch, 197, 384]."""
    name = "?" if value.dtype is None else value.dtype.name
    stem = name.rstrip("0123456789")
    dtype = SHORT.get(stem, stem) + name[len(stem) :]
    shape = "?" if value.shape is None else ", ".join(map(str, value.shape))
    return f"{dtype}[{shape}]"


class _Labels:
    """What each value is called in the text."""

    def __init__(self, names: bool) -> None:
        self.names = names
        self.found: dict[Value, str] = {}

    def __call__(self, value: Value) -> str:
        if value.constant is not None:
            return _constant(value)
        if value not in self.found:
            self.found[value] = value.name if self.names else f"%{len(self.found)}"
        return self.found[value]


def _constant(value: Value) -> str:
    """Small integer constants and lone numbers are written out, others by their type."""
    assert value.constant is not None
    size = int(np.prod(value.constant.shape, dtype=np.int64))
    if size == 1 or (size <= ELEMENTS_SHOWN and not value.is_float):
        return str(value.array().tolist())
    return f"const {type_of(value)}"
