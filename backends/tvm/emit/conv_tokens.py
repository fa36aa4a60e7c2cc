"""Patches that do not overlap, read as tokens: the embedding of a vision transformer.

A convolution whose stride is its kernel, flattened and transposed to [n, p, o], is
    y[n, p, o] = Σ_k patch[n, p, k]·W[k, o]
a product of the patches, read from the image where they are, with a packed weight; its result is
written as tokens at once.
"""

from math import prod
from typing import TYPE_CHECKING, Any

from ....graph import Op
from ....graph.ops import Conv, Reshape, Transpose
from ..machine import Machine
from .conv_geometry import digits
from .emission import Emission, computed
from .expressions import widened
from .linear import panels_of
from .pointwise import applied

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


def tokens(op: Op, machine: Machine) -> Emission | None:
    """A transpose of a flattened convolution by patches, with a constant weight."""
    flat = op.require(0).producer if isinstance(op, Transpose) and op.perm == (0, 2, 1) else None
    found = flat.require(0).producer if isinstance(flat, Reshape) else None
    if not isinstance(found, Conv) or found.weight.constant is None or not _by_patches(found):
        return None
    if not _is_flattened(found, op):
        return None
    reads = computed((found.x, found.bias))
    return Emission(op, reads, lambda emitter: [_tokens(emitter, found)])


def _by_patches(op: Conv) -> bool:
    """Whether patches neither overlap nor leave gaps, over all channels."""
    kernel = op.weight.shape[2:] if op.weight.shape else ()
    is_plain = not op.transposed and op.groups == 1 and op.output.is_float
    is_dense = not any(map(any, op.padding or ((1,),))) and set(op.dilation) <= {1}
    return is_plain and is_dense and tuple(op.stride) == tuple(kernel)


def _is_flattened(found: Conv, op: Op) -> bool:
    """Whether `op` has the elements [n, o, *p] of a convolution as [n, p, o]."""
    before, after = found.output.shape, op.output.shape
    if before is None or after is None or len(after) != 3:
        return False
    known = [extent for extent in before[1:] if isinstance(extent, int)]
    return len(known) == len(before) - 1 and after == (before[0], prod(known[1:]), known[0])


def _tokens(emitter: "Emitter", op: Conv) -> "relax.Expr":
    dtype = emitter.dtype(op.output)
    total = widened(dtype)
    weight = op.weight.array()
    out, taps = len(weight), weight.shape[1:]
    panels, lanes = panels_of(emitter, weight.reshape(out, -1).T, op.weight.name)
    assert op.output.shape is not None
    across = [extent for extent in op.output.shape[2:] if isinstance(extent, int)]

    def compute(x: Any, panels: Any) -> Any:
        from tvm import te, tirx

        k = te.reduce_axis((0, prod(taps)), "k")

        def element(n: Any, p: Any, o: Any) -> Any:
            channel, *tap = digits(k, taps)
            places = zip(digits(p, across), taps[1:], tap, strict=True)
            value = x(n, channel, *(i * size + t for i, size, t in places))
            factor = panels[tirx.floordiv(o, lanes), k, tirx.floormod(o, lanes)]
            return te.sum(value.astype(total) * factor.astype(total), axis=k)

        return te.compute((x.shape[0], prod(across), out), element, name="tokens")

    result = emitter.cast(emitter.call_te(compute, emitter[op.x], panels, name="tokens"), dtype)
    return result if op.bias is None else applied(emitter, "add", dtype, result, emitter[op.bias])
