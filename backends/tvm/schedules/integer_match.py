"""Recognise a product of bytes, and what is done to its result element by element.

The kernel is a reduction with stages (`product_stages`), and the reduction is
    sums[.., m, n] = Σ_k int32(codes[.., m, k]) · int32(panels[n/L, k/4, n%L, k%4])
Each panel holds L columns of the weight (`emit/integer_weights.py`); the last one may be cut short.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..vnni import GROUP
from .expressions import number_of, same
from .product_stages import Staged, staged_of
from .stages import Loop, Stage
from .tasks import product

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class Product:
    """What a kernel computes; see the module docstring.

    Attributes:
        codes: uint8 [.., M, K], K a multiple of 4.
        panels: int8 [P, K/4, L, 4].
        staged: its sums, int32 [.., M, N], and what is done to them.
    """

    codes: Any
    panels: Any
    staged: Staged

    @property
    def lanes(self) -> int:
        """L."""
        return int(self.panels.shape[2])

    @property
    def columns(self) -> int:
        """N."""
        return int(self.staged.sums.shape[-1])

    @property
    def steps(self) -> int:
        """K/4."""
        return int(self.panels.shape[1])

    @property
    def rows(self) -> int | None:
        """Product of all extents but the last; None where it is found at run time."""
        return number_of(product(self.staged.sums.shape[:-1]))


def product_of(function: "tvm.tirx.PrimFunc") -> Product | None:
    """What a kernel computes, if it is a product of bytes with elementwise stages."""
    found = staged_of(function)
    operands = None if found is None else _operands(found[0])
    return None if found is None or operands is None else Product(*operands, found[1])


def _operands(stage: Stage) -> tuple[Any, Any] | None:
    """(codes, panels) of the reduction."""
    from tvm import ir, tirx

    reduced = [loop for loop in stage.loops if loop.reduces]
    if stage.combine is not tirx.Add or number_of(stage.init) != 0 or len(reduced) != 1:
        return None
    if not isinstance(stage.value, tirx.Mul):
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
