"""ATen operators outside the vocabulary that work element by element, reduce, norm or pool."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .activations import activated
from .expressions import align, dtype_of, pointwise
from .movement import reshaped
from .norms import normed
from .opaque import Call, aten
from .pointwise import applied, casted
from .pooling import pooled, pooled_to
from .reductions import reduced

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

INFINITY = float("inf")


def _simple(name: str, *parameters: Any) -> None:
    """A function of "self", and of arguments by name or numbers."""

    @aten(f"{name}.default")
    def rule(emitter: "Emitter", call: Call) -> "relax.Expr":
        numbers = [call[p] if isinstance(p, str) else p for p in parameters]
        return activated(emitter, name, call.tensor("self", call.dtype), *map(float, numbers))


for _name in "floor ceil trunc sign log1p expm1 exp2 log2 log10 mish hardswish".split():
    _simple(_name)
for _name in "tan asin acos atan sinh cosh asinh acosh atanh".split():
    _simple(_name)
_simple("leaky_relu", "negative_slope")
_simple("softplus", "beta", "threshold")
_simple("hardsigmoid", 1 / 6, 0.5)
_simple("celu", "alpha")


@aten("elu.default", when=lambda call: call["scale"] == call["input_scale"] == 1)
def _elu(emitter: "Emitter", call: Call) -> "relax.Expr":
    return activated(emitter, "elu", call.tensor("self"), float(call["alpha"]))


@aten("round.default")
def _round(emitter: "Emitter", call: Call) -> "relax.Expr":
    return activated(emitter, "round", call.tensor("self"))


@aten(
    "clamp.default", "clamp_min.default", "clamp_max.default", "hardtanh.default", "relu6.default"
)
def _clamp(emitter: "Emitter", call: Call) -> "relax.Expr":
    low, high = call.get("min"), call.get("max")
    if "hardtanh" in call.op.kind:
        low, high = call["min_val"], call["max_val"]
    if "relu6" in call.op.kind:
        low, high = 0, 6
    x = call.tensor("self", call.dtype)
    for bound, fn in ((low, "maximum"), (high, "minimum")):
        if bound is not None:
            x = applied(emitter, fn, call.dtype, x, call.expression(bound, call.dtype))
    return x


@aten("clamp.Tensor", "clamp_min.Tensor", "clamp_max.Tensor")
def _clamp_tensor(emitter: "Emitter", call: Call) -> "relax.Expr":
    return _clamp(emitter, call)


@aten("ne.Scalar", "ne.Tensor")
def _not_equal(emitter: "Emitter", call: Call) -> "relax.Expr":
    from tvm import relax

    x = call.tensor("self")
    return emitter.emit(relax.op.not_equal(*align(emitter, x, call.tensor("other", dtype_of(x)))))


@aten(
    *(
        f"{fn}.{kind}"
        for fn in ("add", "sub", "rsub", "mul", "div")
        for kind in ("Tensor", "Scalar")
    ),
    *(f"{fn}.{kind}" for fn in ("maximum", "minimum") for kind in ("default",)),
    when=lambda call: call.get("rounding_mode") is None,
)
def _arithmetic(emitter: "Emitter", call: Call) -> "relax.Expr":
    """With a factor on the second operand, or with an operand that is made of extents."""
    fn, dtype = call.op.kind.split(".")[1], call.dtype
    a, b = call.tensor("self", dtype), call.tensor("other", dtype)
    if call.get("alpha") not in (None, 1):
        b = applied(emitter, "mul", dtype, b, call.expression(call["alpha"], dtype))
    return (
        applied(emitter, "sub", dtype, b, a) if fn == "rsub" else applied(emitter, fn, dtype, a, b)
    )


@aten("floor_divide.default", "div.Tensor_mode", "div.Scalar_mode")
def _divide(emitter: "Emitter", call: Call) -> "relax.Expr":
    from tvm import relax, tirx

    dtype = call.dtype
    a, b = call.tensor("self", dtype), call.tensor("other", dtype)
    down = call.get("rounding_mode") in ("floor", None)
    if np.dtype(dtype).kind in "iu":
        return pointwise(emitter, "divide", tirx.floordiv if down else tirx.truncdiv, a, b)
    ratio = emitter.emit(relax.op.divide(*align(emitter, a, b)))
    return activated(emitter, "floor" if down else "trunc", ratio)


@aten("remainder.Tensor", "remainder.Scalar")
def _remainder(emitter: "Emitter", call: Call) -> "relax.Expr":
    from tvm import tirx

    dtype = call.dtype
    a, b = call.tensor("self", dtype), call.tensor("other", dtype)
    if np.dtype(dtype).kind in "iu":
        return pointwise(emitter, "remainder", tirx.floormod, a, b)
    return pointwise(emitter, "remainder", lambda x, y: x - tirx.floor(x / y) * y, a, b)


@aten(
    "logical_and.default",
    "logical_or.default",
    "logical_xor.default",
    "bitwise_xor.Tensor",
    when=lambda call: call.op.output.dtype == np.bool_,
)
def _logical(emitter: "Emitter", call: Call) -> "relax.Expr":
    from tvm import relax

    name = call.op.kind.split(".")[1].replace("bitwise", "logical")
    operands = [casted(emitter, call.tensor(key), "bool") for key in ("self", "other")]
    return emitter.emit(getattr(relax.op, name)(*align(emitter, *operands)))


@aten("isinf.default")
def _isinf(emitter: "Emitter", call: Call) -> "relax.Expr":
    from tvm import relax

    return emitter.emit(relax.op.isinf(call.tensor("self")))


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
    from tvm import relax

    wide = emitter.cast(call.tensor("self"), "float64" if call.dtype == "float64" else "float32")
    return emitter.cast(emitter.emit(relax.op.nn.log_softmax(wide, call.axis())), call.dtype)


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


def group_normed(
    emitter: "Emitter",
    x: "relax.Expr",
    groups: int,
    eps: float,
    scale: "relax.Expr | None",
    shift: "relax.Expr | None",
) -> "relax.Expr":
    """A layer norm over each group of channels and all positions; gain and shift per channel."""
    shape, dtype = emitter.extents(x), dtype_of(x)
    rest = emitter.dims.simple(emitter.dims.product(shape[1:]) // groups)
    found = normed(
        emitter, "layer", reshaped(emitter, x, [shape[0], groups, rest]), 1, eps, None, None, dtype
    )
    result = reshaped(emitter, found, shape)
    for part, fn in ((scale, "mul"), (shift, "add")):
        if part is not None:
            row = reshaped(emitter, part, [shape[1], *[1] * (len(shape) - 2)])
            result = applied(emitter, fn, dtype, result, row)
    return result


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
