"""Schedules that compute something else are found, named and replaced."""

import json
from typing import Any

import numpy as np
import pytest

from passel.backends.explain import InputSpec
from passel.backends.tvm import schedules
from passel.backends.tvm.checked import Pair, checked, compare, compiled_pairs, judge
from passel.backends.tvm.code import Code
from passel.backends.tvm.index_bounds import index_bounds
from passel.backends.tvm.kernel_inputs import arguments, parameters, symbols
from passel.backends.tvm.kernel_outputs import Allowed, difference
from passel.backends.tvm.model import TvmModel
from passel.backends.tvm.pipeline import compiled, fused
from passel.backends.tvm.plain_form import operations, quicker, terms
from passel.backends.tvm.session import TvmSession
from passel.backends.tvm.verdicts import FILE, Verdicts
from tests.backends.tvm.programs import module


def matmul(
    rows: Any = 9, depth: int = 24, columns: int = 20, dtype: str = "float32", spoil: str = ""
) -> Any:
    """A matrix product, or something that is nearly one."""
    from tvm import te, tirx

    rows = te.var("rows", "int64") if rows == "open" else rows
    a = te.placeholder((rows, depth), dtype, "a")
    b = te.placeholder((depth, columns), dtype, "b")
    reached = depth - 1 if spoil == "short sum" else depth
    k = te.reduce_axis((0, reached), "k")

    def element(i: Any, j: Any) -> Any:
        column = tirx.indexmod(j, 16) if spoil == "wrong column" else j
        product = a[i, k] * b[k, column]
        return te.sum(product, axis=k)

    c = te.compute((rows, columns), element, "c")
    if spoil == "tail":
        last = rows - 1
        d = te.compute((rows, columns), lambda i, j: tirx.Select(i < last, c[i, j], c[0, j]), "d")
        return te.create_prim_func([a, b, d])
    return te.create_prim_func([a, b, c])


def verdict(plain: Any, scheduled: Any, machine: Any) -> str:
    return judge({"one": Pair(plain, scheduled)}, machine, Verdicts(None))["one"]


def reordered(function: Any) -> Any:
    """A right schedule: another order of the loops and of the sum."""
    import tvm
    from tvm import s_tir

    schedule = s_tir.Schedule(tvm.IRModule({"main": function}))
    block = schedule.get_sblock("c")
    i, j, k = schedule.get_loops(block)
    outer, inner = schedule.split(k, [None, 4])
    schedule.reorder(outer, j, i, inner)
    return schedule.mod["main"]


def unwritten(function: Any) -> Any:
    """A schedule that never reaches the last row."""
    import tvm_ffi
    from tvm import tirx

    def shorter(loop: Any) -> Any:
        if loop.loop_var.name != "i":
            return loop
        extent = loop.extent - 1
        return tirx.For(loop.loop_var, loop.min, extent, loop.kind, loop.body)

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, shorter)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int8"])
@pytest.mark.parametrize("rows", [9, "open"])
def test_a_right_schedule_is_kept(machine, dtype, rows):
    plain = matmul(rows, dtype=dtype)
    assert verdict(plain, reordered(plain), machine) == ""


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int8"])
@pytest.mark.parametrize("spoil", ["short sum", "wrong column", "tail"])
def test_a_wrong_schedule_is_found(machine, dtype, spoil):
    found = verdict(matmul(dtype=dtype), matmul(dtype=dtype, spoil=spoil), machine)
    assert "of 180 elements of result 0 differ" in found


def test_what_is_not_written_is_found(machine):
    plain = matmul()
    found = verdict(plain, unwritten(plain), machine)
    assert "20 of 180 elements of result 0 differ" in found


def test_a_tail_that_is_wrong_at_some_sizes_only(machine):
    found = verdict(matmul("open"), matmul("open", spoil="tail"), machine)
    assert "differ where rows = 7" in found


def test_a_long_sum_in_another_order_is_no_error(machine):
    plain = matmul(3, 4096, 5)
    assert verdict(plain, reordered(plain), machine) == ""
    assert "differ" in verdict(plain, matmul(3, 4096, 5, spoil="short sum"), machine)


def test_roots_and_logarithms_are_compared_where_they_exist(machine):
    from tvm import te, tirx

    def kernel(function: Any) -> Any:
        x = te.placeholder((8, 8), "float32", "x")
        return te.create_prim_func([x, te.compute((8, 8), lambda i, j: function(x, i, j))])

    plain = kernel(lambda x, i, j: tirx.log(tirx.sqrt(x[0, 0] * 0.0 - x[i, j] * -1.0) * -0.0 + 1))
    assert verdict(plain, plain, machine) == ""
    right = kernel(lambda x, i, j: tirx.sqrt(x[i, j]))
    assert verdict(right, right, machine) == ""
    assert "differ" in verdict(right, kernel(lambda x, i, j: tirx.sqrt(x[j, i])), machine)


