"""ATen operators outside the vocabulary that work element by element."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .activations import TRIGONOMETRIC, activated
from .expressions import align, dtype_of, pointwise
from .opaque import Call, Test, aten
from .pointwise import applied, compared, connected

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


def _simple(name: str, *parameters: Any, when: Test = lambda call: True) -> None:
    """A function of "self", and of arguments by name or numbers."""

    @aten(f"{name}.default", when=when)
    def rule(emitter: "Emitter", call: Call) -> "relax.Expr":
        numbers = [call[p] if isinstance(p, str) else p for p in parameters]
        return activated(emitter, name, call.tensor("self", call.dtype), *map(float, numbers))


for _name in "floor ceil round trunc sign log1p expm1 exp2 log2 log10 mish hardswish".split():
    _simple(_name)
for _name in TRIGONOMETRIC:
    _simple(_name)
_simple("leaky_relu", "negative_slope")
_simple("softplus", "beta", "threshold")
_simple("hardsigmoid", 1 / 6, 0.5)
_simple("celu", "alpha")
_simple("elu", "alpha", when=lambda call: call["scale"] == call["input_scale"] == 1)


@aten(
    *(f"clamp{side}.{kind}" for side in ("", "_min", "_max") for kind in ("default", "Tensor")),
    "hardtanh.default",
    "relu6.default",
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
    "maximum.default",
    "minimum.default",
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
    fn = call.op.kind.split(".")[1].split("_")[1]
    return connected(emitter, fn, call.tensor("self"), call.tensor("other"))


@aten("isinf.default")
def _isinf(emitter: "Emitter", call: Call) -> "relax.Expr":
    from tvm import relax

    return emitter.emit(relax.op.isinf(call.tensor("self")))
