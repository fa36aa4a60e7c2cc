"""The matmul rule against the kernel as it was, on shapes that do not fit tiles."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backends.tvm.product_kernels import (
    F32,
    MACHINES,
    dense,
    difference,
    machine,
    packed,
)

SHAPES = [
    (1, 1, 1),
    (1, 50, 64),
    (2, 10, 31),
    (4, 129, 5),
    (13, 96, 16),
    (29, 64, 2),
    (197, 211, 67),
]


@pytest.mark.parametrize("mcpu", MACHINES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dense(shape: tuple[int, int, int], mcpu: str) -> None:
    assert difference(dense(*shape), mcpu) < F32


@pytest.mark.parametrize("mcpu", MACHINES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packed_weight_and_epilogue(shape: tuple[int, int, int], mcpu: str) -> None:
    lanes = machine(mcpu).lanes()
    assert difference(packed(*shape, lanes), mcpu) < F32


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(m=st.integers(1, 40), n=st.integers(1, 140), k=st.integers(1, 40), batch=st.integers(1, 3))
def test_any_extents(m: int, n: int, k: int, batch: int) -> None:
    assert difference(dense(m, n, k, batch=(batch,)), "znver4") < F32
