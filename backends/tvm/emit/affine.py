"""How affine maps and batch norms are spelled."""

from typing import TYPE_CHECKING

import numpy as np

from ....graph.ops import Affine, BatchNorm
from .movement import reshaped
from .pointwise import applied

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


def affine(emitter: "Emitter", op: Affine) -> "list[relax.Expr]":
    """y = scale⊙x + shift."""
    dtype = emitter.dtype(op.output)
    result = emitter.cast(emitter[op.x], dtype)
    for value, fn in ((op.scale, "mul"), (op.shift, "add")):
        if value is not None:
            result = applied(emitter, fn, dtype, result, emitter.cast(emitter[value], dtype))
    return [result]


def batch_norm(emitter: "Emitter", op: BatchNorm) -> "list[relax.Expr]":
    """y = a⊙x + c per channel, a = γ/√(σ² + ε), c = β − a·μ; a and c are constants if γ.. are."""
    x, dtype = op.require(0), emitter.dtype(op.output)
    known = [emitter.contents.numbers(v) for v in op.inputs[1:5]]
    shape = [-1] + [1] * ((x.rank or 2) - 2)
    if all(a is not None or v is None for a, v in zip(known, op.inputs[1:5], strict=True)):
        gamma, beta, mean, variance = (None if a is None else a.astype(np.float64) for a in known)
        assert mean is not None
        assert variance is not None
        scale = (1.0 if gamma is None else gamma) / np.sqrt(variance + op.eps)
        shift = (0.0 if beta is None else beta) - scale * mean
        target = op.output.dtype
        grid = [
            emitter.constant(part.astype(target).reshape(shape), f"{op.name}_{name}")
            for name, part in (("scale", scale), ("shift", shift))
        ]
    else:
        grid = _computed_grid(emitter, op, dtype, shape)
    scaled = applied(emitter, "mul", dtype, emitter[x], grid[0])
    return [applied(emitter, "add", dtype, scaled, grid[1])]


def _computed_grid(
    emitter: "Emitter", op: BatchNorm, dtype: str, shape: list[int]
) -> "list[relax.Expr]":
    gamma, beta, mean, variance = (None if v is None else emitter[v] for v in op.inputs[1:5])
    assert mean is not None
    widened = applied(emitter, "add", dtype, variance, emitter.number(op.eps, dtype))
    scale = applied(emitter, "rsqrt", dtype, widened)
    if gamma is not None:
        scale = applied(emitter, "mul", dtype, scale, gamma)
    shift = applied(emitter, "neg", dtype, applied(emitter, "mul", dtype, scale, mean))
    if beta is not None:
        shift = applied(emitter, "add", dtype, shift, beta)
    extent = emitter.extents(scale)[0]
    return [reshaped(emitter, part, [extent, *shape[1:]]) for part in (scale, shift)]
