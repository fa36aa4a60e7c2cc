"""Number formats: what values a code stands for, and the scale that fits a range to them."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class Grid:
    """A format of codes: integers of some bits, or a small floating-point type.

    Attributes:
        name: "int8", "uint4", "int3", "float8_e4m3fn", "float4_e2m1fn", ...
        symmetric: the zero point is always 0 (of unsigned integers: the middle of the range).
    """

    name: str
    symmetric: bool = True

    def __post_init__(self) -> None:
        """Check the name."""
        if not self.is_float and self.name not in _INTEGERS:
            known = ", ".join([*_INTEGERS, *_FLOATS])
            raise ValueError(f"expected a number format of {known}, got {self.name!r}")

    @property
    def is_float(self) -> bool:
        return self.name in _FLOATS

    @property
    def bits(self) -> int:
        """Bits that one code needs (not what its storage takes)."""
        return _FLOATS[self.name] if self.is_float else int(self.name.lstrip("uint"))

    @property
    def signed(self) -> bool:
        return not self.name.startswith("uint")

    @property
    def low(self) -> float:
        """The smallest code; symmetric signed integers leave out −2^(bits−1)."""
        if self.is_float:
            return -self.high
        if not self.signed:
            return 0
        return -(2 ** (self.bits - 1)) + (1 if self.symmetric else 0)

    @property
    def high(self) -> float:
        """The largest code."""
        if self.is_float:
            return float(ml_dtypes.finfo(self.dtype).max)  # type: ignore[no-untyped-call]
        return 2 ** (self.bits - (1 if self.signed else 0)) - 1

    @property
    def dtype(self) -> np.dtype:
        """The narrowest dtype that holds the codes and that ONNX has."""
        if self.is_float:
            return np.dtype(getattr(ml_dtypes, self.name))
        width = next(width for width in (2, 4, 8, 16) if width >= self.bits)
        name = f"{'' if self.signed else 'u'}int{width}"
        return np.dtype(name if width >= 8 else getattr(ml_dtypes, name))

    @property
    def middle(self) -> int:
        """The zero point of a symmetric grid."""
        return 0 if self.signed else 2 ** (self.bits - 1)

    def fit(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(scale, zero point) in float64 for ranges [low, high], widened to hold 0.

        A range of zero gives scale 1, so that zeros stay zeros.
        """
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        if self.symmetric or self.is_float:
            reach = self.high - (self.middle if not self.is_float else 0)
            if reach <= 0:
                raise ValueError(f"expected a format with codes on both sides of 0, got {self}")
            scale = np.maximum(-low, high) / reach
            zero = np.full_like(scale, 0 if self.is_float else self.middle)
            return np.where(scale > 0, scale, 1.0), zero
        scale = (high - low) / (self.high - self.low)
        scale = np.where(scale > 0, scale, 1.0)
        return scale, np.clip(np.rint(self.low - low / scale), self.low, self.high)

    def encode(self, x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        """Codes in float64: nearest, half to even, saturated. Operands broadcast."""
        if self.is_float:
            bounded = np.clip(x / scale, self.low, self.high).astype(np.float32)
            return bounded.astype(self.dtype).astype(np.float64)
        return np.clip(np.rint(x / scale) + zero, self.low, self.high)


def settle(scale: np.ndarray) -> np.ndarray:
    """Scales as they will be stored: positive normal float32 numbers, held in float64."""
    bounded = np.clip(scale, float(FLOAT32.tiny), float(FLOAT32.max))
    return bounded.astype(np.float32).astype(np.float64)


FLOAT32 = np.finfo(np.float32)
_INTEGERS = (
    *(f"int{bits}" for bits in range(2, 9)),
    "int16",
    *(f"uint{bits}" for bits in range(1, 9)),
    "uint16",
)
_FLOATS = {"float8_e4m3fn": 8, "float8_e5m2": 8, "float4_e2m1fn": 4}
