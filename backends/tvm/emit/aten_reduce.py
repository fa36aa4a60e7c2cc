"""ATen operators outside the vocabulary that reduce, norm or pool."""

from typing import TYPE_CHECKING, Any

from .norms import group_normed
from .opaque import Call, aten
from .pointwise import applied, casted
from .pooling import pooled, pooled_to
from .reductions import normalised, reduced

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


@aten("any.default", "any.dim", "any.dims", "all.default", "all.dim", "all.dims")
def _any(emitter: "Emitter", call: Call) -> "relax.Expr":
    truth = emitter.cast(casted(emitter, call.tensor("self"), "bool"), "int8")
    fn = "max" if "any" in call.op.kind else "min"
    found = reduced(emitter, fn, truth, _axes(call), keepdims=_keeps(call), dtype="int8")
    return casted(emitter, found, "bool")


@aten("sum.dim_IntList", "sum.default", "mean.dim", "mean.default", "prod.dim_int", "prod.default")
def _reduction(emitter: "Emitter", call: Call) -> "relax.Expr":
    fn, x = call.op.kind.split(".")[1], call.tensor("self", call.dtype)
    return reduced(emitter, fn, x, _axes(call), keepdims=_keeps(call), dtype=call.dtype)


def _divides(call: Call) -> bool:
    return call.get("correction") in (None, 0, 1)


@aten("std.default", "std.dim", "std.correction", when=_divides)
def _std(emitter: "Emitter", call: Call) -> "relax.Expr":
    correction = call.get("correction")
    unbiased = call.get("unbiased") in (True, None) if correction is None else correction == 1
    fn, x = "var_unbiased" if unbiased else "var", call.tensor("self")
    found = reduced(emitter, fn, x, _axes(call), keepdims=_keeps(call), dtype=call.dtype)
    return applied(emitter, "sqrt", call.dtype, found)


@aten("linalg_vector_norm.default", when=lambda call: call["ord"] == 2)
def _vector_norm(emitter: "Emitter", call: Call) -> "relax.Expr":
    dtype = call.dtype
    x = call.tensor("self", dtype)
    square = applied(emitter, "mul", dtype, x, x)
    total = reduced(emitter, "sum", square, _axes(call), keepdims=_keeps(call), dtype=dtype)
    return applied(emitter, "sqrt", dtype, total)


def _axes(call: Call) -> tuple[int, ...]:
    """The axes of a reduction; all where none are named."""
    found, rank = call.get("dim"), call["self"].rank or 0
    axes = range(rank) if found in (None, []) else [found] if isinstance(found, int) else found
    return tuple(sorted(axis % rank for axis in axes)) if rank else ()


def _keeps(call: Call) -> bool:
    return bool(call.get("keepdim"))


@aten("log_softmax.int", "_log_softmax.default")
def _log_softmax(emitter: "Emitter", call: Call) -> "relax.Expr":
    return normalised(emitter, call.tensor("self"), call.axis(), call.dtype, "log_softmax")


@aten("group_norm.default")
def _group_norm(emitter: "Emitter", call: Call) -> "relax.Expr":
    scale, shift = (call.get(name) for name in ("weight", "bias"))
    return group_normed(
        emitter,
        call.tensor("input"),
        call["num_groups"],
        call["eps"],
        None if scale is None else emitter[scale],
        None if shift is None else emitter[shift],
    )


def _spread(found: Any, count: int) -> list[int]:
    """A list argument; torch lets one entry stand for all axes."""
    numbers = [found] if isinstance(found, int) else list(found)
    return numbers * count if len(numbers) == 1 else numbers


@aten(
    *(f"{kind}_pool{n}d.default" for kind in ("max", "avg") for n in (1, 2, 3)),
    *(f"max_pool{n}d_with_indices.default" for n in (2, 3)),
    when=lambda call: call.get("divisor_override") is None,
)
def _pool(emitter: "Emitter", call: Call) -> "relax.Expr":
    name = call.op.kind.split(".")[1]
    count = int(name.split("pool")[1][0])
    kernel = _spread(call["kernel_size"], count)
    pads = _spread(call["padding"], count)
    return pooled(
        emitter,
        call.tensor("self"),
        name[:3],
        kernel,
        _spread(call["stride"] or kernel, count),
        [(p, p) for p in pads],
        dilation=_spread(call.get("dilation") or [1], count),
        ceil=bool(call["ceil_mode"]),
        counts_padding=bool(call.get("count_include_pad")),
    )


@aten(*(f"adaptive_avg_pool{n}d.default" for n in (1, 2, 3)))
def _adaptive(emitter: "Emitter", call: Call) -> "relax.Expr":
    x, sizes = call.tensor("self"), call["output_size"]
    if all(size == 1 for size in sizes):
        axes = tuple(range(len(emitter.extents(x)) - len(sizes), len(emitter.extents(x))))
        return reduced(emitter, "mean", x, axes, keepdims=True, dtype=call.dtype)
    return pooled_to(emitter, x, sizes)
