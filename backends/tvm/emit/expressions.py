"""Tensor expressions that several spellings share: reading with broadcasting, and moving."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ....graph.shapes import broadcast
from .dims import Extent
from .fitting import fitted

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

NARROW = ("float16", "bfloat16")
"""Types whose sums are taken in float32 and rounded once."""
Index = Callable[..., Sequence[Any]]
"""From the indices of a result to those of an operand."""


def dtype_of(x: "relax.Expr") -> str:
    """Element type of an expression."""
    return str(x.ty.dtype.dtype)


def widened(dtype: str) -> str:
    """The type to compute in: float32 for what is narrower."""
    return "float32" if dtype in NARROW else dtype


def read(tensor: Any, indices: Sequence[Any], shape: Sequence[Extent] = ()) -> Any:
    """An element of a tensor that is broadcast to the shape which `indices` run over.

    Where that shape is given, an axis that has one position in both keeps its index: a read at the
    same indices everywhere is what TVM fuses to the product in front of it.
    """
    from tvm import tirx

    kept = indices[len(indices) - len(tensor.shape) :]
    target = shape[len(shape) - len(tensor.shape) :] or [None] * len(kept)
    ones = [
        isinstance(extent, tirx.IntImm) and int(extent) == 1 and wanted != 1
        for extent, wanted in zip(tensor.shape, target, strict=True)
    ]
    return tensor(*[0 if one else index for one, index in zip(ones, kept, strict=True)])


def pointwise(
    emitter: "Emitter", name: str, function: Callable[..., Any], *operands: "relax.Expr"
) -> "relax.Var":
    """One kernel that computes each element from the operands' elements, which are broadcast."""
    from tvm import te

    aligned = align(emitter, *operands)
    shape = broadcast_shape(emitter, aligned)

    def compute(*tensors: Any) -> Any:
        return te.compute(
            shape, lambda *i: function(*(read(tensor, i, shape) for tensor in tensors)), name=name
        )

    return emitter.call_te(compute, *aligned, name=name)


def moved(
    emitter: "Emitter", name: str, x: "relax.Expr", shape: Sequence[Extent], index: Index
) -> "relax.Var":
    """One kernel whose elements are those of x at other indices."""
    from tvm import te

    return emitter.call_te(
        lambda tensor: te.compute(list(shape), lambda *i: tensor(*index(*i)), name=name),
        x,
        name=name,
    )


def broadcast_shape(emitter: "Emitter", operands: "Sequence[relax.Expr]") -> list[Extent]:
    """The shape that aligned operands are broadcast to."""
    return list(broadcast(*(tuple(emitter.extents(operand)) for operand in operands)))


def align(emitter: "Emitter", *operands: "relax.Expr") -> "list[relax.Expr]":
    """The same operands, where extents that must be equal are the same expressions.

    Two extents that both come from the inputs, under two names, are equal or the model has no
    meaning: the run checks it.
    """
    shapes = [tuple(emitter.extents(operand)) for operand in operands]
    wanted = broadcast(*shapes)
    result = []
    for operand, shape in zip(operands, shapes, strict=True):
        target = wanted[len(wanted) - len(shape) :]
        fitting = [s if _fits(emitter, s, t) else t for s, t in zip(shape, target, strict=True)]
        same = all(s is f for s, f in zip(shape, fitting, strict=True))
        result.append(operand if same else fitted(emitter, operand, fitting))
    return result


def _fits(emitter: "Emitter", extent: Extent, target: Extent) -> bool:
    """Whether an extent is 1 or the target's, or is known to be neither (which TVM reports)."""
    if isinstance(extent, int):
        return True
    return emitter.dims.equal(extent, target) is True
