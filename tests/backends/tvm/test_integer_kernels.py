"""Products of bytes on their own: exact on every kind of CPU, whatever the shape and the stages."""

import numpy as np
import pytest
import tvm
from tvm import te
from tvm.target import codegen

from passel.backends.tvm.emit.integer import byte_sums
from passel.backends.tvm.emit.integer_weights import packed
from passel.backends.tvm.machine import Machine, machine_of
from passel.backends.tvm.schedules.integer import integer_product
from passel.backends.tvm.schedules.integer_tile import Tile, candidates, tile_for
from passel.backends.tvm.tuned import form_of
from passel.backends.tvm.vnni import dot_of

RNG = np.random.default_rng


def runs_here(mcpu: str) -> bool:
    """Whether this computer has the instructions that code for a CPU uses."""
    host = tvm.target.Target({"kind": "llvm", "mcpu": str(codegen.llvm_get_system_cpu())})
    wanted = tvm.target.Target({"kind": "llvm", "mcpu": mcpu})
    names = ("avx2", "avx512f", "avx512bw", "avx512vnni", "avxvnni")
    return all(
        codegen.llvm_cpu_has_features(name, host)
        for name in names
        if codegen.llvm_cpu_has_features(name, wanted)
    )


def kernel(lead, depth, columns, machine, tail=None):
    """The unscheduled product, its sums in int32 or what `tail` makes of them."""
    lanes = dot_of(machine).lanes
    a = te.placeholder((*lead, depth), "uint8", name="a")
    panels = te.placeholder((-(-columns // lanes), depth // 4, lanes, 4), "int8", name="w")
    sums = byte_sums(a, panels, columns)
    extra, result = tail(sums) if tail else ((), sums)
    return te.create_prim_func([a, panels, *extra, result])


def operands(lead, depth, columns, seed=0):
    """Codes over the whole range, and the extremes in the first rows and columns."""
    rng = RNG(seed)
    a = rng.integers(0, 256, (*lead, depth), np.uint8)
    w = rng.integers(-128, 128, (depth, columns), np.int8)
    a.reshape(-1, depth)[0], w[:, 0] = 255, -128
    return a, w


def run(schedule, machine, arrays, shape, dtype="int32"):
    library = tvm.compile(tvm.IRModule({"main": form_of(schedule)}), target=machine.target())
    out = tvm.runtime.tensor(np.zeros(shape, dtype))
    library["main"](*[tvm.runtime.tensor(array) for array in arrays], out)
    return out.numpy()


SHAPES = [
    ((197,), 64, 64),  # a prime number of rows, panels that are whole, two threads
    ((2, 3, 7), 8, 33),  # leading axes, one column over
    ((1,), 64, 100),  # one row, several panels a tile
    ((5,), 4, 16),  # one panel, one step
    ((13,), 132, 17),  # a panel of one column
    ((3,), 4, 1),  # one column
    ((4, 5), 16, 47),  # a panel cut short by one
]


@pytest.mark.parametrize("mcpu", ["znver4", "haswell", "skylake-avx512", "alderlake"])
@pytest.mark.parametrize(("lead", "depth", "columns"), SHAPES)
def test_sums_are_exact(mcpu, lead, depth, columns):
    if not runs_here(mcpu):
        pytest.skip(f"this CPU does not run code for {mcpu}")
    machine = machine_of(mcpu, 2)
    a, w = operands(lead, depth, columns)
    schedule = integer_product(kernel(lead, depth, columns, machine), machine)
    found = run(schedule, machine, [a, packed(w, dot_of(machine).lanes)], (*lead, columns))
    np.testing.assert_array_equal(found, a.astype(np.int32) @ w.astype(np.int32))


@pytest.mark.parametrize("mcpu", ["znver4", "sapphirerapids", "alderlake"])
def test_one_instruction_multiplies_where_there_is_one(mcpu):
    machine = machine_of(mcpu, 2)
    schedule = integer_product(kernel((9,), 8, 64, machine), machine)
    library = tvm.compile(schedule.mod, target=machine.target())
    assert "vpdpbusd" in library.mod.inspect_source("asm")


@pytest.mark.parametrize("tile", [Tile(1, 1), Tile(3, 2), Tile(9, 3), Tile(4, 5)])
def test_every_tile_computes_the_same(machine, tile):
    a, w = operands((10,), 12, 90)
    function = kernel((10,), 12, 90, machine)
    lanes = dot_of(machine).lanes
    found = run(integer_product(function, machine, tile), machine, [a, packed(w, lanes)], (10, 90))
    np.testing.assert_array_equal(found, a.astype(np.int32) @ w.astype(np.int32))


@pytest.mark.parametrize("rows", [1, 3, 8, 30])
def test_the_number_of_rows_may_be_found_at_run_time(machine, rows):
    from tvm import tirx

    count = tirx.Var("rows", "int64")
    function = kernel((count,), 8, 40, machine)
    schedule = integer_product(function, machine)
    a, w = operands((rows,), 8, 40)
    found = run(schedule, machine, [a, packed(w, dot_of(machine).lanes)], (rows, 40))
    np.testing.assert_array_equal(found, a.astype(np.int32) @ w.astype(np.int32))


def test_stages_are_computed_once_and_may_be_results(machine):
    """Two readers of one stage, an operand by column, one of the whole shape, one number."""
    shape = (2, 7, 50)

    def tail(sums):
        by_column = te.placeholder((50,), "float32", name="by_column")
        other = te.placeholder(shape, "float32", name="other")
        number = te.placeholder((), "float32", name="number")
        scaled = te.compute(
            shape, lambda *i: sums(*i).astype("float32") * by_column[i[-1]], name="scaled"
        )
        square = te.compute(shape, lambda *i: scaled(*i) * scaled(*i), name="square")
        result = te.compute(
            shape, lambda *i: scaled(*i) + square(*i) * number() + other(*i), name="result"
        )
        return (by_column, other, number), result

    a, w = operands(shape[:-1], 8, 50)
    rng = RNG(1)
    by_column = np.exp2(rng.integers(-14, -10, 50)).astype(np.float32)
    other = rng.normal(size=shape).astype(np.float32)
    function = kernel(shape[:-1], 8, 50, machine, tail)
    arrays = [a, packed(w, dot_of(machine).lanes), by_column, other, np.float32(0.25)]
    found = run(integer_product(function, machine), machine, arrays, shape, "float32")
    scaled = (a.astype(np.int32) @ w.astype(np.int32)) * by_column.astype(np.float64)
    np.testing.assert_allclose(found, scaled + scaled**2 * 0.25 + other, rtol=1e-5, atol=1e-5)


def test_what_no_vector_holds_is_computed_element_by_element(machine):
    """TVM takes a condition that differs between lanes out of a vectorised loop."""
    from tvm import tirx

    def tail(sums):
        def one(*i):
            return tirx.if_then_else(sums(*i) > 0, sums(*i), sums(*i) * 2)

        return (), te.compute(sums.shape, one, name="bent")

    a, w = operands((6,), 8, 32)
    schedule = integer_product(kernel((6,), 8, 32, machine, tail), machine)
    found = run(schedule, machine, [a, packed(w, dot_of(machine).lanes)], (6, 32))
    sums = a.astype(np.int32) @ w.astype(np.int32)
    np.testing.assert_array_equal(found, np.where(sums > 0, sums, 2 * sums))


def without(change):
    """A kernel that is nearly a product of bytes."""
    a = te.placeholder((6, 8), change.get("a", "uint8"), name="a")
    w = te.placeholder(change.get("w", (2, 2, 16, 4)), change.get("b", "int8"), name="w")
    k = te.reduce_axis((0, 8), "k")
    lane = change.get("lane", lambda j: j % 16)
    product = te.compute(
        (6, 32),
        lambda i, j: te.sum(
            a[i, k].astype("int32") * w[j // 16, k // 4, lane(j), k % 4].astype("int32"), axis=k
        ),
    )
    tail = change.get("tail")
    return te.create_prim_func([a, w, tail(product) if tail else product])


@pytest.mark.parametrize(
    "change",
    [
        {"a": "int8"},
        {"b": "uint8"},
        {"lane": lambda j: 15 - j % 16},
        {"w": (2, 2, 32, 4)},
        {"tail": lambda p: te.compute((6, 32), lambda i, j: p[i, 31 - j])},
        {"tail": lambda p: te.compute((32, 6), lambda j, i: p[i, j])},
    ],
)
def test_anything_else_is_left_alone(change):
    machine = machine_of("znver4", 2)
    assert integer_product(without({}), machine) is not None
    assert integer_product(without(change), machine) is None


def test_a_cpu_without_avx2_has_no_schedule():
    machine = machine_of("nehalem", 2)
    assert dot_of(machine) is None
    assert integer_product(without({}), machine) is None


@pytest.mark.parametrize("mcpu", ["znver4", "haswell", "alderlake"])
@pytest.mark.parametrize("rows", [1, 5, 197, None])
def test_tiles_fit_in_the_registers(mcpu, rows):
    machine = machine_of(mcpu, 2)
    dot = dot_of(machine)
    tile = tile_for(2, dot, rows, 24, 96)
    assert tile in candidates(dot, rows or 1000, 24, 2)
    assert tile.rows * tile.panels + dot.operands(tile.panels) <= machine.registers
    assert tile.rows <= (rows or 1000)


def test_197_rows_get_tiles_that_waste_few(machine):
    wide = Machine("znver4", 64, 32, "avx512vnni", 2)
    tile = tile_for(2, dot_of(wide), 197, 96, 96)
    assert -(-197 // tile.rows) * tile.rows <= 200
    assert tile.rows * tile.panels >= 16
