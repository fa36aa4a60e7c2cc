"""The algebra of the bases, in float64, against matrices written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from passel.passes import basis
from passel.passes.basis import DropLast, Helmert, Recentred, along

BOUND = 1e-12
EPS = 1e-5


def rows(smallest: int = 2) -> st.SearchStrategy[np.ndarray]:
    """Some vectors of some width, small and large numbers mixed."""
    shapes = st.tuples(st.integers(1, 4), st.integers(smallest, 40))
    numbers = st.floats(-1e3, 1e3, allow_subnormal=False)
    return shapes.flatmap(lambda shape: arrays.arrays(np.float64, shape, elements=numbers))


def close(a: np.ndarray, b: np.ndarray, size: np.ndarray | float = 0.0) -> bool:
    """|a − b| ≤ 1e-12 · the largest number involved."""
    peak = max(1.0, float(np.abs(b).max(initial=0)), float(np.abs(size).max(initial=0)))
    return a.shape == b.shape and bool(np.abs(a - b).max(initial=0) <= BOUND * peak)


def centred(x: np.ndarray) -> np.ndarray:
    return x - x.mean(axis=-1, keepdims=True)


def layer_norm(x: np.ndarray, eps: float = EPS) -> np.ndarray:
    return centred(x) / np.sqrt(x.var(axis=-1, keepdims=True) + eps)


def rms_norm(x: np.ndarray, eps: float = EPS) -> np.ndarray:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)


def crms_norm(z: np.ndarray, eps: float = EPS) -> np.ndarray:
    """arXiv:2305.14858, §3.3: the divisor is the original width, one more than z's."""
    total = (z * z).sum(axis=-1, keepdims=True) + z.sum(axis=-1, keepdims=True) ** 2
    return z / np.sqrt(total / (z.shape[-1] + 1) + eps)


@given(rows(1))
def test_recentred_is_the_projection(x: np.ndarray) -> None:
    width = x.shape[-1]
    matrix = np.eye(width) - np.ones((width, width)) / width
    once = Recentred().project(x)
    assert close(once, x @ matrix.T, x)
    assert close(once.mean(axis=-1), np.zeros(len(x)))
    assert close(Recentred().project(once), once)


@given(rows(1), st.floats(-1e6, 1e6))
def test_recentred_maps_what_is_flat_to_zero(x: np.ndarray, offset: float) -> None:
    shifted = Recentred().project(x + offset)
    assert close(shifted, Recentred().project(x), offset)
    spread = np.abs(shifted).mean(axis=-1)
    # Relative to what is left, not to the offset: this is what compress later relies on.
    assert (np.abs(shifted.mean(axis=-1)) <= 1e-15 * spread + 1e-300).all()


@given(rows())
def test_layer_norm_is_the_rms_norm_of_what_is_recentred(x: np.ndarray) -> None:
    assert close(layer_norm(x), rms_norm(Recentred().project(x)), x)


@given(st.integers(2, 64))
def test_helmert_columns_are_a_basis_of_the_zero_mean_vectors(width: int) -> None:
    transposed = Helmert().project(np.eye(width)).T  # Qᵀ [d − 1, d]
    assert transposed.shape == (width - 1, width)
    assert close(transposed @ transposed.T, np.eye(width - 1))
    assert close(transposed @ np.ones(width), np.zeros(width - 1))
    recentring = np.eye(width) - np.ones((width, width)) / width
    assert close(transposed.T @ transposed, recentring)


@given(rows())
def test_helmert_is_an_isometry_and_its_running_sum_is_the_product(x: np.ndarray) -> None:
    zero_mean = centred(x)
    mapped = Helmert().project(zero_mean)
    transposed = Helmert().project(np.eye(x.shape[-1])).T
    assert close(mapped, zero_mean @ transposed.T, x)
    assert close(np.linalg.norm(mapped, axis=-1), np.linalg.norm(zero_mean, axis=-1), x)
    assert close(Helmert().project(x), mapped, x)  # Qᵀ(I − 11ᵀ/d) = Qᵀ


def read(basis: Helmert | DropLast, normed: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return normed @ basis.read_columns(weight).T


@given(rows(), st.integers(0, 2**32 - 1))
def test_isometric_form(x: np.ndarray, seed: int) -> None:
    """A reader of RMSNorm(x) is one of an ordinary RMSNorm over d − 1, with ε·d/(d−1)."""
    width = x.shape[-1]
    weight = np.random.default_rng(seed).normal(size=(3, width))
    z = Helmert().project(centred(x))
    wanted = rms_norm(centred(x)) @ weight.T
    assert close(read(Helmert(), rms_norm(z, EPS * width / (width - 1)), weight), wanted, x)


@given(rows(), st.integers(0, 2**32 - 1))
def test_paper_form(x: np.ndarray, seed: int) -> None:
    """CRMSNorm of the first d − 1 coordinates is the RMSNorm of all d."""
    weight = np.random.default_rng(seed).normal(size=(3, x.shape[-1]))
    z = DropLast().project(centred(x))
    assert close(crms_norm(z), rms_norm(centred(x))[..., :-1], x)
    assert close(read(DropLast(), crms_norm(z), weight), rms_norm(centred(x)) @ weight.T, x)


def test_a_wrong_divisor_is_seen() -> None:
    """The bound above is tight: dividing by d − 1 in place of d breaks the paper's identity."""
    x = centred(np.random.default_rng(0).normal(size=(2, 9)))
    z = x[..., :-1]
    wrong = z / np.sqrt(((z * z).sum(-1, keepdims=True) + z.sum(-1, keepdims=True) ** 2) / 8 + EPS)
    assert not close(wrong, rms_norm(x)[..., :-1])


MAPS = {
    "recentred": (Recentred(), lambda d: np.eye(d) - np.ones((d, d)) / d),
    "helmert": (Helmert(), lambda d: Helmert().project(np.eye(d)).T),
    "drop last": (DropLast(), lambda d: np.eye(d)[:-1]),
}


@pytest.mark.parametrize("block", [1, 200, 1 << 24])
@pytest.mark.parametrize("shape", [(7,), (3, 7), (7, 3), (2, 3, 7), (7, 2, 3), (3, 4, 5, 2)])
@pytest.mark.parametrize("name", MAPS)
def test_along_every_axis_and_by_blocks(
    name: str, shape: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(basis, "BLOCK_BYTES", block)
    array = np.random.default_rng(0).normal(size=shape)
    kind, matrix = MAPS[name]
    for axis, width in enumerate(shape):
        wanted = np.moveaxis(np.tensordot(matrix(width), array, (1, axis)), 0, axis)
        found = along(array, axis, kind.project)
        assert close(found, wanted)
        assert found.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_along_rounds_once(dtype: type) -> None:
    array = np.random.default_rng(0).normal(100, 1, size=(5, 6)).astype(dtype)
    found = along(array, 0, Recentred().project)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, centred(array.astype(np.float64).T).T.astype(dtype))
