"""Which emission an op gets: the first pattern that matches, else the spelling of its kind."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ....graph import Op
from ....graph import ops as vocabulary
from ..machine import Machine
from . import (
    affine,
    aten,
    aten_pointwise,
    aten_reduce,
    aten_shape,
    conv,
    conv_tokens,
    linear,
    movement,
    nodes,
    nodes_pointwise,
    norms,
    pointwise,
    products,
    quant,
    reductions,
    rotary,
    scatters,
    spatial,
    tokens,
)
from .attention import attention
from .contents import scalar_of
from .dims import Dims
from .emission import Emission, computed
from .emitter import Emitter
from .integer import integer_linear
from .integer_codes import by_row, per_tensor
from .integer_grid import known_grid
from .opaque import spelling_of
from .weight_only import weight_only

if TYPE_CHECKING:
    from tvm import relax

Pattern = Callable[[Op, Machine], Emission | None]
"""Looks at an op and at its producers; None where it does not apply."""
Spelling = Callable[[Emitter, Any], "Sequence[relax.Expr | None]"]
"""Makes the results of one op from those of its operands."""

# Importing them fills the tables of `opaque`.
_ = aten, aten_pointwise, aten_reduce, aten_shape, nodes, nodes_pointwise, rotary

PATTERNS: list[Pattern] = [
    attention,
    integer_linear,
    per_tensor,
    by_row,
    known_grid,
    weight_only,
    linear.linear,
    conv_tokens.tokens,
    conv.conv,
]
"""What packs or fuses for the schedules of CPUs; the particular before the general."""


def emission_of(op: Op, machine: Machine, dims: Dims) -> Emission | None:
    """How an op is emitted; None where nothing can spell it."""
    for pattern in PATTERNS if machine.kind == "cpu" else ():
        found = pattern(op, machine)
        if found is not None:
            return found
    if op.outputs and all(scalar_of(value, dims) is not None for value in op.outputs):
        return Emission(op, (), lambda emitter: [None] * len(op.outputs))
    spell = SPELLINGS.get(type(op)) or spelling_of(op)
    if spell is None:
        return None
    reads = computed(op.inputs)
    shaped = isinstance(op, vocabulary.ShapeOf) or _is_like(op)
    return Emission(op, () if shaped else reads, _learnt(op, spell), reads if shaped else ())


def _learnt(op: Op, spell: Spelling) -> "Callable[[Emitter], Sequence[relax.Expr | None]]":
    """What can be computed at emission becomes no kernel."""

    def emit(emitter: Emitter) -> "Sequence[relax.Expr | None]":
        if emitter.contents.learn(op):
            return [None] * len(op.outputs)
        return spell(emitter, op)

    return emit


def _is_like(op: Op) -> bool:
    """Whether the op reads no element: a tensor of one number, of the shape of another (torch)."""
    if not isinstance(op, vocabulary.Fill) or op.dims is not None or not op.inputs:
        return False
    return hasattr(op.require(0).origin, "meta")


def _shape_of(emitter: Emitter, op: vocabulary.ShapeOf) -> "Sequence[relax.Expr | None]":
    raise AssertionError(f"{op.name!r} is known at emission")


SPELLINGS: dict[type[Op], Spelling] = {
    vocabulary.Affine: affine.affine,
    vocabulary.Attention: products.attention,
    vocabulary.BatchNorm: affine.batch_norm,
    vocabulary.Cast: pointwise.cast,
    vocabulary.Concat: movement.concat,
    vocabulary.Conv: spatial.conv,
    vocabulary.Dequantize: quant.dequantize,
    vocabulary.DynamicQuantize: quant.dynamic_quantize,
    vocabulary.Elementwise: pointwise.elementwise,
    vocabulary.Expand: movement.expand,
    vocabulary.Fill: tokens.fill,
    vocabulary.Gather: tokens.gather,
    vocabulary.Identity: movement.identity,
    vocabulary.Linear: products.linear,
    vocabulary.MatMul: products.matmul,
    vocabulary.Norm: norms.norm,
    vocabulary.Put: scatters.put,
    vocabulary.Quantize: quant.quantize,
    vocabulary.Range: tokens.integers,
    vocabulary.Reduce: reductions.reduce,
    vocabulary.Reshape: movement.reshape,
    vocabulary.Scatter: scatters.scatter,
    vocabulary.ShapeOf: _shape_of,
    vocabulary.Slice: movement.slices,
    vocabulary.Softmax: reductions.softmax,
    vocabulary.Sort: tokens.sort,
    vocabulary.Split: movement.split,
    vocabulary.Squeeze: movement.squeeze,
    vocabulary.Take: tokens.take,
    vocabulary.TopK: tokens.top_k,
    vocabulary.Transpose: movement.transpose,
    vocabulary.Triangle: tokens.triangle,
    vocabulary.Unbind: movement.unbind,
    vocabulary.Unsqueeze: movement.unsqueeze,
}
"""How each kind of op of the vocabulary is emitted."""
