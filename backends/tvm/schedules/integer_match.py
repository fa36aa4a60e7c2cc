"""Recognise a product of bytes, and what is done to its result element by element.

The kernel is one reduction and then stages over the same elements:
    sums[.., m, n] = Σ_k int32(codes[.., m, k]) · int32(panels[n/L, k/4, n%L, k%4])
    stage[.., m, n] = f(sums[.., m, n], earlier stages at [.., m, n], other buffers)
Each panel holds L columns of the weight (`emit/integer_weights.py`); the last one may be cut short.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..vnni import GROUP
from .stages import Loop, Stage, loads_of, number_of, same, stages_of

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class Product:
    """What a kernel computes; see the module docstring.

    Attributes:
        codes: uint8 [.., M, K], K a multiple of 4.
        panels: int8 [P, K/4, L, 4].
        sums: int32 [.., M, N].
        stages: what is done to the sums, in order.
        outputs: those of the sums and the stages' buffers that are parameters of the kernel.
    """

    codes: Any
    panels: Any
    sums: Any
    stages: tuple[Stage, ...]
    outputs: frozenset[Any]

    @property
    def lanes(self) -> int:
        """L."""
        return int(self.panels.shape[2])

    @property
    def columns(self) -> int:
        """N."""
        return int(self.sums.shape[-1])

    @property
    def steps(self) -> int:
        """K/4."""
        return int(self.panels.shape[1])

    @property
    def rows(self) -> int | None:
        """Product of all extents but the last; None where it is found at run time."""
        total = 1
        for extent in self.sums.shape[:-1]:
            size = number_of(extent)
            if size is None:
                return None
            total *= size
        return total


def product_of(function: "tvm.tirx.PrimFunc") -> Product | None:
    """What a kernel computes, if it is a product of bytes with elementwise stages."""
    stages = stages_of(function)
    if not stages:
        return None
    first, *rest = stages
    operands = _operands(first)
    if operands is None or not are_elementwise(first, rest):
        return None
    parameters = set(function.params)
    written = frozenset(stage.buffer for stage in stages)
    return Product(*operands, first.buffer, tuple(rest), written & parameters)


def _operands(stage: Stage) -> tuple[Any, Any] | None:
    """(codes, panels) of the reduction."""
    from tvm import ir, tirx

    reduced = [loop for loop in stage.loops if loop.reduces]
    if stage.combine is not tirx.Add or number_of(stage.init) != 0 or len(reduced) != 1:
        return None
    if not isinstance(stage.value, tirx.Mul) or not is_own_place(stage):
        return None
    sides = (stage.value.a, stage.value.b)
    codes, panels = (side.value if isinstance(side, tirx.Cast) else side for side in sides)
    fits = (
        isinstance(codes, ir.TensorLoad)
        and isinstance(panels, ir.TensorLoad)
        and (str(codes.ty), str(panels.ty)) == ("uint8", "int8")
        and str(stage.buffer.dtype) == "int32"
        and same(codes.indices, [*stage.indices[:-1], reduced[0].var])
        and _is_packed(panels, stage, reduced[0])
    )
    return (codes.source, panels.source) if fits else None


def _is_packed(load: Any, stage: Stage, reduced: Loop) -> bool:
    """Whether a weight is read as the module docstring says."""
    from tvm import ir, tirx
    from tvm.sym.analyzer import Analyzer

    columns = number_of(stage.buffer.shape[-1])
    sizes = [number_of(extent) for extent in load.source.shape]
    known = [size for size in sizes if size is not None]
    if columns is None or len(known) != 4 or len(sizes) != 4:
        return False
    panels, steps, lanes, group = known
    if group != GROUP or panels != -(-columns // lanes):
        return False
    if reduced.size != GROUP * steps:
        return False
    analyzer, column, k = Analyzer(), stage.indices[-1], reduced.var
    for loop in stage.loops:
        analyzer.bind(loop.var, ir.Range.from_min_extent(0, loop.extent))
    by_column = (tirx.floordiv(column, lanes), tirx.floormod(column, lanes))
    by_depth = (tirx.floordiv(k, GROUP), tirx.floormod(k, GROUP))
    expected = (by_column[0], by_depth[0], by_column[1], by_depth[1])
    return all(analyzer.can_prove_equal(a, b) for a, b in zip(load.indices, expected, strict=True))


def are_elementwise(first: Stage, rest: Sequence[Stage]) -> bool:
    """Whether each stage is about single elements of what the first one makes."""
    known = {first.buffer}
    for stage in rest:
        if stage.reduces or not is_own_place(stage):
            return False
        if not same(stage.buffer.shape, first.buffer.shape):
            return False
        for load in loads_of(stage.value):
            if load.source in known and not same(load.indices, stage.indices):
                return False
        known.add(stage.buffer)
    return True


def is_own_place(stage: Stage) -> bool:
    """Whether a stage's spatial loops are the axes of what it writes, in order, and whole."""
    axes = [
        (index, extent)
        for index, extent in zip(stage.indices, stage.buffer.shape, strict=True)
        if not (number_of(index) == 0 and number_of(extent) == 1)
    ]
    loops = [loop for loop in stage.loops if not loop.reduces]
    return len(axes) == len(loops) and all(
        index.same_as(loop.var) and same([extent], [loop.extent])
        for (index, extent), loop in zip(axes, loops, strict=True)
    )
