"""Orthogonal matrices as Kronecker products of small factors: Hadamard matrices, and what is near.

A Hadamard matrix H has entries ±1 and H·Hᵀ = n·I, so H/√n spreads every unit vector evenly over all
n coordinates. Known here: 2^k (Sylvester 1867), q + 1 and 2(q + 1) for a prime q (Paley 1933, I for
q ≡ 3 and II for q ≡ 1 mod 4), and products of those. 12, 20, 28, 36, 44, .. times a power of 2 make
the widths of most models. Of any other width d = m·n, with n the largest known order that divides
it, the Kronecker product of an orthonormal DCT of size m and H_n is taken: entries up to √(2/d).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
import scipy.linalg

from ..graph import Graph, Value
from .explicit import insert_product, width_of

MAX_FACTOR = 64
"""Order of the largest Sylvester factor: H_{2^k} is applied as a product of such ones."""

Factors = tuple[np.ndarray, ...]
"""Square float64 matrices F_1, F_2, ..; they stand for F_1 ⊗ F_2 ⊗ .."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """x -> x·Q for row vectors x [d], with Q = diag(signs)·(I ⊗ F_1 ⊗ F_2 ⊗ ..)·scale orthogonal.

    The signs come first: without them a vector of equal numbers would become one large number.

    Attributes:
        signs: ±1, float64 [d].
        factors: their orders multiply to a divisor of d; the rest is the identity in front.
        scale: what makes the product orthonormal.
    """

    signs: np.ndarray
    factors: Factors
    scale: float = 1.0

    @property
    def width(self) -> int:
        return len(self.signs)

    def project(self, rows: np.ndarray) -> np.ndarray:
        """x·Q for every row of float64 [..., d]: O(d·Σ orders) a row."""
        mixed: np.ndarray = rows * (self.signs * self.scale)
        after = 1  # product of the orders behind the current factor
        for factor in reversed(self.factors):
            parts = mixed.reshape(-1, len(factor), after)
            mixed = parts[..., 0] @ factor if after == 1 else factor.T @ parts
            after *= len(factor)
        return mixed.reshape(rows.shape)

    def read_columns(self, rows: np.ndarray) -> np.ndarray:
        """W·Q for the columns W [..., d] of a reader: ‖x·Q‖ = ‖x‖, so norms stay as they are."""
        return self.project(rows)

    def insert(self, graph: Graph, value: Value, axis: int) -> Value:
        """Compute the rotation of `value` along `axis` in the graph, by a Linear."""
        transposed = self.project(np.eye(width_of(value, axis))).T
        return insert_product(graph, value, axis, transposed, ("rotation", "stream_rotated"))


@lru_cache(maxsize=8)
def rotation(width: int, block: int, seed: int) -> Rotation:
    """A Hadamard rotation within neighbouring blocks of the features, its signs drawn by `seed`.

    `block` has to divide `width`. Where no Hadamard matrix of order `block` is known, a mixture
    with a DCT serves; see the module docstring.
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], width)
    order = next(n for n in range(block, 0, -1) if block % n == 0 and hadamard(n) is not None)
    factors = hadamard(order) or ()
    mixing = (_dct(block // order),) if order < block else ()
    return Rotation(signs, (*mixing, *factors), order**-0.5)


@lru_cache(maxsize=2)
def random_rotation(width: int, seed: int) -> Rotation:
    """A uniformly random orthogonal matrix, by QR of normal numbers: O(d²) a vector."""
    normal = np.random.default_rng(seed).normal(size=(width, width))
    q, r = np.linalg.qr(normal)
    return Rotation(np.ones(width), (q * np.sign(np.diag(r)),))


def hadamard(order: int) -> Factors | None:
    """Factors with entries ±1 of a Hadamard matrix of this order, or None if none is known here."""
    powers = (order & -order).bit_length() - 1
    odd = order >> powers
    if odd == 1:
        return _sylvester(powers)
    for k in range(2, powers + 1):
        base = _paley(odd << k)
        if base is not None:
            return (base, *_sylvester(powers - k))
    return None


def _sylvester(powers: int) -> Factors:
    """H_{2^powers} as factors of at most MAX_FACTOR."""
    largest = MAX_FACTOR.bit_length() - 1
    parts = [largest] * (powers // largest) + [powers % largest]
    return tuple(scipy.linalg.hadamard(2**k).astype(np.float64) for k in parts if k)


def _paley(order: int) -> np.ndarray | None:
    """A Hadamard matrix of order q + 1 or 2(q + 1), or None where q is no prime."""
    if _is_prime(order - 1) and order % 4 == 0:
        return np.eye(order) + _conference(order - 1, -1.0)
    half = order // 2
    if order % 4 or half % 4 != 2 or not _is_prime(half - 1):
        return None
    conference = _conference(half - 1, 1.0)
    doubled: np.ndarray = np.kron(conference, [[1.0, 1.0], [1.0, -1.0]])
    return doubled + np.kron(np.eye(half), [[1.0, -1.0], [-1.0, -1.0]])


def _conference(prime: int, sign: float) -> np.ndarray:
    """C [q + 1, q + 1] with zeros on the diagonal, ±1 elsewhere, C·Cᵀ = q·I and Cᵀ = sign·C."""
    residues = np.arange(prime)
    character = np.full(prime, -1.0)
    character[residues * residues % prime] = 1.0
    character[0] = 0.0
    matrix = np.ones((prime + 1, prime + 1))
    matrix[0, 0] = 0.0
    matrix[1:, 0] = sign
    matrix[1:, 1:] = character[(residues[:, None] - residues) % prime]
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % k for k in range(2, int(number**0.5) + 1))


def _dct(size: int) -> np.ndarray:
    """The orthonormal DCT-II, [size, size] float64."""
    matrix: np.ndarray = scipy.fft.dct(np.eye(size), norm="ortho")
    return matrix