def test_one_that_does_not_compile_spoils_no_other(machine):
    plain = matmul()
    broken = plain.with_attr("tirx.is_scheduled", True)
    from tvm import tirx

    broken = broken.with_body(
        tirx.Evaluate(tirx.call_extern("handle", "f", tirx.Var("v", "int32")))
    )
    found = judge({"good": Pair(plain, plain), "bad": Pair(plain, broken)}, machine, Verdicts(None))
    assert found["good"] == ""
    assert found["bad"].startswith("does not compile: ")


def wrong_rule(function: Any, machine: Any) -> Any:
    """Takes matrix products of 9 rows only, wrongly."""
    import tvm
    from tvm import s_tir

    if terms(function) != 24:
        return None
    return s_tir.Schedule(tvm.IRModule({"main": matmul(spoil="tail")}))


def products(machine: Any) -> tuple[Any, list[np.ndarray]]:
    """A module with one matrix product, and its weight."""
    from tvm import relax

    weight = np.random.default_rng(0).standard_normal((24, 20), np.float32)
    one = InputSpec("x", "float32", (9, 24))
    written = module([one], [weight], lambda builder, x, w: [relax.op.matmul(x, w)])
    return fused(written, machine.target()), [weight]


def test_a_planted_schedule_is_replaced_by_the_plain_form(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(schedules, "rules", lambda: [wrong_rule])
    fused_, weights = products(machine)
    before = schedules.schedule(fused_, machine)
    assert before.rules == {"matmul": "wrong_rule"}
    after = checked(before, machine, tmp_path)
    assert after.rules == {}
    assert after.serial == ["matmul"]
    assert "elements of result 0 differ" in after.rejected["matmul"]
    x = np.random.default_rng(1).standard_normal((9, 24), np.float32)
    spec = InputSpec("x", "float32", (9, 24))
    results = [
        TvmSession(
            TvmModel(Code(compiled(one.module, machine), {}, [], []), weights, machine, (spec,), 1)
        ).run_arrays([x])[0]
        for one in (before, after)
    ]
    assert not np.allclose(results[0], x @ weights[0], rtol=1e-4, atol=1e-4)
    assert np.allclose(results[1], x @ weights[0], rtol=1e-4, atol=1e-4)


def test_verdicts_are_kept_for_the_next_process(machine, tmp_path, monkeypatch):
    plain = matmul()
    pairs = {"a": Pair(plain, plain), "b": Pair(plain, matmul(spoil="tail"))}
    first = judge(pairs, machine, Verdicts(tmp_path))
    with (tmp_path / FILE).open("a") as file:
        file.write("half a li")
    # nothing may be compiled
    monkeypatch.setattr("passel.backends.tvm.kernel_build._compiled", None)
    assert judge(pairs, machine, Verdicts(tmp_path)) == first
    assert len((tmp_path / FILE).read_text().splitlines()) == 3


def test_equal_kernels_are_compared_once(machine, tmp_path):
    judge({name: Pair(matmul(), matmul()) for name in "abc"}, machine, Verdicts(tmp_path))
    assert len((tmp_path / FILE).read_text().splitlines()) == 1


def test_another_cpu_has_its_own_verdicts(machine):
    from dataclasses import replace

    pair = Pair(matmul(), matmul())
    assert pair.key(machine) != pair.key(replace(machine, mcpu="haswell"))
    assert pair.key(machine) == Pair(matmul(), matmul()).key(machine)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    verdicts = Verdicts(tmp_path / "file" / "below")
    verdicts.put("key", "why")
    assert verdicts.get("key") == "why"


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / FILE).mkdir()
    verdicts = Verdicts(tmp_path)
    verdicts.put("key", "why")
    assert verdicts.get("key") == "why"


def test_lines_that_mean_nothing(tmp_path):
    for line in ("[1]", "{", json.dumps(["a", "b", "c"])):
        (tmp_path / FILE).write_text(line + "\n")
        assert Verdicts(tmp_path).get("a") is None


def test_large_kernels_are_compared_in_less_time(machine):
    """The quicker order computes the same, and is another order."""
    plain = matmul(70, 96, 130)
    from passel.backends.tvm import plain_form

    assert quicker(plain).same_as(plain)
    plain_form.LARGE, kept = 1.0, plain_form.LARGE
    try:
        other = quicker(plain)
    finally:
        plain_form.LARGE = kept
    assert "T.parallel" in other.script()
    assert verdict(plain, other, machine) == ""
    assert terms(plain) == 96
    assert operations(plain) == 70 * 96 * 130


