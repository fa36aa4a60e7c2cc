"""The rule for rows against the kernel as it was: softmax, norms, means, pooling."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passel.backends.tvm.machine import Machine, machine_of
from passel.backends.tvm.schedules.elementwise import elementwise
from passel.backends.tvm.schedules.row_plan import plan_of
from passel.backends.tvm.schedules.rows import rows
from tests.backends.tvm.row_kernels import (
    MACHINES,
    PARALLEL,
    Case,
    case_difference,
    difference,
    kernel,
    kinds,
    op,
    run,
    scheduled,
)

BOUND = 3e-6
"""Relative to the largest result: sums in another order, and exp by another way."""


def softmax(axis: int) -> Callable[..., Any]:
    return lambda emit, x: op().nn.softmax(x, axis)


def layer_norm(emit: Callable, x: Any, gain: Any, shift: Any) -> Any:
    return op().nn.layer_norm(x, gain, shift, axes=[-1], epsilon=1e-6)


def normed_then_gelu(emit: Callable, x: Any, gain: Any, shift: Any) -> Any:
    return op().nn.gelu(emit(layer_norm(emit, x, gain, shift)))


def scaled_softmax(emit: Callable, x: Any, scale: Any) -> Any:
    return op().multiply(emit(op().nn.softmax(x, -1)), scale)


def either(function: Any, machine: Machine) -> Any:
    """A reduction of single elements is none any more."""
    return rows(function, machine) or elementwise(function, machine)


CASES: dict[str, Case] = {
    "layer norm": (layer_norm, ((29, 384), (384,), (384,))),
    "layer norm of a prime width": (layer_norm, ((5, 383), (383,), (383,))),
    "layer norm of less than a vector": (layer_norm, ((7, 5), (5,), (5,))),
    "layer norm and gelu": (normed_then_gelu, ((197, 77), (77,), (77,))),
    "rms norm": (lambda emit, x, g: op().nn.rms_norm(x, g, axes=[-1]), ((33, 250), (250,))),
    "softmax": (softmax(-1), ((3, 50, 197),)),
    "softmax of one": (softmax(-1), ((4, 1),)),
    "softmax over the second axis": (softmax(1), ((2, 33, 70),)),
    "softmax over the second of equal axes": (softmax(1), ((2, 33, 33),)),
    "softmax over the first axis": (softmax(0), ((19, 6),)),
    "mean of the last axis": (lambda emit, x: op().mean(x, [-1]), ((6, 1001),)),
    "mean of tokens": (lambda emit, x: op().mean(x, [1]), ((2, 197, 77),)),
    "mean of tokens, axis kept": (lambda emit, x: op().mean(x, [1], True), ((1, 50, 384),)),
    "global average": (lambda emit, x: op().mean(x, [2, 3]), ((2, 24, 7, 7),)),
    "largest of all": (lambda emit, x: op().max(x), ((197, 51),)),
    "least": (lambda emit, x: op().min(x, [-1], True), ((9, 130),)),
    "product": (lambda emit, x: op().prod(x, [1]), ((8, 40),)),
    "variance": (lambda emit, x: op().variance(x, [1]), ((40, 50),)),
    "sum of integers": (
        lambda emit, x: op().sum(emit(op().astype(x, "int64")), [1]),
        ((40, 50),),
    ),
    "pooling": (lambda emit, x: op().nn.max_pool2d(x, [3, 3], [2, 2], [1, 1]), ((1, 8, 30, 41),)),
    "pooling by means": (lambda emit, x: op().nn.avg_pool2d(x, [2, 2], [2, 2]), ((1, 3, 28, 28),)),
    "norm over the second axis": (
        lambda emit, x, g: op().nn.layer_norm(x, g, g, axes=[1], epsilon=1e-6),
        ((2, 30, 9, 9), (30,)),
    ),
    "matrix by vector": (lambda emit, x, y: op().matmul(x, y), ((50, 67), (67,))),
}
DYNAMIC: dict[str, Case] = {
    "layer norm": (layer_norm, (("n", 384), (384,), (384,))),
    "softmax": (softmax(-1), ((3, "n", "n"),)),
    "scaled softmax": (scaled_softmax, ((2, "n", "n"), (1, "n"))),
    "mean of tokens": (lambda emit, x: op().mean(x, [1]), ((1, "n", 100),)),
    "sum of few": (lambda emit, x: op().sum(x, [0]), ((5, "n"),)),
}


@pytest.mark.parametrize("mcpu", MACHINES)
@pytest.mark.parametrize("case", CASES)
def test_like_the_kernel_as_it_was(case: str, mcpu: str) -> None:
    assert case_difference(either, CASES[case], mcpu) < BOUND


@pytest.mark.parametrize("size", [1, 15, 197])
@pytest.mark.parametrize("case", DYNAMIC)
def test_symbolic_extents(case: str, size: int) -> None:
    assert case_difference(either, DYNAMIC[case], "znver4", {"n": size}) < BOUND


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(count=st.integers(1, 40), width=st.integers(1, 150), axis=st.sampled_from([0, 1]))
def test_softmax_of_any_size(count: int, width: int, axis: int) -> None:
    machine = machine_of("haswell", 2)
    function = kernel(softmax(axis), (count, width), machine=machine)
    assert difference(either, function, machine) < BOUND


def test_softmax_of_what_is_masked_out() -> None:
    machine = machine_of("haswell", 1)
    function = kernel(softmax(-1), (3, 37), machine=machine)
    x = np.random.default_rng(0).standard_normal((3, 37)).astype(np.float32)
    x[0, 5:] = -np.inf
    x[1] = -np.inf
    x[2, 3] = np.nan
    (got,) = run(scheduled(rows, function, machine), [x], machine)
    assert np.array_equal(got[0, 5:], np.zeros(32, np.float32))
    assert abs(got[0].sum() - 1) < 1e-6
    assert np.isnan(got[1:]).all()


def test_a_small_kernel_stays_on_one_thread() -> None:
    machine = machine_of("znver4", 2)
    small = kernel(softmax(-1), (10, 100), machine=machine)
    large = kernel(softmax(-1), (1000, 100), machine=machine)
    assert PARALLEL not in kinds(scheduled(rows, small, machine))
    assert PARALLEL in kinds(scheduled(rows, large, machine))


def test_a_row_that_fits_a_vector_is_one_vector() -> None:
    """No single elements where the extent is known: what is left of a row is one narrow vector."""
    from tvm import tirx

    machine = machine_of("znver4", 1)
    function = kernel(softmax(-1), (10, 19), machine=machine)
    text = scheduled(rows, function, machine).script()
    assert "T.vectorized(T.int64(3))" in text
    assert int(tirx.ForKind.VECTORIZED) in kinds(scheduled(rows, function, machine))


@pytest.mark.parametrize("shapes", [((40, 50), (50, 60)), ((2, 8, 9), (2, 9, 10))], ids=str)
def test_leaves_products_alone(shapes: Any) -> None:
    machine = machine_of("znver4", 2)
    function = kernel(lambda emit, a, b: op().matmul(a, b), *shapes, machine=machine)
    assert rows(function, machine) is None


def test_a_softmax_reads_its_row_three_times() -> None:
    """max; exp with its sum; divide: dependences allow no fewer passes, and need no more."""
    machine = machine_of("znver4", 2)
    plan = plan_of(kernel(softmax(-1), (10, 100), machine=machine))
    assert plan is not None
    assert [len(part.stages) for part in plan.passes if part.columns] == [1, 2, 1]
