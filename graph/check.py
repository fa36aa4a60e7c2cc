"""The grammar of a graph, checked after every pass: a pass that breaks it is caught by name."""

from ..errors import InvalidGraph
from .graph import Graph
from .ops import Conv, Linear, Norm, Transpose
from .value import Op, Value


def check(graph: Graph, after: str) -> None:
    """Raise `InvalidGraph`, naming the pass `after` which it broke, if the graph is malformed.

    Operands are defined before they are read, uses and operands agree, every op has results, and
    weights fit their operands where both shapes are known.
    """
    defined: set[Value] = set(graph.inputs)
    for op in graph.ops:
        for index, value in enumerate(op.inputs):
            if value is None:
                continue
            if (op, index) not in value.uses:
                raise _invalid(after, op, f"expected {value.name!r} to list the op as a reader")
            if value.producer is not None and value not in defined:
                raise _invalid(after, op, f"expected {value.name!r} to be computed first")
        if not op.outputs and not op.effectful:
            raise _invalid(after, op, "expected at least one result, got none")
        defined.update(op.outputs)
        problem = _misfit(op)
        if problem:
            raise _invalid(after, op, problem)
    for output in graph.outputs:
        if output.producer is not None and output not in defined:
            raise InvalidGraph(f"after {after}: output {output.name!r} is not computed")


def _invalid(after: str, op: Op, problem: str) -> InvalidGraph:
    return InvalidGraph(f"after {after}: {op.kind} {op.name!r}: {problem}")


def _misfit(op: Op) -> str | None:
    """What does not fit between the operands of one op."""
    match op:
        case Linear():
            return _misfit_linear(op)
        case Conv() if op.bias is not None and not op.transposed:
            rows = op.weight.shape[0] if op.weight.shape else None
            if op.bias.shape is not None and rows is not None and op.bias.shape != (rows,):
                return f"expected a bias of shape ({rows},), got {op.bias.shape}"
        case Norm():
            width = None if op.x.shape is None else op.x.shape[-op.ndim :]
            if op.scale is not None and width is not None and op.scale.shape != width:
                return f"expected a scale of shape {width}, got {op.scale.shape}"
        case Transpose():
            if sorted(op.perm) != list(range(op.require(0).rank or len(op.perm))):
                return f"expected a permutation, got {op.perm}"
    return None


def _misfit_linear(op: Linear) -> str | None:
    weight, x = op.weight.shape, op.x.shape
    if weight is None or x is None or len(weight) != 2:
        return None
    rows, columns = weight if op.layout == "oi" else weight[::-1]
    if isinstance(columns, int) and isinstance(x[-1], int) and columns != x[-1]:
        return f"expected a weight for {x[-1]} features, got one for {columns}"
    if op.bias is not None and op.bias.shape is not None and op.bias.shape != (rows,):
        return f"expected a bias of shape ({rows},), got {op.bias.shape}"
    return None
