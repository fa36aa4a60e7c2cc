"""Numbers of 8 bits with a fraction, taken apart and put together bit by bit.

TVM's own casts of them are wrong for 0 and below the smallest normal number, and within a kernel
they round nothing. Both formats are read by way of float16, of which they are a part: float8_e5m2
is its upper byte; float8_e4m3fn has an exponent of 4 bits, so as a float16 it is 2⁸ times too
small.
"""

from typing import Any

import ml_dtypes
import numpy as np

FORMATS = ("float8_e4m3fn", "float8_e5m2")
BIAS = 256.0
"""What a float8_e4m3fn is multiplied by when its bits are read as those of a float16."""


def is_float8(dtype: str) -> bool:
    """Whether numbers of this type need this module.

    Raises:
        ValueError: no format that can be computed with.
    """
    if not dtype.startswith(("float8_", "float6_", "float4_")):
        return False
    if dtype not in FORMATS:
        raise ValueError(f"expected {' or '.join(FORMATS)}, got {dtype}")
    return True


def decoded(code: Any, dtype: str) -> Any:
    """A number as float32, from an element of a tensor of such numbers."""
    from tvm import tirx

    bits = tirx.reinterpret("uint8", code).astype("uint16")
    if dtype == "float8_e5m2":
        wide = bits << tirx.const(8, "uint16")
        return tirx.reinterpret("float16", wide).astype("float32")
    size = bits & tirx.const(0x7F, "uint16")
    sign = (bits & tirx.const(0x80, "uint16")) << tirx.const(8, "uint16")
    half = tirx.reinterpret("float16", sign | (size << tirx.const(7, "uint16")))
    number = half.astype("float32") * tirx.const(BIAS, "float32")
    nan = tirx.const(float("nan"), "float32")
    return tirx.Select(size.equal(tirx.const(0x7F, "uint16")), nan, number)


def encoded(x: Any, dtype: str, wide: str) -> Any:
    """An element of a tensor of such numbers, from a number in `wide` within their range."""
    from tvm import tirx

    number = _rounded(x, np.dtype(getattr(ml_dtypes, dtype)), wide).astype("float32")
    if dtype == "float8_e5m2":
        bits = tirx.reinterpret("uint16", number.astype("float16"))
        return tirx.reinterpret(dtype, (bits >> tirx.const(8, "uint16")).astype("uint8"))
    half = (number / tirx.const(BIAS, "float32")).astype("float16")
    bits = tirx.reinterpret("uint16", half)
    sign = (bits >> tirx.const(8, "uint16")) & tirx.const(0x80, "uint16")
    size = (bits & tirx.const(0x7FFF, "uint16")) >> tirx.const(7, "uint16")
    size = tirx.Select(tirx.isnan(number), tirx.const(0x7F, "uint16"), size)
    return tirx.reinterpret(dtype, (sign | size).astype("uint8"))


def _rounded(x: Any, codes: np.dtype, wide: str) -> Any:
    """The nearest number of a narrow format, ties to even, in a wide one.

    With m bits of mantissa the last kept bit of x's own is rounded; below the smallest normal
    number the steps are all alike.
    """
    from tvm import tirx

    info, kind = ml_dtypes.finfo(codes), wide.replace("float", "int")
    dropped = {"float32": 23, "float64": 52}[wide] - info.nmant
    bits = tirx.reinterpret(kind, x)
    odd = (bits >> tirx.const(dropped, kind)) & tirx.const(1, kind)
    nearest = bits + tirx.const((1 << (dropped - 1)) - 1, kind) + odd
    kept = nearest & tirx.const(-(1 << dropped), kind)
    step = tirx.const(float(info.smallest_subnormal), wide)
    small = tirx.abs(x) < tirx.const(float(info.smallest_normal), wide)
    rounded = tirx.Select(small, tirx.nearbyint(x / step) * step, tirx.reinterpret(wide, kept))
    return tirx.Select(tirx.isnan(x), x, rounded)