def indexed(kind: str) -> Any:
    """Kernels that read integers as indices, each in another way."""
    from tvm import te, tirx, topi

    rows = te.var("rows", "int64")
    table = te.placeholder((50, 8), "float32", "table")
    index = te.placeholder((rows, 5), "int64", "index")
    if kind == "negative from the end":
        wrapped = te.compute(
            (rows, 5), lambda i, j: tirx.Select(index[i, j] < 0, index[i, j] + 50, index[i, j])
        )
        out = topi.take(table, wrapped, axis=0, mode="fast")
    elif kind == "offset":
        out = te.compute((rows, 5), lambda i, j: table[index[i, j] + 10, index[i, j]])
    elif kind == "cast":
        narrow = topi.cast(index, "int32")
        out = topi.take(table, narrow, axis=0, mode="fast")
    elif kind == "unknown":
        out = te.compute((rows, 5), lambda i, j: table[index[i, j] * index[i, j] * 60, 0])
    else:
        out = te.compute((rows, 5), lambda i, j: table[tirx.max(index[i, j], 0), 0] + index[i, j])
    return te.create_prim_func([table, index, out])


@pytest.mark.parametrize(
    ("kind", "bound"),
    [("negative from the end", 50), ("offset", 8), ("cast", 50), ("unknown", 1), ("max", 50)],
)
def test_indices_stay_inside(kind, bound):
    plain = indexed(kind)
    given = parameters(plain)
    sizes = {var: 7 for var in symbols(given)}
    bounds = index_bounds(plain, given, sizes)
    assert bounds == {given[1].var: bound}
    index = arguments(given, sizes, bounds, seed=0)[1]
    assert index.shape == (7, 5)
    assert index.min() >= 0
    assert index.max() < bound
    if bound >= 35:
        assert len(set(index.flatten())) == 35


def test_a_wrong_gather_is_found(machine):
    from tvm import te

    def kernel(shift: int) -> Any:
        table = te.placeholder((50, 8), "float32", "table")
        index = te.placeholder((6,), "int64", "index")
        out = te.compute((6, 8), lambda i, j: table[index[i + 0], (j + shift) % 8])
        return te.create_prim_func([table, index, out])

    assert verdict(kernel(0), kernel(0), machine) == ""
    assert "differ" in verdict(kernel(0), kernel(1), machine)


def test_arguments_are_the_same_every_time():
    given = parameters(matmul())
    first, second = (arguments(given, {}, {}, seed=3) for _ in range(2))
    assert all(map(np.array_equal, first, second))
    assert not np.array_equal(first[0], arguments(given, {}, {}, seed=4)[0])
    assert all((array > 0).all() for array in arguments(given, {}, {}, 3, positive=True)[:2])


Y = np.linspace(-3, 3, 1000, dtype=np.float32)


@pytest.mark.parametrize(
    ("found", "rounds", "same"),
    [
        (Y * (1 + 1e-6), False, True),
        (Y * (1 + 1e-3), False, False),
        (np.where(np.arange(1000) == 7, Y + 0.1, Y), False, False),
        (np.where(np.arange(1000) == 7, Y + 0.1, Y), True, True),
        (np.where(np.arange(1000) == 7, Y + 2.0, Y), True, False),
        (np.where(np.arange(1000) % 50 == 7, Y + 0.1, Y), True, False),
        (np.where(np.arange(1000) == 7, np.nan, Y), True, False),
        (np.where(np.arange(1000) == 7, np.inf, Y), False, False),
        (np.round(Y).astype(np.int32), False, None),
    ],
)
def test_what_floats_may_differ_by(found, rounds, same):
    if same is None:
        assert difference([found], [found + (np.arange(1000) == 3)], Allowed(1, True)) is None
        assert difference([found], [found + (np.arange(1000) == 3)], Allowed(1, False))
        assert difference([found], [found + 2 * (np.arange(1000) == 3)], Allowed(1, True))
        return
    assert (difference([Y], [found], Allowed(4e-6, rounds)) is None) == same


def test_nan_equals_nan():
    odd = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    assert difference([odd], [odd.copy()], Allowed(1e-6, False)) is None
    assert difference([odd], [odd[[0, 2, 1, 3]]], Allowed(1e-6, False)) is not None


def test_compare_takes_compiled_functions(machine):
    pair = Pair(matmul(), matmul(spoil="short sum"))
    functions = next(iter(compiled_pairs([pair], machine)))
    assert compare(pair.plain, functions)
