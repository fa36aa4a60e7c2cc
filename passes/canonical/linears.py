"""Rules that find Linears: a product with a constant matrix, its bias, and transposed weights."""

from functools import partial

from ...graph import Graph, Op, Value
from ...graph.ops import Elementwise, Linear, MatMul, Reshape, Transpose
from ...graph.quant_ops import is_stored
from .rule import Match, Rule, substitute


def _matmul_to_linear(graph: Graph, op: Op) -> Match | None:
    """x·B with a stored (or transposed) matrix B is a Linear of layout "io" (or "oi")."""
    x, weight = op.require(0), op.require(1)
    if weight.rank != 2 or x.constant is not None or (x.rank or 0) < 2 or not op.output.is_float:
        return None
    source, layout = _stored(weight)
    if not is_stored(source):
        return None

    def apply(graph: Graph) -> None:
        linear = Linear(inputs=[x, source], layout=layout, scope=op.scope, name=op.name)
        graph.add(linear, (op.output.shape, op.output.dtype), before=op)
        substitute(graph, op, linear.output)

    return apply


def _stored(weight: Value) -> tuple[Value, str]:
    op = weight.producer
    if isinstance(op, Transpose) and op.perm == (1, 0):
        return op.require(0), "oi"
    return weight, "io"


def _transposed_weight(graph: Graph, op: Op) -> Match | None:
    """Linear(x, Bᵀ) is a Linear of B in the other layout."""
    if not isinstance(op, Linear):
        return None
    source, layout = _stored(op.weight)
    if layout == "io" or not is_stored(source):
        return None

    def apply(graph: Graph) -> None:
        transpose = op.weight.producer
        graph.set_input(op, 1, source)
        graph.update(op, layout="io" if op.layout == "oi" else "oi")
        graph.prune(transpose)

    return apply


def _add_to_bias(graph: Graph, op: Op) -> Match | None:
    """Linear(x) + b with a constant vector b, read by nothing else."""
    if not isinstance(op, Elementwise) or op.fn != "add":
        return None
    for index in (0, 1):
        linear, bias = op.require(index).producer, op.require(1 - index)
        if not isinstance(linear, Linear) or linear.bias is not None or bias.constant is None:
            continue
        if graph.only_reader(linear.output) is not op or linear.weight.rank != 2:
            continue
        shape = linear.output.shape
        if shape is None or bias.shape != shape[-1:] or bias.dtype != linear.output.dtype:
            continue
        return partial(_attach, op=op, linear=linear, bias=bias)
    return None


def _attach(graph: Graph, op: Op, linear: Linear, bias: Value) -> None:
    graph.set_input(linear, 2, bias)
    graph.update(linear)
    substitute(graph, op, linear.output)


def _between_reshapes(graph: Graph, op: Op) -> Match | None:
    """[.., d] → [m, d] → Linear → [m, e] → [.., e] is the Linear of x itself."""
    linear = op.require(0).producer
    if not isinstance(linear, Linear) or graph.only_reader(linear.output) is not op:
        return None
    flatten, shape = linear.x.producer, op.output.shape
    if not isinstance(flatten, Reshape) or shape is None or linear.weight.rank != 2:
        return None
    x = flatten.require(0)
    before, width = x.shape, linear.output.shape
    if before is None or width is None or shape != (*before[:-1], width[-1]) or len(before) < 3:
        return None
    if linear.x.shape is None or before[-1] != linear.x.shape[-1]:
        return None

    def apply(graph: Graph) -> None:
        inputs = [x, *linear.inputs[1:]]
        whole = Linear(inputs=inputs, layout=linear.layout, scope=linear.scope, name=linear.name)
        graph.add(whole, (shape, op.output.dtype), before=op)
        substitute(graph, op, whole.output)

    return apply


RULES = (
    Rule("linear-between-reshapes", (Reshape,), _between_reshapes),
    Rule("matmul-to-linear", (MatMul,), _matmul_to_linear),
    Rule("transposed-weight", (Linear,), _transposed_weight),
    Rule("add-to-bias", (Elementwise,), _add_to_bias),
)
