"""How large integers may be that a kernel uses as indices."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .kernel_inputs import Parameter, numpy_dtype, with_sizes
from .schedules.expressions import loads_of

if TYPE_CHECKING:
    import tvm


def index_bounds(
    function: "tvm.tirx.PrimFunc", given: list[Parameter], sizes: Mapping[Any, int]
) -> dict[Any, int]:
    """For each parameter that is used as an index: what its elements must stay below.

    1, so that all are 0, where no bound can be proved.

    Args:
        function: the kernel, not scheduled.
        given: its parameters.
        sizes: the sizes that it leaves open.
    """
    body = with_sizes(function.body, sizes)
    integers = [p.var for p in given if p.shape is not None and _is_integer(p.dtype)]
    ranges = _ranges(body)
    bounds: dict[Any, int] = {}
    for index, extent in _accesses(body):
        sources = [load.source for load in loads_of(index)]
        if not sources:
            continue
        direct = [v for v in integers if any(v.same_as(source) for source in sources)]
        known = all(any(source.same_as(v) for v in direct) for source in sources)
        # What comes through a buffer in between may stem from any of the integers.
        for var in direct if known else integers:
            start = min(bounds.get(var, extent), extent)
            bounds[var] = _limit(index, extent, start, ranges)
    return bounds


def _is_integer(dtype: str) -> bool:
    return numpy_dtype(dtype).kind in "iu"


def _accesses(body: Any) -> Iterator[tuple[Any, int]]:
    """Every index of every load and store, with the extent that it must stay below."""
    import tvm_ffi
    from tvm import ir, sym, tirx

    found: list[tuple[Any, Any]] = []
    tvm_ffi.structural_walk(
        body,
        [
            (ir.TensorLoad, lambda load: found.append((load.source, load.indices))),
            (tirx.BufferStore, lambda store: found.append((store.buffer, store.indices))),
        ],
    )
    analyzer = sym.Analyzer()
    for buffer, indices in found:
        for index, extent in zip(indices, buffer.ty.shape, strict=True):
            number = getattr(analyzer.simplify(extent), "value", None)
            if number is not None:
                yield index, max(int(number), 1)


def _ranges(body: Any) -> list[tuple[Any, Any]]:
    """The variables of loops and blocks, with their ranges."""
    import tvm_ffi
    from tvm import ir, s_tir, tirx

    found: list[tuple[Any, Any]] = []

    def loop(node: Any) -> None:
        found.append((node.loop_var, ir.Range.from_min_extent(node.min, node.extent)))

    def block(node: Any) -> None:
        found.extend((axis.var, axis.dom) for axis in node.iter_vars)

    tvm_ffi.structural_walk(body, [(tirx.For, loop), (s_tir.SBlock, block)])
    return found


def _limit(index: Any, extent: int, limit: int, ranges: list[tuple[Any, Any]]) -> int:
    """The largest of `limit`, half of it, ... that keeps an index in range."""
    while limit > 1 and not _in_range(index, extent, limit, ranges):
        limit //= 2
    return limit


def _in_range(index: Any, extent: int, limit: int, ranges: list[tuple[Any, Any]]) -> bool:
    """Whether an index is in [0, extent) if all integers that it loads are in [0, limit)."""
    import tvm_ffi
    from tvm import ir, sym, tirx

    analyzer = sym.Analyzer()
    for var, span in ranges:
        analyzer.bind(var, span, True)

    def unknown(load: Any) -> Any:
        dtype = str(load.ty.dtype)
        if not _is_integer(dtype):
            return load
        var = tirx.Var("loaded", dtype)
        zero, end = tirx.const(0, dtype), tirx.const(limit, dtype)
        analyzer.bind(var, ir.Range.from_min_extent(zero, end))
        return var

    replaced = tvm_ffi.structural_map(index, (ir.TensorLoad, unknown), order="pre")
    bound = analyzer.const_int_bound(analyzer.simplify(replaced))
    return int(bound.min_value) >= 0 and int(bound.max_value) < extent
