"""The rule for kernels without reductions against the kernel as it was."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from passel.backends.tvm.machine import machine_of
from passel.backends.tvm.schedules.elementwise import elementwise
from tests.backends.tvm.row_kernels import (
    MACHINES,
    PARALLEL,
    VECTOR,
    Case,
    case_difference,
    drawn,
    kernel,
    kinds,
    op,
    run,
    scheduled,
)

BOUND = 1e-6


def number(value: float) -> Any:
    from tvm import relax

    return relax.const(value, "float32")


def rotated(emit: Callable, x: Any, cosines: Any, sines: Any) -> Any:
    """Rotary embedding: x⊙c + (−x₂, x₁)⊙s."""
    second = emit(op().negative(emit(op().strided_slice(x, [3], [15], [30]))))
    first = emit(op().strided_slice(x, [3], [0], [15]))
    turned = emit(op().multiply(emit(op().concat([second, first], 3)), sines))
    return op().add(emit(op().multiply(x, cosines)), turned)


CASES: dict[str, Case] = {
    "gelu": (lambda emit, x: op().nn.gelu(x), ((97, 131),)),
    "gelu by tanh": (lambda emit, x: op().nn.gelu_tanh(x), ((5, 16),)),
    "silu": (lambda emit, x: op().nn.silu(x), ((3, 41),)),
    "add": (lambda emit, x, y: op().add(x, y), ((197, 383), (197, 383))),
    "bias and gelu": (
        lambda emit, x, b: op().nn.gelu(emit(op().add(x, b))),
        ((197, 100), (100,)),
    ),
    "column": (lambda emit, x, b: op().multiply(x, b), ((50, 40), (50, 1))),
    "heads to the front": (lambda emit, x: op().permute_dims(x, [1, 2, 0, 3]), ((19, 3, 6, 20),)),
    "keys transposed": (lambda emit, x: op().permute_dims(x, [0, 2, 3, 1]), ((1, 37, 6, 9),)),
    "joined along tokens": (lambda emit, x, y: op().concat([x, y], 1), ((2, 1, 33), (2, 8, 33))),
    "joined along the last axis": (lambda emit, x, y: op().concat([x, y], 1), ((5, 19), (5, 40))),
    "rotary": (rotated, ((1, 3, 7, 30), (7, 30), (7, 30))),
    "padded": (lambda emit, x: op().nn.pad(x, [0, 0, 2, 1, 3, 1]), ((2, 9, 21),)),
    "every second": (lambda emit, x: op().strided_slice(x, [1], [1], [40], [2]), ((6, 41),)),
    "chosen": (
        lambda emit, x, y: op().where(emit(op().less(x, number(0.2))), x, y),
        ((13, 20), (20,)),
    ),
    "cast": (lambda emit, x: op().astype(x, "int32"), ((13, 20),)),
    "one number": (lambda emit, x: op().exp(x), ((),)),
    "broadcast to more axes": (lambda emit, x: op().broadcast_to(x, (4, 5, 6)), ((6,),)),
}


@pytest.mark.parametrize("mcpu", MACHINES)
@pytest.mark.parametrize("case", CASES)
def test_like_the_kernel_as_it_was(case: str, mcpu: str) -> None:
    assert case_difference(elementwise, CASES[case], mcpu) < BOUND


@pytest.mark.parametrize("size", [1, 15, 600])
@pytest.mark.parametrize("second", [("n", 24), (24,)], ids=["flat", "by rows"])
def test_symbolic_extents(second: Any, size: int) -> None:
    case = (lambda emit, x, y: op().add(x, y), (("n", 24), second))
    assert case_difference(elementwise, case, "znver4", {"n": size}) == 0


def test_rows_by_index() -> None:
    machine = machine_of("znver4", 2)
    function = kernel(
        lambda emit, x, i: op().take(x, i, axis=0),
        (90, 33),
        (2, 11),
        dtypes=("float32", "int64"),
        machine=machine,
    )
    x, _ = drawn(function, {})
    index = np.random.default_rng(1).integers(0, 90, (2, 11))
    (got,) = run(scheduled(elementwise, function, machine), [x, index], machine)
    assert np.array_equal(got, x[index])


def test_a_condition_on_the_position_leaves_vectors_whole() -> None:
    """Pieces of the last axis are known apart when the code is made: no `if` is left in it."""
    machine = machine_of("znver4", 1)
    function = kernel(*_joined(), machine=machine)
    assert "if_then_else" in function.script()
    text = scheduled(elementwise, function, machine).script()
    assert "if_then_else" not in text
    assert "T.vectorized" in text


def _joined() -> tuple[Any, ...]:
    make, shapes = CASES["joined along the last axis"]
    return (make, *shapes)


def test_a_small_kernel_stays_on_one_thread() -> None:
    machine = machine_of("znver4", 2)
    for shape, parallel in (((10, 100), False), ((1000, 100), True)):
        function = kernel(lambda emit, x: op().exp(x), shape, machine=machine)
        found = kinds(scheduled(elementwise, function, machine))
        assert (PARALLEL in found) == parallel
        assert VECTOR in found


def test_leaves_reductions_alone() -> None:
    machine = machine_of("znver4", 2)
    function = kernel(lambda emit, x: op().sum(x, [1]), (10, 100), machine=machine)
    assert elementwise(function, machine) is None
