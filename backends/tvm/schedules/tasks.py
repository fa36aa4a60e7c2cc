"""How the iterations of a kernel are dealt out to threads.

Each thread gets one contiguous share. Waking the pool costs 5 to 10 µs, so that a kernel below
`SMALL` elements runs where it is called; where the size is known only at run time, the kernel has
both forms and looks.
"""

from collections.abc import Callable, Sequence
from typing import Any

from .expressions import number_of, simplified, substituted, variables_of
from .loops import as_index, index, parallel, sequence
from .stages import Loop

SMALL = 8192
"""Elements that one thread handles in about the time that waking another takes."""

Expr = Any
Stmt = Any


def product(extents: Sequence[Expr]) -> Expr:
    """The number of iterations, as int64."""
    result = index(1)
    for extent in extents:
        result = result * as_index(extent)
    return simplified(result)


def extent_of(loops: Sequence[Loop]) -> Expr:
    """The number of iterations of several loops."""
    return product([loop.extent for loop in loops])


def unflattened(position: Expr, loops: Sequence[Loop]) -> dict[Any, Expr]:
    """Where each loop stands at one position of the flat iteration over all of them."""
    places = unflattened_sizes(position, [loop.extent for loop in loops]) if loops else []
    return {loop.var: place for loop, place in zip(loops, places, strict=True)}


def unflattened_sizes(position: Expr, extents: Sequence[Expr | None]) -> list[Expr]:
    """The same for extents without loops; the first one is not needed, and may be None."""
    found: list[Expr] = []
    for extent in reversed(extents[1:]):
        found.insert(0, position % as_index(extent))
        position = position // as_index(extent)
    return [position, *found]


def shared(
    count: Expr, work: Expr, threads: int, make: Callable[[Expr, Expr], Sequence[Stmt]]
) -> Stmt:
    """Iterations 0 to `count` over the pool; `make(start, stop)` writes a share of them.

    `work` is how many elements all of them handle.
    """
    from tvm import tirx

    size = number_of(work)
    if threads == 1 or number_of(count) == 1 or (size is not None and size < SMALL):
        return sequence(make(index(0), count))
    spread = _spread(count, threads, make)
    if size is not None or _least(work) >= SMALL:
        return spread
    alone = sequence(make(index(0), count))
    return tirx.IfThenElse(work < index(SMALL), alone, spread)


def _least(work: Expr) -> int:
    """What symbolic work comes to where every extent is 1, the least that one can be.

    A condition that never holds must not be written: TVM infers from it that an extent is 0.
    """
    ones = {var: index(1) for var in variables_of(work)}
    return number_of(simplified(substituted(work, ones))) or 0


def _spread(count: Expr, threads: int, make: Callable[[Expr, Expr], Sequence[Stmt]]) -> Stmt:
    tasks = min(number_of(count) or threads, threads)

    def share(task: Expr) -> Stmt:
        start = count * task // index(tasks)
        return sequence(make(start, count * (task + index(1)) // index(tasks)))

    return parallel(index(tasks), share)
