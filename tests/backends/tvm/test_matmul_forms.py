"""The matmul rule on products in other forms: types, open extents, moved or computed operands."""

import pytest

from tests.backends.tvm.product_kernels import (
    F32,
    MACHINES,
    apart,
    compiled,
    computed,
    dense,
    difference,
    heads,
    image,
    machine,
    packed,
    repeated,
    turned,
)


@pytest.mark.parametrize("mcpu", MACHINES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 3), (19, 40, 64), (33, 48, 10)], ids=str)
def test_transposed_operand(shape: tuple[int, int, int], mcpu: str) -> None:
    assert difference(turned(*shape), mcpu) < F32


@pytest.mark.parametrize("mcpu", MACHINES)
@pytest.mark.parametrize(
    ("dtype", "total", "bound"),
    [
        ("float64", "float64", 1e-14),
        ("float16", "float32", F32),
        ("float16", "float16", 1e-2),
        ("int32", "int32", 1e-14),
    ],
)
def test_types(dtype: str, total: str, bound: float, mcpu: str) -> None:
    lanes = machine(mcpu).lanes(64 if total == "float64" else 32)
    assert difference(packed(11, 45, 23, lanes, dtype, total), mcpu) < bound


def test_sums_of_float16_are_kept_in_float32() -> None:
    import numpy as np
    import tvm

    _, tiled = compiled(dense(3, 16, 4096, "float16"), "znver4")
    a, b, c = (np.ones(shape, np.float16) for shape in ((3, 4096), (4096, 16), (3, 16)))
    arguments = [tvm.runtime.tensor(array) for array in (a, b, c)]
    tiled(*arguments)
    assert (arguments[-1].numpy() == 4096).all()  # float16 itself cannot count beyond 2048


@pytest.mark.parametrize("mcpu", MACHINES)
def test_rows_known_at_run_time(mcpu: str) -> None:
    from tvm import tirx

    rows = tirx.Var("rows", "int32")
    function = packed(rows, 50, 12, machine(mcpu).lanes())
    plain, tiled = compiled(function, mcpu)
    for count in (1, 2, 3, 4, 5, 7, 8, 9, 64, 197):
        assert apart(function, plain, tiled, {"rows": count}) < F32


def test_everything_known_at_run_time() -> None:
    from tvm import tirx

    m, n, k, batch = (tirx.Var(name, "int32") for name in ("m", "n", "k", "batch"))
    function = turned(m, n, k, batch)
    plain, tiled = compiled(function, "znver4")
    for sizes in ((1, 1, 1, 1), (5, 17, 3, 2), (9, 64, 20, 3), (33, 15, 8, 1)):
        named = dict(zip(("m", "n", "k", "batch"), sizes, strict=True))
        assert apart(function, plain, tiled, named) < F32


@pytest.mark.parametrize("mcpu", MACHINES)
def test_moves_before_and_after_are_part_of_the_nest(mcpu: str) -> None:
    from passel.backends.tvm.schedules.matmul_match import product_of

    function = heads(21, 3, 16, 64)
    product = product_of(function)
    assert product is not None
    assert (product.before, product.after, product.buffers) == ((), (), ())
    assert difference(function, mcpu) < F32


def test_parts_that_do_not_make_up_the_sum_are_copied() -> None:
    assert difference(heads(21, 3, 16, 64, less=6), "znver4") < F32


@pytest.mark.parametrize("mcpu", MACHINES)
@pytest.mark.parametrize("case", [(9, 5, 7, 3, 1), (8, 4, 20, 3, 2), (14, 3, 33, 2, 2)], ids=str)
def test_patches_of_an_image(case: tuple[int, int, int, int, int], mcpu: str) -> None:
    assert difference(image(*case), mcpu) < F32


@pytest.mark.parametrize("function", [repeated, computed])
def test_what_is_no_part_of_the_nest_runs_around_it(function: object) -> None:
    assert difference(function(18, 40, 9), "znver4") < F32


@pytest.mark.parametrize("name", ["argsort", "scatter_elements", "cumsum"])
def test_a_kernel_that_the_library_writes_is_left_alone(name: str) -> None:
    """It has no block "root" around its own; that is no failure of the rule."""
    import tvm
    from tvm import te, topi

    from passel.backends.tvm.schedules import schedule

    x, places = te.placeholder((4, 9), name="x"), te.placeholder((4, 9), "int64", "places")
    rest = {"scatter_elements": [places, x]}.get(name, [])
    function = te.create_prim_func([x, *rest[:1], getattr(topi, name)(x, *rest)])
    module = tvm.IRModule({name: function.with_attr("global_symbol", name)})
    found = schedule(module, machine("znver4"))
    assert (found.failed, found.serial) == ({}, [name])


def test_other_kernels_are_left_alone() -> None:
    from tvm import te

    from passel.backends.tvm.schedules.matmul import matmul

    x = te.placeholder((8, 8), name="x")
    r = te.reduce_axis((0, 8), "k")
    total = te.compute((8,), lambda i: te.sum(x[i, r], axis=r), name="total")
    square = te.compute((8,), lambda i: te.sum(x[i, r] * x[i, r], axis=r), name="square")
    largest = te.compute((8,), lambda i: te.max(x[i, r] * x[r, i], axis=r), name="largest")
    for y in (total, square, largest):
        assert matmul(te.create_prim_func([x, y]), machine("znver4")) is None
