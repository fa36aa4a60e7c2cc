"""The functions on vectors against float64, over everything that a float32 can be."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import erf, expit

from passel.backends.tvm.machine import Machine, machine_of
from passel.backends.tvm.schedules.vector_math import expand
from tests.backends.tvm.row_kernels import run

ULPS = 6
"""Units in the last place."""
POWERS = (3.0, 2.0, 0.5, -0.5, -1.0)
EXACT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp,
    "erf": erf,
    "tanh": np.tanh,
    "sigmoid": expit,
}


def everything() -> np.ndarray:
    """Every exponent and both signs, a fine grid where the functions bend, and what is special."""
    bits = np.random.default_rng(0).integers(0, 1 << 32, 60_000, dtype=np.uint64)
    some = bits.astype(np.uint32).view(np.float32)
    some = np.where(np.isnan(some), np.float32(np.nan), some)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 88.8, 89.5, -103.9])
    found = np.concatenate([some, np.linspace(-110, 95, 40_000), special]).astype(np.float32)
    return np.resize(found, len(found) // 64 * 64 + 64)


def applied(make: Callable, x: np.ndarray, machine: Machine, lanes: int, dtype: str) -> np.ndarray:
    """A function in vectors."""
    from tvm import s_tir, te

    a = te.placeholder(x.shape, dtype, "a")
    result = te.compute(x.shape, lambda i: make(a[i]), name="y")
    schedule = s_tir.Schedule(te.create_prim_func([a, result]))
    (loop,) = schedule.get_loops("y")
    _, inner = schedule.split(loop, [None, lanes])
    schedule.vectorize(inner)
    return run(expand(schedule.mod["main"]), [x], machine)[0]


def agree(got: np.ndarray, exact: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    assert np.array_equal(np.isnan(got), np.isnan(rounded))
    infinite = np.isinf(rounded)
    assert np.array_equal(got[infinite], rounded[infinite])
    finite = np.isfinite(rounded)
    unit = np.spacing(np.abs(rounded[finite])).astype(np.float64)
    assert (np.abs(got[finite].astype(np.float64) - exact[finite]) / unit).max() <= ULPS


@pytest.mark.parametrize("lanes", [1, 8, 16])
@pytest.mark.parametrize("name", EXACT)
def test_close_to_exact_everywhere(name: str, lanes: int, machine: Machine) -> None:
    from tvm import tirx

    x = everything()
    got = applied(getattr(tirx, name), x, machine, lanes, "float32")
    with np.errstate(all="ignore"):
        agree(got, EXACT[name](x.astype(np.float64)))


def test_without_avx512() -> None:
    from tvm import tirx

    x = everything()
    got = applied(tirx.exp, x, machine_of("haswell", 1), 8, "float32")
    with np.errstate(all="ignore"):
        agree(got, np.exp(x.astype(np.float64)))


@pytest.mark.parametrize("power", POWERS)
def test_powers(power: float, machine: Machine) -> None:
    from tvm import tirx

    x = everything()
    got = applied(lambda e: tirx.pow(e, tirx.const(power, "float32")), x, machine, 16, "float32")
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), np.full(x.shape, power))
        tiny = np.abs(exact) < 1e-37  # products of denormals round before the end
        agree(np.where(tiny, 0, got), np.where(tiny, 0, exact))


def test_isnan(machine: Machine) -> None:
    from tvm import tirx

    x = everything()

    def mark(e: object) -> object:
        return tirx.Select(tirx.isnan(e), tirx.const(1, "float32"), tirx.const(0, "float32"))

    assert np.array_equal(applied(mark, x, machine, 16, "float32"), np.isnan(x))


def test_a_branch_that_is_not_taken_reads_nothing(machine: Machine) -> None:
    """exp of an element behind the end stands in a branch that only other lanes take."""
    from tvm import te, tirx

    a = te.placeholder((5,), "float32", "a")
    result = te.compute(
        (8,), lambda i: tirx.if_then_else(i < 5, tirx.exp(a[i]), tirx.const(0, "float32"))
    )
    x = np.arange(5, dtype=np.float32)
    (got,) = run(expand(te.create_prim_func([a, result])), [x], machine)
    assert np.allclose(got, [*np.exp(x), 0, 0, 0], rtol=1e-6)


def test_other_types_keep_the_library() -> None:
    from tvm import te, tirx

    a = te.placeholder((4,), "float64", "a")
    function = te.create_prim_func([a, te.compute((4,), lambda i: tirx.exp(a[i]))])
    assert "passel" not in expand(function).script()
    b = te.placeholder((4,), "float32", "b")
    other = te.create_prim_func([b, te.compute((4,), lambda i: tirx.exp(b[i]))])
    assert "passel.exp" in expand(other).script()
