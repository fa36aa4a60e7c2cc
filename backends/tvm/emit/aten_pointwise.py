"""ATen operators outside the vocabulary that work element by element."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .activations import activated
from .expressions import align, dtype_of, pointwise
from .opaque import Call, aten
from .pointwise import applied, casted, compared

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
    x = call.tensor("self")
    return compared(emitter, "not_equal", x, call.tensor("other", dtype_of(x)))


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
