"""Cut a loop where a condition on its variable changes, so that no vector holds both cases.

Padding and joins along the last axis are one load or another by position; where a vector would
need both, TVM gives the vector up and goes by single elements.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from .expressions import nodes_of, number_of, simplified, uses
from .loops import index
from .row_plan import Pass
from .stages import Loop
from .tasks import extent_of

Expr = Any
MOST = 8
"""Pieces that a loop is cut into at most."""


def segments(part: Pass, inner: Sequence[Loop]) -> list[tuple[Expr, Expr, Pass]]:
    """Start and end of each piece of the merged columns `inner`, and the pass as it is there."""
    extent = extent_of(inner)
    size = number_of(extent)
    cuts = _cuts(part, inner[-1], size) if len(inner) == 1 and size is not None else []
    if size is None or not cuts or len(cuts) >= MOST:
        return [(index(0), extent, part)]
    bounds = [0, *cuts, size]
    return [
        (index(start), index(stop), _within(part, inner[-1], start, stop))
        for start, stop in pairwise(bounds)
    ]


def _cuts(part: Pass, loop: Loop, size: int) -> list[int]:
    """Positions where some comparison of the loop's variable with a constant changes."""
    from tvm import tirx

    kinds = (tirx.LT, tirx.LE, tirx.GT, tirx.GE)
    comparisons = [each for stage in part.stages for each in nodes_of(stage.value, kinds)]
    return sorted({cut for each in comparisons for cut in _changes(each, loop, size)})


def _changes(comparison: Expr, loop: Loop, size: int) -> list[int]:
    """Where one comparison changes; none where it is not one of a position and a constant."""
    from tvm import tirx

    if not uses(comparison, loop.var) or "int" not in str(comparison.a.ty):
        return []
    difference = comparison.a - comparison.b
    for slope, rest in ((1, difference - loop.var), (-1, difference + loop.var)):
        constant = number_of(simplified(rest))
        if constant is None:
            continue
        root = -constant * slope
        below = isinstance(comparison, tirx.LT | tirx.GE)
        cut = root if below == (slope == 1) else root + 1
        return [cut] if 0 < cut < size else []
    return []


def _within(part: Pass, loop: Loop, start: int, stop: int) -> Pass:
    """The pass where the loop's variable is within [start, stop)."""
    from tvm import ir, sym

    analyzer = sym.Analyzer()
    analyzer.bind(loop.var, ir.Range(index(start), index(stop)))
    stages = [replace(s, value=analyzer.simplify(s.value)) for s in part.stages]
    return Pass(part.columns, tuple(stages))
