"""What the ops of quant_ops.py compute, in numpy: the meaning that both views are held to."""

import ml_dtypes
import numpy as np

FLOAT32 = np.dtype(np.float32)


def quantized(
    x: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray | None,
    dtype: np.dtype,
    axis: int | None = None,
    block: int = 0,
    *,
    saturates: bool = True,
) -> np.ndarray:
    """Codes of x, in x's shape: saturate(round(x/scale) + zero_point), ties to even.

    The quotient is taken in float32, or in the type of x or scale where that is wider. Integers
    always saturate; float formats may do without.
    """
    wide = np.result_type(_wide(x), _wide(scale))
    ratio = x.astype(wide) / spread(scale.astype(wide), x.shape, axis, block)
    low, high = limits(dtype)
    if is_integer(dtype):
        ratio = np.rint(ratio)
    if zero_point is not None:
        ratio = ratio + spread(zero_point.astype(wide), x.shape, axis, block)
    clipped = np.clip(ratio, low, high) if saturates or is_integer(dtype) else ratio
    return (clipped.astype(np.int32) if is_integer(dtype) else clipped).astype(dtype)


def dequantized(
    codes: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray | None,
    dtype: np.dtype,
    axis: int | None = None,
    block: int = 0,
) -> np.ndarray:
    """(codes − zero_point)·scale in `dtype`, rounded once."""
    centred = codes.astype(np.float64)
    if zero_point is not None:
        centred -= spread(zero_point.astype(np.float64), codes.shape, axis, block)
    return (centred * spread(scale.astype(np.float64), codes.shape, axis, block)).astype(dtype)


def dynamically_quantized(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 codes of x, their float32 scale () and uint8 zero point ()."""
    low = np.minimum(x.min(initial=0.0), 0).astype(np.float32)
    high = np.maximum(x.max(initial=0.0), 0).astype(np.float32)
    scale = np.float32(1.0 if low == high else high - low) / np.float32(255)
    zero_point = np.asarray(np.clip(np.rint(-low / scale), 0, 255).astype(np.uint8))
    codes = quantized(x, np.asarray(scale), zero_point, np.dtype(np.uint8))
    return codes, np.asarray(scale), zero_point


def spread(
    grid: np.ndarray, shape: tuple[int, ...], axis: int | None, block: int = 0
) -> np.ndarray:
    """Scales or zero points as an array that broadcasts to `shape`."""
    if grid.size == 1 or axis is None:
        return grid.reshape(())
    if not block:
        return grid.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    index = [slice(shape[axis]) if k == axis else slice(None) for k in range(len(shape))]
    return np.repeat(grid, block, axis)[tuple(index)]


def is_integer(dtype: np.dtype) -> bool:
    """Whether codes of this type are whole numbers."""
    return dtype.kind in "iu" or dtype.name in ("int2", "uint2", "int4", "uint4")


def limits(dtype: np.dtype) -> tuple[float, float]:
    """The smallest and largest finite code."""
    info = (ml_dtypes.iinfo if is_integer(dtype) else ml_dtypes.finfo)(dtype)
    return float(info.min), float(info.max)


def _wide(array: np.ndarray) -> np.dtype:
    return FLOAT32 if array.dtype.itemsize < 4 else array.dtype
