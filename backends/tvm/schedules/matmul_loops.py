"""The few statements that a matmul's loop nest is made of."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm import ir, tirx

    from .matmul_form import Axis

    Body = Callable[[tirx.Var], tirx.Stmt]
else:
    Body = Callable


def serial(extent: Any, body: Body, name: str = "i") -> "tirx.Stmt":
    """A loop that stays one."""
    return _loop("SERIAL", extent, body, name)


def in_parts(extent: Any, body: Body, name: str = "i") -> "tirx.Stmt":
    """A loop that is cut where a condition in it changes, so that the parts have none."""
    return _loop("SERIAL", extent, body, name, {"pragma_loop_partition_hint": 1})


def unrolled(extent: Any, body: Body, name: str = "u") -> "tirx.Stmt":
    """A loop written out in full."""
    return _loop("UNROLLED", extent, body, name)


def vectorized(extent: Any, body: Body, name: str = "lane") -> "tirx.Stmt":
    """A loop that becomes one vector operation."""
    return _loop("VECTORIZED", extent, body, name)


def parallel(extent: Any, body: Body, name: str = "task") -> "tirx.Stmt":
    """A loop whose range the threads share, each one contiguous part."""
    return _loop("PARALLEL", extent, body, name)


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


def substitute(node: Any, values: "Mapping[ir.Var, Any]") -> Any:
    """The expression or statement with variables replaced."""
    import tvm_ffi
    from tvm.ir import Var

    return tvm_ffi.structural_map(node, (Var, lambda var: values.get(var, var)))


def loads(node: Any) -> "list[ir.TensorLoad]":
    """Every load of a buffer's element in an expression or statement."""
    import tvm_ffi
    from tvm.ir import TensorLoad

    found: list[TensorLoad] = []
    tvm_ffi.structural_walk(node, (TensorLoad, lambda load: found.append(load)))
    return found


def calls(node: Any) -> "list[ir.Call]":
    """Every call of a function or intrinsic in an expression or statement."""
    import tvm_ffi
    from tvm import ir

    found: list[ir.Call] = []
    tvm_ffi.structural_walk(node, (ir.Call, lambda call: found.append(call)))
    return found


def variables(node: Any) -> "set[ir.Var]":
    """Every variable in an expression or statement, buffers too."""
    import tvm_ffi
    from tvm.ir import Var

    found: set[Var] = set()
    tvm_ffi.structural_walk(node, (Var, lambda var: found.add(var)))
    return found


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


def _loop(
    kind: str, extent: Any, body: Body, name: str, notes: dict[str, Any] | None = None
) -> "tirx.Stmt":
    from tvm import tirx

    dtype = "int64" if isinstance(extent, int) else str(extent.ty.dtype)
    var = tirx.Var(name, dtype)
    if isinstance(extent, int):
        extent = tirx.const(extent, dtype)
    start, way = tirx.const(0, dtype), getattr(tirx.ForKind, kind)
    return tirx.For(var, start, extent, way, body(var), annotations=notes)
