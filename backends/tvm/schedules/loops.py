"""Loops and statements of a kernel that is written out, not scheduled block by block."""

from collections.abc import Callable, Sequence
from typing import Any

Expr = Any
Stmt = Any
Make = Callable[[Expr], Stmt]
"""The body of a loop, given its variable."""


def index(value: int) -> Expr:
    """A constant as an index."""
    from tvm import tirx

    return tirx.const(value, "int64")


def as_index(expression: Expr) -> Expr:
    """An extent or index as int64."""
    return index(expression) if isinstance(expression, int) else expression.astype("int64")


def sequence(statements: Sequence[Stmt]) -> Stmt:
    """Statements one after the other."""
    from tvm import tirx

    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))


def loop(
    kind: str, extent: Expr, make: Make, name: str, notes: dict[str, Any] | None = None
) -> Stmt:
    """From 0 up to, not including, an extent, in its type; `kind` is one of TVM's."""
    from tvm import tirx

    if isinstance(extent, int):
        extent = index(extent)
    dtype = str(extent.ty.dtype)
    var, way = tirx.Var(name, dtype), getattr(tirx.ForKind, kind)
    return tirx.For(var, tirx.const(0, dtype), extent, way, make(var), annotations=notes)


def serial(start: Expr, stop: Expr, make: Make) -> Stmt:
    """For every integer from start up to, not including, stop."""
    first = as_index(start)
    return loop("SERIAL", as_index(stop) - first, lambda i: make(i + first), "i")


def parallel(extent: Expr, make: Make) -> Stmt:
    """Split over the pool's threads."""
    return loop("PARALLEL", as_index(extent), make, "task")


def over_tasks(count: int, make: Make) -> Stmt:
    """A known number of tasks, split over the pool's threads; one of them needs no other thread."""
    return make(index(0)) if count == 1 else parallel(index(count), make)


def part_of(count: Expr, part: Expr, parts: int) -> tuple[Expr, Expr]:
    """The bounds of one of several equal parts of 0 to `count`."""
    return count * part // parts, count * (part + 1) // parts


def vector(width: int, make: Make) -> Stmt:
    """All at once, in vectors."""
    return make(index(0)) if width == 1 else loop("VECTORIZED", width, make, "v")


def ramp(start: Expr, lanes: int) -> Expr:
    """The indices of neighbouring elements, as one vector."""
    from tvm import tirx

    return tirx.Ramp(as_index(start), index(1), lanes)


def load(buffer: Any, indices: Sequence[Expr]) -> Expr:
    """An element of a buffer."""
    from tvm import tirx

    return tirx.BufferLoad(buffer, list(indices))


def store(buffer: Any, value: Expr, indices: Sequence[Expr]) -> Stmt:
    """Write an element of a buffer."""
    from tvm import tirx

    return tirx.BufferStore(buffer, value, list(indices))


def local(shape: Sequence[Expr], dtype: str, name: str) -> Any:
    """A buffer of one task; it has to be allocated."""
    from tvm import tirx

    return tirx.decl_buffer(tuple(shape) or (1,), dtype, name)


def allocate(buffers: Sequence[Any]) -> list[Stmt]:
    """Allocate buffers for what follows in the same sequence.

    The mention of the memory as a whole, which does nothing, keeps TVM from working out a smaller
    extent: where extents are symbolic it can fail at that, dividing by one that it takes for 0.
    """
    from tvm import tirx
    from tvm.tirx.buffer import buffer_data

    statements: list[Stmt] = []
    for buffer in buffers:
        statements += [tirx.AllocBuffer(buffer), tirx.Evaluate(buffer_data(buffer))]
    return statements
