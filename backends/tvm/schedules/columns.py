"""How a pass runs along its columns: which of them are one axis in memory, and in which vectors."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from .expressions import loads_of, number_of, uses, with_loads
from .loops import index, load, sequence, serial, store, vector
from .row_plan import Pass
from .stages import Loop

Expr = Any
Stmt = Any
Var = Any


def covered(
    extent: Expr, width: int, unroll: int, point: Callable[[Expr, int, int], Stmt]
) -> list[Stmt]:
    """Statements over [0, extent): `point(position, lanes, slot)`, `unroll` vectors at a time."""
    size = number_of(extent)
    step = width * unroll
    whole, vectors = extent // index(step), extent // index(width)
    wide = [
        serial(
            index(0),
            whole,
            lambda i: sequence(
                [point(i * index(step) + index(k * width), width, k) for k in range(unroll)]
            ),
        )
    ]
    if size is None:
        return [
            *wide,
            serial(whole * index(unroll), vectors, lambda i: point(i * index(width), width, 0)),
            serial(vectors * index(width), extent, lambda i: point(i, 1, 0)),
        ]
    done = size // step * step
    statements = wide if done else []
    for slot, position in enumerate(range(done, size - width + 1, width)):
        statements.append(point(index(position), width, slot))
    rest = size % width
    return [*statements, point(index(size - rest), rest, 0)] if rest else statements


def merged(part: Pass) -> list[list[Loop]]:
    """The columns, in groups that every access sees as one contiguous axis."""
    accesses = [(s.buffer, s.indices) for s in part.stages if not s.reduces]
    accesses += [(x.source, x.indices) for s in part.stages for x in loads_of(s.value)]
    outside = [with_loads(s.value, lambda _: index(0)) for s in part.stages]
    groups = [[part.columns[0]]]
    for before, loop in pairwise(part.columns):
        bare = any(uses(value, v.var) for value in outside for v in (before, loop))
        if not bare and all(_contiguous(before, loop, *access) for access in accesses):
            groups[-1].append(loop)
        else:
            groups.append([loop])
    return groups


def _contiguous(outer: Loop, inner: Loop, buffer: Any, indices: Sequence[Expr]) -> bool:
    """Whether an access steps through both loops as through one, or depends on neither."""
    used = [k for k, i in enumerate(indices) if uses(i, outer.var) or uses(i, inner.var)]
    if not used:
        return True
    if len(used) != 2 or used[1] != used[0] + 1:
        return False
    first, second = (indices[k] for k in used)
    extents = (number_of(buffer.shape[used[1]]), inner.size)
    return (
        first.same_as(outer.var)
        and second.same_as(inner.var)
        and extents[0] is not None
        and extents[0] == extents[1]
    )


def flat(loops: Sequence[Loop], position: Expr) -> dict[Var, Expr]:
    """A position along merged loops: they are contiguous, so that the last one may run over."""
    *outer, last = loops
    return {**{loop.var: index(0) for loop in outer}, last.var: position}


def folded(buffer: Any, lanes: int, combine: Callable[[Expr, Expr], Expr]) -> list[Stmt]:
    """Combine the lanes of a vector into the first of them, half onto half."""
    statements = []
    half = lanes // 2
    while half:

        def lane(v: Expr, half: int = half) -> Stmt:
            both = combine(load(buffer, [v]), load(buffer, [v + index(half)]))
            return store(buffer, both, [v])

        statements.append(vector(half, lane))
        half //= 2
    return statements
