"""ONNX operators that models leave outside the vocabulary: shapes, indices, products."""

from typing import TYPE_CHECKING, Any

from .arrays import cumulated, extremum_at, padded, tiled
from .contents import boxed
from .indexing import gathered, picked_along
from .movement import divided, permuted, reshaped
from .opaque import Node, node
from .pointwise import applied, casted
from .products import contracted, product
from .scatters import COMBINE, scattered, scattered_rows
from .tokens import stepped

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

PADS = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _counts(node: Node) -> bool:
    dtype = node.op.output.dtype
    return dtype is not None and dtype.kind in "iu"


@node("Range", when=_counts)
def _range(emitter: "Emitter", node: Node) -> "relax.Expr":
    (start,), (end,), (step,) = (node.extents(index) for index in range(3))
    return stepped(emitter, start, end, step, node.dtype)


@node("CumSum")
def _cumsum(emitter: "Emitter", node: Node) -> "relax.Expr":
    axis = node.number(1)
    if axis is None:
        raise ValueError("expected a known axis")
    return cumulated(
        emitter,
        node.x(),
        int(axis) % node.rank(),
        node.dtype,
        exclusive=bool(node.attr_int("exclusive", 0)),
        reverse=bool(node.attr_int("reverse", 0)),
    )


@node("GatherND")
def _gather_nd(emitter: "Emitter", node: Node) -> "relax.Expr":
    return gathered(emitter, node.x(0), node.x(1), node.attr_int("batch_dims", 0))


@node("GatherElements")
def _gather_elements(emitter: "Emitter", node: Node) -> "relax.Expr":
    return picked_along(emitter, node.x(0), node.x(1), node.axis())


def _combines(node: Node) -> bool:
    return node.attr_string("reduction", "none") in COMBINE


@node("ScatterND", when=_combines)
def _scatter_nd(emitter: "Emitter", node: Node) -> "relax.Expr":
    x, indices, updates = node.operands
    mode = node.attr_string("reduction", "none")
    return scattered_rows(emitter, x, indices, updates, mode)


@node("ScatterElements", when=_combines)
def _scatter_elements(emitter: "Emitter", node: Node) -> "relax.Expr":
    x, indices, updates = node.operands
    mode = node.attr_string("reduction", "none")
    return scattered(emitter, x, indices, updates, node.axis(), mode)


@node("Tile")
def _tile(emitter: "Emitter", node: Node) -> "relax.Expr":
    return tiled(emitter, node.x(), node.extents(1))


def _takes_first(node: Node) -> bool:
    return not node.attr_int("select_last_index", 0)


@node("ArgMax", "ArgMin", when=_takes_first)
def _extremum(emitter: "Emitter", node: Node) -> "relax.Expr":
    return extremum_at(
        emitter,
        node.x(),
        node.axis(),
        largest=node.op.kind == "ArgMax",
        keepdims=bool(node.attr_int("keepdims", 1)),
    )


@node("Pad", when=lambda node: node.attr_string("mode", "constant") in PADS)
def _pad(emitter: "Emitter", node: Node) -> "relax.Expr":
    rank = node.rank()
    given = node.extents(1)
    axes = [int(axis) % rank for axis in node.extents(3)] if node.given(3) else list(range(rank))
    pads: list[Any] = [(0, 0)] * rank
    for k, axis in enumerate(axes):
        pads[axis] = (given[k], given[k + len(axes)])
    number = node.number(2)
    mode = PADS[node.attr_string("mode", "constant")]
    return padded(emitter, node.x(), pads, 0.0 if number is None else float(number), mode)


@node("Split")
def _split(emitter: "Emitter", node: Node) -> "list[relax.Expr]":
    x, axis, count = node.x(), node.axis(), len(node.op.outputs)
    if node.given(1):
        return divided(emitter, x, axis, node.extents(1))
    extent = emitter.extents(x)[axis]
    size = emitter.dims.simple(-(-extent // count))
    last = emitter.dims.simple(extent - size * (count - 1))
    return divided(emitter, x, axis, [*[size] * (count - 1), last])


@node("Squeeze")
def _squeeze(emitter: "Emitter", node: Node) -> "relax.Expr":
    x = node.x()
    shape = [
        extent for extent in emitter.extents(x) if not (isinstance(extent, int) and extent == 1)
    ]
    return reshaped(emitter, x, shape)


@node("Flatten")
def _flatten(emitter: "Emitter", node: Node) -> "relax.Expr":
    x, axis = node.x(), node.attr_int("axis", 1)
    shape = emitter.extents(x)
    axis += len(shape) if axis < 0 else 0
    parts = (shape[:axis], shape[axis:])
    return reshaped(emitter, x, [emitter.dims.product(part) for part in parts])


@node("Size")
def _size(emitter: "Emitter", node: Node) -> "relax.Expr":
    total = emitter.dims.product(emitter.extents(node.x()))
    if isinstance(total, int):
        return emitter.number(total, "int64")
    return emitter.contents.tensor(boxed(total), "int64")


@node("Gemm")
def _gemm(emitter: "Emitter", node: Node) -> "relax.Expr":
    sides = [
        permuted(emitter, node.x(k), (1, 0)) if node.attr_int(name, 0) else node.x(k)
        for k, name in enumerate(("transA", "transB"))
    ]
    result = _scaled(emitter, node, product(emitter, *sides), "alpha")
    if not node.given(2):
        return result
    return applied(emitter, "add", node.dtype, result, _scaled(emitter, node, node.x(2), "beta"))


def _scaled(emitter: "Emitter", node: Node, x: "relax.Expr", name: str) -> "relax.Expr":
    factor = node.attr_float(name, 1.0)
    if factor == 1.0:
        return x
    return applied(emitter, "mul", node.dtype, x, emitter.number(factor, node.dtype))


@node("MatMulInteger")
def _matmul_integer(emitter: "Emitter", node: Node) -> "relax.Expr":
    sides = []
    for k in (0, 1):
        x = emitter.cast(node.x(k), "int32")
        if node.given(k + 2):
            zero = emitter.cast(node.x(k + 2), "int32")
            if node.rank(k + 2) == 1 and k == 0 and emitter.extents(zero) != [1]:
                zero = reshaped(emitter, zero, [*emitter.extents(zero), 1])
            x = applied(emitter, "sub", "int32", x, zero)
        sides.append(x)
    return product(emitter, *sides)


@node("Einsum")
def _einsum(emitter: "Emitter", node: Node) -> "relax.Expr":
    return contracted(emitter, node.attr_string("equation", ""), node.operands)


@node("CastLike")
def _cast_like(emitter: "Emitter", node: Node) -> "relax.Expr":
    return casted(emitter, node.x(), node.dtype)


@node("OneHot")
def _one_hot(emitter: "Emitter", node: Node) -> "relax.Expr":
    from tvm import te, tirx

    (depth,) = node.extents(1)
    values = node.x(2)
    indices = node.x(0)
    shape = emitter.extents(indices)
    axis = node.attr_int("axis", -1) % (len(shape) + 1)
    shape.insert(axis, depth)

    def compute(positions: Any, ends: Any) -> Any:
        def element(*i: Any) -> Any:
            wanted = positions(*i[:axis], *i[axis + 1 :]).astype("int64")
            wanted = tirx.Select(wanted < 0, wanted + depth, wanted)
            return tirx.Select(wanted.equal(i[axis].astype("int64")), ends(1), ends(0))

        return te.compute(shape, element, name="one_hot")

    return emitter.call_te(compute, indices, values, name="one_hot")
