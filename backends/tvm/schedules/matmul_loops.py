"""The few statements that a matmul's loop nest is made of."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .loops import Make, loop

if TYPE_CHECKING:
    from tvm import ir, tirx

    from .matmul_form import Axis


def serial(extent: Any, make: Make, name: str = "i") -> "tirx.Stmt":
    """A loop that stays one."""
    return loop("SERIAL", extent, make, name)


def in_parts(extent: Any, make: Make, name: str = "i") -> "tirx.Stmt":
    """A loop that is cut where a condition in it changes, so that the parts have none."""
    return loop("SERIAL", extent, make, name, {"pragma_loop_partition_hint": 1})


def unrolled(extent: Any, make: Make, name: str = "u") -> "tirx.Stmt":
    """A loop written out in full."""
    return loop("UNROLLED", extent, make, name)


def vectorized(extent: Any, make: Make, name: str = "lane") -> "tirx.Stmt":
    """A loop that becomes one vector operation."""
    return loop("VECTORIZED", extent, make, name)


def parallel(extent: Any, make: Make, name: str = "task") -> "tirx.Stmt":
    """A loop whose range the threads share, each one contiguous part."""
    return loop("PARALLEL", extent, make, name)


def either(
    condition: Any, true: Callable[[], "tirx.Stmt"], false: Callable[[], "tirx.Stmt"]
) -> "tirx.Stmt":
    """One of two statements; only the one that runs is made where that is known now."""
    from tvm import sym, tirx

    if not isinstance(condition, bool):
        known = sym.Analyzer().simplify(condition)
        if not isinstance(known, tirx.IntImm):
            return tirx.IfThenElse(condition, true(), false())
        condition = bool(known)
    return true() if condition else false()


def block(name: str, body: "tirx.Stmt", buffers: Sequence[Any] = ()) -> "tirx.Stmt":
    """A statement with buffers of its own."""
    from tvm.s_tir import SBlock, SBlockRealize

    return SBlockRealize([], True, SBlock([], [], [], name, body, alloc_buffers=list(buffers)))


def shared(axes: "Sequence[Axis]", body: "Callable[[dict[ir.Var, Any]], tirx.Stmt]") -> "tirx.Stmt":
    """A statement for all points of some axes, joined into one loop that the threads share.

    Args:
        axes: the last is the fastest.
        body: from what each axis's variable is at a point to the statement there.
    """
    from tvm import tirx

    if not axes:
        return body({})
    total = axes[0].extent
    for axis in axes[1:]:
        total = total * axis.extent

    def point(rest: Any) -> "tirx.Stmt":
        places: dict[Any, Any] = {}
        for axis in reversed(axes[1:]):
            places[axis.var] = tirx.floormod(rest, axis.extent)
            rest = tirx.floordiv(rest, axis.extent)
        return body({axes[0].var: rest, **places})

    return parallel(total, point)


def flat(load: "ir.TensorLoad") -> Any:
    """Position of an element in its buffer."""
    position: Any = None
    for index, extent in zip(load.indices, load.source.shape, strict=True):
        position = index if position is None else position * extent + index
    return position
