"""Kernels of Relax operators, as fusion leaves them, and how to compare a schedule of one."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from passel.backends.tvm.machine import Machine, machine_of
from passel.backends.tvm.pipeline import fused
from passel.backends.tvm.schedules.rule import Rule
from passel.backends.tvm.schedules.vector_math import expand

Shape = Sequence[int | str]
Make = Callable[..., Any]
"""From variables to one Relax expression; `emit` binds what is inside of it."""
Case = tuple[Make, tuple[Any, ...]]
"""How to make a kernel, and of which shapes."""
MACHINES = ("znver4", "haswell")
PARALLEL, VECTOR = 1, 2
"""Kinds of loops."""


def op() -> Any:
    from tvm import relax

    return relax.op


def kernel(make: Make, *shapes: Shape, dtypes: Sequence[str] = (), machine: Machine) -> Any:
    """The one kernel that `make(emit, *variables)` becomes; a name in a shape is symbolic."""
    from tvm import relax, tirx

    names = {d: tirx.Var(d, "int64") for s in shapes for d in s if isinstance(d, str)}
    types = list(dtypes) or ["float32"] * len(shapes)
    variables = [
        relax.Var(f"x{k}", relax.TensorType([names.get(d, d) for d in shape], types[k]))
        for k, shape in enumerate(shapes)
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", variables, attrs={"num_input": len(shapes)}):
        with builder.dataflow():
            result = builder.emit_output(make(builder.emit, *variables))
        builder.emit_func_output(result)
    found = fused(builder.finalize(), machine.target()).functions_items()
    (only,) = [f for _, f in found if isinstance(f, tirx.PrimFunc)]
    return only


def scheduled(rule: Rule, function: Any, machine: Machine) -> Any:
    """The kernel after the rule, which has to take it."""
    found = rule(function, machine)
    assert found is not None, "the rule does not take the kernel"
    return expand(found.mod["main"])


def run(function: Any, arrays: Sequence[np.ndarray], machine: Machine) -> list[np.ndarray]:
    """What a kernel writes: its buffers after a call, those of `arrays` unchanged and left out."""
    import tvm

    target = machine.target()
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    known = [tvm.runtime.tensor(array) for array in arrays]
    extents: dict[str, int] = {}
    for buffer, array in zip(function.params, arrays, strict=False):
        for extent, size in zip(buffer.shape, array.shape, strict=True):
            extents[str(extent)] = size
    results = [
        tvm.runtime.empty([extents.get(str(e)) or int(e) for e in buffer.shape], str(buffer.dtype))
        for buffer in function.params[len(arrays) :]
    ]
    tvm.compile(module, target=target)["main"](*known, *results)
    return [result.numpy() for result in results]


def drawn(function: Any, sizes: dict[str, int], seed: int = 0) -> list[np.ndarray]:
    """Arrays for all buffers of a kernel but the last, which it writes."""
    rng = np.random.default_rng(seed)
    arrays = []
    for buffer in function.params[:-1]:
        shape = [sizes.get(str(e)) or int(e) for e in buffer.shape]
        dtype = str(buffer.dtype)
        if dtype.startswith("float"):
            arrays.append(rng.standard_normal(shape).astype(dtype))
        else:
            arrays.append(rng.integers(0, 5, shape).astype(dtype))
    return arrays


def difference(
    rule: Rule, function: Any, machine: Machine, sizes: dict[str, int] | None = None
) -> float:
    """Largest difference between a kernel and its schedule, relative to the largest result."""
    arrays = drawn(function, sizes or {})
    plain = run(function, arrays, machine)
    fast = run(scheduled(rule, function, machine), arrays, machine)
    worst = 0.0
    for expected, got in zip(plain, fast, strict=True):
        if expected.size:
            a, b = expected.astype(np.float64), got.astype(np.float64)
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)))
    return worst


def case_difference(
    rule: Rule, case: Case, mcpu: str, sizes: dict[str, int] | None = None
) -> float:
    """The same for a case, on two threads of a CPU."""
    make, shapes = case
    machine = machine_of(mcpu, 2)
    return difference(rule, kernel(make, *shapes, machine=machine), machine, sizes)


def kinds(function: Any) -> set[int]:
    """The kinds of loops in a kernel."""
    import tvm_ffi
    from tvm import tirx

    found: set[int] = set()
    tvm_ffi.structural_walk(function.body, (tirx.For, lambda loop: found.add(int(loop.kind))))
    return found
