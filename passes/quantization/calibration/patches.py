"""The patches that a convolution multiplies its weight with, as rows.

Why: y[n, :, p] = W·x_p with W [O, C·taps] and x_p the patch at output position p, channels outer
and taps inner, so a convolution is a linear layer over its patches. Only the chosen positions are
copied: the memory is budget·C·taps, never the whole unfolded tensor.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ....graph.ops import Conv


def patches(x: np.ndarray, op: Conv, *, budget: int = 1024, seed: int = 0) -> np.ndarray:
    """[min(budget, N·P), C·taps] rows of x [N, C, *spatial], P the number of output positions.

    Which positions depends on `seed` and the shapes only.

    Raises:
        ValueError: channel groups, a transposed convolution, or a kernel of unknown shape.
    """
    if op.groups != 1 or op.transposed:
        raise ValueError(
            f"expected a convolution of one group, got groups={op.groups}, "
            f"transposed={op.transposed} at {op.name!r}"
        )
    kernel = kernel_of(op)
    windows = _windows(x, op, kernel)  # [N, C, *positions, *kernel]
    rank = len(kernel)
    places = (windows.shape[0], *windows.shape[2 : 2 + rank])
    total = int(np.prod(places))
    chosen = np.arange(total)
    if total > budget:
        chosen = np.sort(np.random.default_rng(seed).choice(total, budget, replace=False))
    image, *position = np.unravel_index(chosen, places)
    taken = np.moveaxis(windows, 1, 1 + rank)[(image, *position)]  # [rows, C, *kernel]
    return np.ascontiguousarray(taken.reshape(len(chosen), -1))


def kernel_of(op: Conv) -> tuple[int, ...]:
    """The extents of the kernel, one a spatial axis."""
    shape = op.weight.shape
    if shape is None or not all(isinstance(extent, int) for extent in shape[2:]):
        raise ValueError(f"expected a kernel of known shape, got {shape} at {op.name!r}")
    return tuple(int(extent) for extent in shape[2:])


def _windows(x: np.ndarray, op: Conv, kernel: tuple[int, ...]) -> np.ndarray:
    """Views of all patches, [N, C, *positions, *kernel]."""
    rank = len(kernel)
    stride, dilation = op.stride or (1,) * rank, op.dilation or (1,) * rank
    span = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    padding = op.padding if op.padding is not None else _same(x.shape[2:], stride, span)
    padded = np.pad(x, [(0, 0), (0, 0), *(padding or ((0, 0),) * rank)])
    windows = sliding_window_view(padded, span, axis=tuple(range(2, 2 + rank)))
    picked = [slice(None), slice(None), *(slice(None, None, s) for s in stride)]
    return windows[(*picked, *(slice(None, None, d) for d in dilation))]


def _same(
    sizes: tuple[int, ...], stride: tuple[int, ...], span: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """Zeros for ⌈size/stride⌉ outputs, the odd one at the end (auto_pad SAME_UPPER)."""
    short = [
        max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in zip(sizes, stride, span, strict=True)
    ]
    return tuple((n // 2, n - n // 2) for n in short)
