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


def serial(start: Expr, stop: Expr, make: Make) -> Stmt:
    """For every integer from start up to, not including, stop."""
    from tvm import tirx

    var = tirx.Var("i", "int64")
    extent = as_index(stop) - as_index(start)
    return tirx.For(var, index(0), extent, tirx.ForKind.SERIAL, make(var + as_index(start)))


def parallel(extent: Expr, make: Make) -> Stmt:
    """Split over the pool's threads."""
    from tvm import tirx

    var = tirx.Var("task", "int64")
    return tirx.For(var, index(0), as_index(extent), tirx.ForKind.PARALLEL, make(var))


def vector(width: int, make: Make) -> Stmt:
    """All at once, in vectors."""
    from tvm import tirx

    if width == 1:
        return make(index(0))
    var = tirx.Var("v", "int64")
    return tirx.For(var, index(0), index(width), tirx.ForKind.VECTORIZED, make(var))


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
