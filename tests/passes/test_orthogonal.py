"""The rotations' matrices: orthogonal, true Hadamard matrices where one is known, and fast."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.orthogonal import Rotation, hadamard, random_rotation, rotation

WIDTHS = (192, 384, 576, 768, 1152, 1536, 2048, 2560, 3072, 4096, 5120)
MIXED = (3, 5, 23, 52, 92, 255, 767)
"""Widths without a Hadamard matrix, or without one that is known here."""


def matrix(made: Rotation) -> np.ndarray:
    return made.project(np.eye(made.width))


@pytest.mark.parametrize("width", WIDTHS)
def test_every_factor_of_a_models_width_is_hadamard(width: int) -> None:
    """Exact, and enough: Kronecker products of Hadamard matrices are Hadamard matrices."""
    factors = rotation(width, width, 0).factors
    assert np.prod([len(factor) for factor in factors]) == width
    for factor in factors:
        assert set(np.unique(factor)) <= {-1.0, 1.0}
        np.testing.assert_array_equal(factor @ factor.T, len(factor) * np.eye(len(factor)))


@pytest.mark.parametrize("width", [2, 4, 12, 20, 28, 36, 40, 44, *WIDTHS[:5]])
def test_a_hadamard_rotation_is_orthogonal_with_entries_of_one_size(width: int) -> None:
    found = matrix(rotation(width, width, 0))
    assert np.abs(found @ found.T - np.eye(width)).max() <= 1e-12
    np.testing.assert_allclose(np.abs(found), width**-0.5, rtol=1e-12)


@pytest.mark.parametrize("width", MIXED)
def test_where_no_hadamard_matrix_is_known_a_dct_mixes(width: int) -> None:
    assert hadamard(width) is None
    found = matrix(rotation(width, width, 0))
    assert np.abs(found @ found.T - np.eye(width)).max() <= 1e-12
    assert np.abs(found).max() <= (2 / width) ** 0.5 * (1 + 1e-12)


def test_known_orders() -> None:
    """A Hadamard matrix has order 1, 2 or a multiple of 4."""
    known = {n for n in range(1, 201) if hadamard(n) is not None}
    assert known <= {1, 2, *range(4, 201, 4)}
    assert {*range(4, 201, 4)} - known == {52, 92, 100, 116, 156, 172, 184, 188}


@pytest.mark.parametrize("width", [2, 8, 64, 128, 1024])
def test_powers_of_two_are_sylvesters(width: int) -> None:
    made = rotation(width, width, 3)
    wanted = made.signs[:, None] * scipy.linalg.hadamard(width) / width**0.5
    np.testing.assert_allclose(matrix(made), wanted, rtol=1e-14)


@given(
    st.lists(st.integers(1, 4), max_size=3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 9)
)
def test_project_is_the_product_written_out(
    orders: list[int], blocks: int, count: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    factors = tuple(generator.normal(size=(n, n)) for n in orders)
    whole = np.eye(blocks)
    for factor in factors:
        whole = np.kron(whole, factor)
    signs = generator.choice([-1.0, 1.0], len(whole))
    rows = generator.normal(size=(count, 2, len(whole)))
    found = Rotation(signs, factors, 0.5).project(rows)
    np.testing.assert_allclose(found, rows @ (0.5 * signs[:, None] * whole), atol=1e-12)


@pytest.mark.parametrize(("width", "block"), [(256, 128), (24, 12), (36, 4)])
def test_blocks(width: int, block: int) -> None:
    found = matrix(rotation(width, block, 0)).reshape(width // block, block, -1, block)
    for k in range(width // block):
        np.testing.assert_allclose(np.abs(found[k, :, k]), block**-0.5, rtol=1e-12)
        found[k, :, k] = 0
    assert not found.any()


@pytest.mark.parametrize("width", [5, 64])
def test_a_random_rotation_is_orthogonal(width: int) -> None:
    found = matrix(random_rotation(width, 0))
    assert np.abs(found @ found.T - np.eye(width)).max() <= 1e-12
    assert np.abs(found).max() > 1.5 * width**-0.5 / (1 + (width == 5))


@pytest.mark.parametrize(
    "make", [lambda seed: rotation(48, 48, seed), lambda s: random_rotation(9, s)]
)
def test_seeds(make) -> None:
    first = matrix(make(0))
    rotation.cache_clear()
    random_rotation.cache_clear()
    np.testing.assert_array_equal(matrix(make(0)), first)
    assert np.abs(matrix(make(1)) - first).max() > 0.1


def test_signs_keep_equal_numbers_from_meeting_in_one() -> None:
    spread = rotation(768, 768, 0).project(np.ones((1, 768)))
    assert np.abs(spread).max() < 5
