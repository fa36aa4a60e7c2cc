"""Low-rank compensation: the rounding error's main directions, kept beside the codes.

Rewrite: y = Ŵ·x  ->  y = Ŵ·x + A·(B·x), A [O, r], B [r, I], E = T − Ŵ ≈ A·B.
Why: with H = E[x·xᵀ] the output's squared error is tr(E·H·Eᵀ) = ‖E·H^½‖², and the best matrix of
rank r for it is the truncated SVD of E·H^½ = U·Σ·Vᵀ with H^½ taken off again: U_r·Σ_r·V_rᵀ·H^−½ =
U_r·U_rᵀ·E. So only U is needed, the eigenvectors of E·H·Eᵀ, and no inverse. It removes Σ_{i≤r} σ_i²
of the error and each rank's share is known beforehand.
Exactness: never increases the error; exact at r = rank(E) up to float32.
Legality: any stage before it; a correction that is there already is kept, and the ranks add up.
Effect: 32·(O + I)·r bits as float32 (int8 factors would do for a quarter), two thin products at run
time. Errors of independent weights have no main direction: rank 8 holds 11 % of a 256×256 int4
error, what codes of 0.08 more bits would. So a rank that holds less than `LEAST_GAIN` of the error
is left off, all are where they hold under `LEAST_TOTAL`, and a note gives the numbers to choose by:
as a rule, a rank is worth it where it removes a larger share than 1 − 4^−b, b being the bits it
adds for each weight.
References: Yao et al. 2023, ZeroQuant-V2, arXiv:2303.08302.
"""

import numpy as np
from scipy.linalg import LinAlgError, cholesky, eigh

from ..layer import LayerData
from ..rounded import Format, Rounded
from .checks import finite_weight
from .rtn import rtn

LEAST_GAIN = 1e-3
LEAST_TOTAL = 1e-2


def lorc(
    layer: LayerData, wanted: Format, start: Rounded | None = None, *, parameter: int = 8
) -> Rounded:
    """`start` (round to nearest where there is none) and a correction of rank ≤ `parameter`."""
    if parameter < 1:
        raise ValueError(f"lorc expected a rank of at least 1, got {parameter}")
    finite_weight(layer)
    start = start or rtn(layer, wanted)
    error = layer.target() - start.dense()
    vectors, shares = main_directions(error, damped(layer.second), parameter)
    rank = int((shares >= LEAST_GAIN).sum())
    removed = float(shares[:rank].sum())
    if removed < LEAST_TOTAL:
        held = 100 * float(shares.sum())
        note = f"lorc: skipped, rank {len(shares)} holds {held:.2g} % of the error"
        return start.but("lorc", notes=(*start.notes, note))
    left, right = balanced(vectors[:, :rank], vectors[:, :rank].T @ error)
    added = 32 * (left.size + right.size) / error.size
    gain = f"rank {rank} removes {100 * removed:.3g} % of the error for {added:.3g} bits a weight"
    if start.left is not None and start.right is not None:
        left = np.concatenate([start.left.astype(np.float32), left], axis=1)
        right = np.concatenate([start.right.astype(np.float32), right], axis=0)
    return start.but("lorc", left=left, right=right, notes=(*start.notes, f"lorc: {gain}"))


def damped(second: np.ndarray | None) -> np.ndarray | None:
    """H with 10⁻⁶ of its mean diagonal added, so that directions never seen count a little."""
    if second is None:
        return None
    width = len(second)
    mean = float(np.trace(second)) / width
    damped: np.ndarray = second + (1e-6 * mean if mean > 0 else 1.0) * np.eye(width)
    return damped


def main_directions(
    error: np.ndarray, second: np.ndarray | None, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(U [O, r], shares [r]): left singular vectors of E·H^½ and σ²/Σσ², largest first.

    r ≤ count; directions of σ = 0 are left out. Works on the smaller of [O, O] and [I, I].
    """
    wide = error.shape[0] <= error.shape[1]
    if wide:
        gram = (error if second is None else error @ second) @ error.T
    else:
        scaled = error if second is None else error @ square_root(second)
        gram = scaled.T @ scaled
    power = float(np.trace(gram))
    if not power > 0:
        return np.zeros((len(error), 0)), np.zeros(0)
    size = len(gram)
    values, vectors = eigh(gram, subset_by_index=(max(size - count, 0), size - 1))
    kept = values[::-1] > 1e-14 * values[-1]
    values, vectors = values[::-1][kept], vectors[:, ::-1][:, kept]
    return vectors if wide else scaled @ vectors / np.sqrt(values), values / power


def square_root(second: np.ndarray) -> np.ndarray:
    """S with S·Sᵀ = H: Cholesky's, or of eigenvalues, negative ones as 0, if H has such."""
    try:
        factor: np.ndarray = cholesky(second, lower=True)
    except LinAlgError:
        values, vectors = eigh(second)
        factor = vectors * np.sqrt(np.maximum(values, 0.0))
    return factor


def balanced(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same product with each rank's two factors of equal norm, float32."""
    norms = np.sqrt(np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=1))
    lefts, rights = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
    left = left * (norms / np.where(lefts > 0, lefts, 1.0))
    right = right * (norms / np.where(rights > 0, rights, 1.0))[:, None]
    return left.astype(np.float32), right.astype(np.float32)
