"""Memory as TVM's kernels take it: contiguous, and on a boundary of 64 bytes.

Kernels are compiled with loads that assume that boundary, so data elsewhere is copied first; what
already lies on one (torch's own allocations, most maps of files) is shared.
"""

import numpy as np
import torch

from ...graph.fx_tensor import to_numpy, to_torch

BOUNDARY = 64
"""Bytes."""


def aligned_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if kernels can read it where it is, else a copy; never with a gradient."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    if plain.device.type != "cpu" or (plain.is_contiguous() and not plain.data_ptr() % BOUNDARY):
        return plain
    return copied(plain)


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy on a boundary, made by this thread alone.

    A large one made by torch would wake its workers; they look for work for milliseconds after, on
    the processors that TVM's workers need.
    """
    return to_torch(copy_of(to_numpy(tensor)))


def aligned_array(array: np.ndarray) -> np.ndarray:
    """The same for an array."""
    array = np.ascontiguousarray(array).reshape(array.shape)  # which would make 0-d ones 1-d
    return array if on_boundary(array) else copy_of(array)


def on_boundary(array: np.ndarray) -> bool:
    """Whether the array starts on a boundary; one without elements starts anywhere."""
    return array.size == 0 or array.ctypes.data % BOUNDARY == 0


def copy_of(array: np.ndarray) -> np.ndarray:
    """A copy on a boundary."""
    buffer = np.empty(array.nbytes + BOUNDARY, np.uint8)
    start = -buffer.ctypes.data % BOUNDARY
    copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    np.copyto(copy, array)
    return copy


def keep_aligned(arrays: list[np.ndarray]) -> None:
    """Move arrays to boundaries where they are not on one, one at a time."""
    for index, array in enumerate(arrays):
        arrays[index] = aligned_array(array)
