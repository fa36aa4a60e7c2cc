"""Torch tensors, dtypes and shapes as the view has them: numpy arrays, numpy dtypes, dims."""

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import torch

from .value import Constant, Shape

# numpy has no such types of its own; torch hands them out only as integers of the same width.
_EXTENSIONS: dict[torch.dtype, tuple[np.dtype, torch.dtype]] = {
    torch.bfloat16: (np.dtype(ml_dtypes.bfloat16), torch.int16),
    torch.float8_e4m3fn: (np.dtype(ml_dtypes.float8_e4m3fn), torch.int8),
    torch.float8_e4m3fnuz: (np.dtype(ml_dtypes.float8_e4m3fnuz), torch.int8),
    torch.float8_e5m2: (np.dtype(ml_dtypes.float8_e5m2), torch.int8),
    torch.float8_e5m2fnuz: (np.dtype(ml_dtypes.float8_e5m2fnuz), torch.int8),
}
_NATIVE: dict[torch.dtype, np.dtype] = {
    torch.bool: np.dtype(np.bool_),
    torch.uint8: np.dtype(np.uint8),
    torch.uint16: np.dtype(np.uint16),
    torch.uint32: np.dtype(np.uint32),
    torch.uint64: np.dtype(np.uint64),
    torch.int8: np.dtype(np.int8),
    torch.int16: np.dtype(np.int16),
    torch.int32: np.dtype(np.int32),
    torch.int64: np.dtype(np.int64),
    torch.float16: np.dtype(np.float16),
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.complex64: np.dtype(np.complex64),
    torch.complex128: np.dtype(np.complex128),
}
_TO_NUMPY = _NATIVE | {ours: theirs for ours, (theirs, _) in _EXTENSIONS.items()}
_TO_TORCH = {theirs: ours for ours, theirs in _TO_NUMPY.items()}


_CARRIERS = {
    np.dtype(ml_dtypes.int4): torch.int8,
    np.dtype(ml_dtypes.int2): torch.int8,
    np.dtype(ml_dtypes.uint4): torch.uint8,
    np.dtype(ml_dtypes.uint2): torch.uint8,
}
"""What holds the codes that torch has no arithmetic for."""


def numpy_dtype(dtype: torch.dtype) -> np.dtype | None:
    """The numpy dtype of a torch one; None where numpy and ml_dtypes have none."""
    return _TO_NUMPY.get(dtype)


def torch_dtype(dtype: np.dtype) -> torch.dtype:
    """The torch dtype of a numpy one."""
    return _TO_TORCH[np.dtype(dtype)]


def storage_dtype(dtype: np.dtype) -> torch.dtype:
    """The torch dtype that holds a numpy one: integers of less than a byte take a whole one.

    Raises:
        TypeError: torch has no such type.
    """
    dtype = np.dtype(dtype)
    found = _CARRIERS.get(dtype) or _TO_TORCH.get(dtype)
    if found is None:
        raise TypeError(f"expected an element type that torch has, got {dtype.name}")
    return found


def as_dtype(result: Any, dtype: torch.dtype) -> Any:
    """A result in this type; what is no tensor stays as it is."""
    return result.to(dtype) if isinstance(result, torch.Tensor) else result


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as an array over the same storage (a copy only when it lies on another device)."""
    tensor = tensor.detach().cpu()
    extension = _EXTENSIONS.get(tensor.dtype)
    if extension is None:
        return tensor.resolve_conj().resolve_neg().numpy()
    return tensor.view(extension[1]).numpy().view(extension[0])


def to_torch(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor over the same memory, unless its strides are beyond torch."""
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = np.ascontiguousarray(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype in _CARRIERS:
        array = array.astype(_NATIVE[_CARRIERS[array.dtype]])
    dtype = storage_dtype(array.dtype)
    with warnings.catch_warnings():
        # Nothing writes to what a view of the model hands out, so read-only memory is safe here.
        warnings.filterwarnings("ignore", message=".*not writable")
        if dtype not in _EXTENSIONS:
            return torch.from_numpy(array)
        carrier = _EXTENSIONS[dtype][1]
        return torch.from_numpy(array.view(_NATIVE[carrier])).view(dtype)


def constant_of(tensor: torch.Tensor) -> Constant | None:
    """A constant over the tensor's own storage; None for what numpy cannot hold."""
    dtype = numpy_dtype(tensor.dtype)
    if dtype is None or tensor.layout != torch.strided:
        return None

    def load() -> np.ndarray:
        array = to_numpy(tensor).view()
        array.flags.writeable = False
        return array

    return Constant(load, tuple(tensor.shape), dtype, source=tensor)


def shape_of(val: Any) -> Shape | None:
    """The shape of what a node computes; a number is a scalar, anything else has none."""
    if isinstance(val, torch.Tensor):
        return tuple(_dim(extent) for extent in val.shape)
    return () if _is_number(val) else None


def dtype_of(val: Any) -> np.dtype | None:
    """The element type of what a node computes."""
    if isinstance(val, torch.Tensor):
        return numpy_dtype(val.dtype)
    if isinstance(val, bool | torch.SymBool):
        return np.dtype(np.bool_)
    if isinstance(val, float | torch.SymFloat):
        return np.dtype(np.float64)
    return np.dtype(np.int64) if _is_number(val) else None


def signature_of(val: Any) -> Any:
    """What must agree for two values to be interchangeable to an operator: a comparable key."""
    if isinstance(val, torch.Tensor):
        strides = () if val.layout != torch.strided else tuple(map(_dim, val.stride()))
        return shape_of(val), strides, val.dtype, val.device
    if isinstance(val, list | tuple):
        return tuple(signature_of(item) for item in val)
    return _dim(val) if _is_number(val) else None


def _is_number(val: Any) -> bool:
    return isinstance(val, int | float | torch.SymInt | torch.SymFloat | torch.SymBool)


def _dim(extent: Any) -> Any:
    if isinstance(extent, torch.SymInt | torch.SymFloat | torch.SymBool):
        expression = extent.node.expr
        if expression.is_number:
            return int(expression) if isinstance(extent, torch.SymInt) else float(expression)
        return str(expression)
    return extent
