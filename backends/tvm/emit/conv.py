"""Convolutions as matrix products, so that the rule for products schedules them.

With x padded beforehand, k = (c, t) over the channels c of a group and the taps t of the kernel,
and p a position of the result:
    y[n, g, o, p] = Σ_k W[g, o, k]·x[n, g, c, p·stride + t·dilation]
W is read as it is, [O, K]. The columns of the product are either
- all positions, whose patches the kernel copies a few registers at a time (implicit im2col), or
- the positions of one line: nothing is copied, but the last register of each line is only partly
  used. With a stride s along lines the padded data holds the elements of a line that are s apart as
  neighbours, [.., s, ⌈extent/s⌉], so that neighbours in y always read neighbours.
"""

from math import prod
from typing import TYPE_CHECKING, Any

from ....graph import Op
from ....graph.ops import Conv
from ..machine import Machine
from .conv_geometry import Geometry, digits, forward, geometry_of, position_of
from .emission import Emission, computed
from .expressions import dtype_of, widened
from .movement import reshaped
from .pointwise import applied

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

USED = 0.74
"""Share of a line's lanes that must be used for lines to beat patches."""
SHORTEST = 4
"""Positions of the shortest line that has a register of its own."""


def conv(op: Op, machine: Machine) -> Emission | None:
    """Any convolution of floats whose padding is known."""
    if not isinstance(op, Conv) or op.padding is None or not op.output.is_float:
        return None
    shape = op.weight.shape
    if shape is None or not all(isinstance(extent, int) for extent in shape):
        return None
    if op.transposed and op.weight.constant is None:
        return None
    reads = computed(op.inputs)
    return Emission(op, reads, lambda emitter: [_convolved(emitter, op)])


def _convolved(emitter: "Emitter", op: Conv) -> "relax.Expr":
    dtype = emitter.dtype(op.output)
    x = emitter.cast(emitter[op.x], widened(dtype))
    assert op.weight.shape is not None
    shape = [extent for extent in op.weight.shape if isinstance(extent, int)]
    geometry = geometry_of(op, emitter.extents(x)[2:], shape)
    weight = _weight(emitter, op, geometry, dtype_of(x))
    lines = _by_lines(geometry, emitter.machine)

    phases = geometry.stride[-1] if lines else 1

    def compute(x: Any, weight: Any) -> Any:
        moved = geometry.is_padded or phases > 1
        data = _prepared(x, geometry, phases) if moved else x
        return _product(data, weight, geometry, lines=lines)

    result = emitter.cast(emitter.call_te(compute, x, weight, name="conv"), dtype)
    if op.bias is None:
        return result
    channels = geometry.out * geometry.groups
    row = reshaped(emitter, emitter[op.bias], [channels, *[1] * len(geometry.kernel)])
    return applied(emitter, "add", dtype, result, row)


def _weight(emitter: "Emitter", op: Conv, geometry: Geometry, dtype: str) -> "relax.Expr":
    """W as [O, K], in a type."""
    size = [geometry.out * geometry.groups, geometry.channels * prod(geometry.kernel)]
    if op.weight.constant is None:
        return emitter.cast(reshaped(emitter, emitter[op.weight], size), dtype)
    array = op.weight.array()
    plain = forward(array, geometry) if op.transposed else array
    return emitter.constant(plain.reshape(size).astype(dtype), op.weight.name)


def _by_lines(geometry: Geometry, machine: Machine) -> bool:
    """Whether the columns of the product are the positions of one line."""
    width = geometry.across[-1]
    if geometry.is_pointwise or not isinstance(width, int):
        return False
    if geometry.channels == 1:  # a copied element would be used for few products
        return width >= SHORTEST
    lanes = machine.lanes()
    return width >= lanes and width / (-(-width // lanes) * lanes) >= USED


def _prepared(x: Any, geometry: Geometry, phases: int) -> Any:
    """x with zeros around and between its elements, lines cut into `phases` [.., phase, place]."""
    from tvm import te, tirx

    def element(n: Any, c: Any, *at: Any) -> Any:
        if phases > 1:
            *lines, phase, place = at
            at = (*lines, place * phases + phase)
        inside, source = [], []
        for i, size, begin, gap in zip(at, x.shape[2:], geometry.begin, geometry.gap, strict=True):
            place = i - begin
            inside += [place >= 0, place <= (size - 1) * gap]
            if gap > 1:
                inside.append(tirx.floormod(place, gap) == 0)
            source.append(tirx.floordiv(place, gap))
        zero = tirx.const(0, str(x.dtype))
        return tirx.if_then_else(tirx.all(*inside), x(n, c, *source), zero)

    *lines, width = geometry.wide
    last = [width] if phases == 1 else [phases, (width + phases - 1) // phases]
    return te.compute((x.shape[0], x.shape[1], *lines, *last), element, name="prepared")


def _product(data: Any, weight: Any, geometry: Geometry, *, lines: bool) -> Any:
    """y from the prepared data [N, C, *wide] and W [O, K]."""
    from tvm import te, tirx

    phases = geometry.stride[-1] if lines else 1
    taps = (geometry.channels, *geometry.kernel)
    k = te.reduce_axis((0, prod(taps)), "k")
    around, columns = (
        (geometry.across[:-1], geometry.across[-1:]) if lines else ((), geometry.across)
    )

    def element(n: Any, g: Any, *rest: Any) -> Any:
        *before, o, p = rest
        place = [*before, *digits(p, columns)]
        channel, *tap = digits(k, taps)
        steps = zip(place, geometry.stride, tap, geometry.dilation, strict=True)
        at = [i * stride + t * dilation for i, stride, t, dilation in steps]
        if phases > 1:
            ahead = tap[-1] * geometry.dilation[-1]
            at[-1:] = [tirx.floormod(ahead, phases), p + tirx.floordiv(ahead, phases)]
        value = data(n, g * geometry.channels + channel, *at)
        return te.sum(weight[g * geometry.out + o, k] * value, axis=k)

    batch = data.shape[0]
    shape = (batch, geometry.groups, *around, geometry.out, prod(columns))
    sums = te.compute(shape, element, name="sums")

    def image(n: Any, channel: Any, *at: Any) -> Any:
        g, o = digits(channel, (geometry.groups, geometry.out))
        before, inside = at[: len(around)], at[len(around) :]
        return sums(n, g, *before, o, position_of(inside, columns))

    total = geometry.groups * geometry.out
    return te.compute((batch, total, *geometry.across), image, name="image")
