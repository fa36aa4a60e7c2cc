"""Whether two forms of a kernel computed the same.

A schedule may change the order of a sum, nothing else. Integers must agree exactly, unless they
were rounded from floats; floats within what the order of a sum can do, relative to each element
and to the size of all: |Δ| ≤ t·(|y| + rms y), t = ε·max(32, 8·√n) for a sum of n terms and ε the
coarsest of the kernel's float types. A wrong index or a missing tail is off by about rms y.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from .kernel_inputs import numpy_dtype

if TYPE_CHECKING:
    import tvm

FLOOR, GROWTH = 32.0, 8.0
ROUNDED_SHARE, ROUNDED_ERROR = 0.005, 0.1
"""Where a kernel rounds floats to integers, a sum in another order may fall on the other side of a
half. So many of the elements may then be off by one step, or by so much where they are floats."""
ROUNDING = ("round", "nearbyint", "rint", "floor", "ceil", "trunc")


@dataclass(frozen=True)
class Allowed:
    """What two forms of a kernel may differ by.

    Attributes:
        tolerance: of floats, relative.
        rounds: whether the kernel rounds floats to integers.
    """

    tolerance: float
    rounds: bool


def allowed(function: "tvm.tirx.PrimFunc", terms: int) -> Allowed:
    """For a kernel whose longest sum has `terms` terms."""
    import tvm_ffi
    from tvm import ir, tirx

    found = {str(param.ty.dtype) for param in function.params}
    rounds: list[bool] = []

    def loaded(load: Any) -> None:
        found.add(str(load.ty.dtype))

    def call(node: Any) -> None:
        name = str(getattr(node.op, "name", ""))
        rounds.append(name.removeprefix("tirx.").startswith(ROUNDING))

    def cast(node: Any) -> None:
        rounds.append(_is_float(str(node.value.ty.dtype)) and not _is_float(str(node.ty.dtype)))

    tvm_ffi.structural_walk(
        function.body, [(ir.TensorLoad, loaded), (ir.Call, call), (tirx.Cast, cast)]
    )
    epsilon = max((_epsilon(dtype) for dtype in found if _is_float(dtype)), default=0.0)
    return Allowed(epsilon * max(FLOOR, GROWTH * math.sqrt(terms)), any(rounds))


def difference(
    plain: Sequence[np.ndarray], scheduled: Sequence[np.ndarray], limit: Allowed
) -> str | None:
    """How two results differ beyond what is allowed; None if they do not."""
    for position, (y, z) in enumerate(zip(plain, scheduled, strict=True)):
        wrong = _wrong_floats(y, z, limit) if _is_float(y.dtype.name) else _wrong(y, z, limit)
        if wrong:
            return f"{wrong} of {y.size} elements of result {position} differ"
    return None


def _wrong(y: np.ndarray, z: np.ndarray, limit: Allowed) -> int:
    """How many integers differ, 0 where the difference is allowed."""
    off = np.abs(y.astype(np.int64) - z.astype(np.int64))
    count = int(np.count_nonzero(off))
    if limit.rounds and off.max(initial=0) <= 1 and count <= ROUNDED_SHARE * y.size:
        return 0
    return count


def _wrong_floats(y: np.ndarray, z: np.ndarray, limit: Allowed) -> int:
    y, z = y.astype(np.float64), z.astype(np.float64)
    finite = np.isfinite(y) & np.isfinite(z)
    strange = int(np.count_nonzero(~finite & ~((y == z) | (np.isnan(y) & np.isnan(z)))))
    y, z = y[finite], z[finite]
    scale = np.abs(y) + math.sqrt(float(np.mean(y * y)) if y.size else 0.0)
    off = np.abs(y - z)
    count = int(np.count_nonzero(off > limit.tolerance * scale))
    if limit.rounds and count <= ROUNDED_SHARE * y.size and np.all(off <= ROUNDED_ERROR * scale):
        count = 0
    return strange + count


def _is_float(name: str) -> bool:
    return "float" in name


def _epsilon(name: str) -> float:
    return float(ml_dtypes.finfo(numpy_dtype(name)).eps)
