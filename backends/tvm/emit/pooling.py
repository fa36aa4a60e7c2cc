"""How pooling is spelled: Relax's own operators."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .expressions import dtype_of, widened

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


def pooled(
    emitter: "Emitter",
    x: "relax.Expr",
    kind: str,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    dilation: Sequence[int] = (),
    ceil: bool = False,
    counts_padding: bool = False,
) -> "relax.Expr":
    """The largest ("max") or mean ("avg") entry of each window over the axes from the third on."""
    from tvm import relax

    spatial, dtype = len(kernel), dtype_of(x)
    operator: Any = getattr(relax.op.nn, f"{kind}_pool{spatial}d")
    extra = {"count_include_pad": counts_padding} if kind == "avg" else {}
    call = operator(
        emitter.cast(x, widened(dtype)),
        pool_size=list(kernel),
        strides=list(stride),
        padding=[low for low, _ in padding] + [high for _, high in padding],
        dilation=list(dilation) or [1] * spatial,
        ceil_mode=ceil,
        **extra,
    )
    return emitter.cast(emitter.emit(call), dtype)


def pooled_to(emitter: "Emitter", x: "relax.Expr", sizes: Sequence[int]) -> "relax.Expr":
    """Means over windows that divide each axis from the third on as evenly as can be."""
    from tvm import relax

    dtype = dtype_of(x)
    wide = emitter.cast(x, widened(dtype))
    operator: Any = getattr(relax.op.nn, f"adaptive_avg_pool{len(sizes)}d")
    return emitter.cast(emitter.emit(operator(wide, output_size=list(sizes))), dtype)
