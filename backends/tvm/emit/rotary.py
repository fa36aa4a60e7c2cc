"""Rotary position embedding as ONNX has it from opset 23 on: one kernel.

Pairs of features are turned by an angle of their position: (a, b) becomes (a·cos − b·sin,
a·sin + b·cos). A pair is (k, k + r/2) of the first r features, or (2k, 2k + 1) if interleaved; the
features beyond r stay as they are. The angles of a batch of one serve every batch.
"""

from typing import TYPE_CHECKING, Any

from .expressions import read, widened
from .indexing import inside
from .movement import reshaped
from .opaque import Node, node

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


@node("RotaryEmbedding")
def _rotary(emitter: "Emitter", node: Node) -> "relax.Expr":
    """X is [B, H, S, D], or [B, S, H·D] with the number of heads as an attribute."""
    x = node.x()
    before = emitter.extents(x)
    flat = len(before) == 3
    if flat:
        heads = node.attr_int("num_heads", 0)
        width = emitter.dims.simple(before[2] // heads)
        x = reshaped(emitter, x, [before[0], before[1], heads, width])
    operands = [x, node.x(1), node.x(2), *([node.x(3)] if node.given(3) else [])]
    result = _turned(emitter, node, operands, token_axis=1 if flat else 2)
    return reshaped(emitter, result, before) if flat else result


def _turned(
    emitter: "Emitter", node: Node, operands: "list[relax.Expr]", token_axis: int
) -> "relax.Expr":
    """The kernel over [B, .., D], the tokens on `token_axis`."""
    from tvm import te, tirx

    shape = emitter.extents(operands[0])
    width = shape[-1]
    turned = node.attr_int("rotary_embedding_dim", 0) or width
    if not isinstance(turned, int):
        raise ValueError("expected the heads to have a known width")
    half, interleaved = turned // 2, bool(node.attr_int("interleaved", 0))
    rows = emitter.extents(operands[1])[0]
    wide = widened(node.dtype)

    def compute(data: Any, cosines: Any, sines: Any, *positions: Any) -> Any:
        def element(*i: Any) -> Any:
            d, batch, token = i[-1], i[0], i[token_axis]
            pair = d // 2 if interleaved else tirx.floormod(d, half)
            leads = tirx.floormod(d, 2).equal(0) if interleaved else d < half
            first = 2 * pair if interleaved else pair
            second = first + (1 if interleaved else half)
            a, b = (data(*i[:-1], place).astype(wide) for place in (first, second))
            place = [inside(positions[0](batch, token), rows)] if positions else [batch, token]
            cosine, sine = (read(t, [*place, pair]).astype(wide) for t in (cosines, sines))
            made = tirx.Select(leads, a * cosine - b * sine, a * sine + b * cosine)
            return made.astype(node.dtype)

        def whole(*i: Any) -> Any:
            if turned == width:
                return element(*i)
            return tirx.if_then_else(i[-1] < turned, element(*i), data(*i))

        return te.compute(shape, whole, name="rotary")

    return emitter.call_te(compute, *operands, name="rotary")
