"""Emission rules for ops that choose positions at run time."""

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from .fx_emit_shape import extent, extents
from .fx_tensor import torch_dtype
from .ops import Fill, Put, Range, Ref, Scatter, Sort, Take, TopK, Triangle
from .value import Op

if TYPE_CHECKING:
    from .fx_emit import Emitter

aten = torch.ops.aten


def _topk(op: TopK, e: "Emitter") -> Any:
    k = extent(Ref(1), e) if op.k is None else op.k
    listed = e.call(aten.topk.default, e.arg(0), k, op.axis, op.largest)
    return [e.call(operator.getitem, listed, index) for index in range(len(op.outputs))]


def _sort(op: Sort, e: "Emitter") -> Any:
    return e.call(operator.getitem, e.call(aten.sort.default, e.arg(0)), 0)


def _fill(op: Fill, e: "Emitter") -> Any:
    assert op.output.dtype is not None
    dtype = torch_dtype(op.output.dtype)
    if op.dims is None:
        return e.call(aten.full_like.default, e.arg(0), op.number, dtype=dtype)
    return e.call(aten.full.default, extents(op, e), op.number, dtype=dtype)


def _scatter(op: Scatter, e: "Emitter") -> Any:
    number = e.literal(2)
    if number is not None:
        return e.call(aten.scatter.value, e.arg(0), op.axis, e.arg(1), number)
    return e.call(aten.scatter.src, e.arg(0), op.axis, e.arg(1), e.arg(2))


def _take(op: Take, e: "Emitter") -> Any:
    x = _permuted(e, e.arg(0), op.front)
    rows = e.call(aten.unsqueeze.default, e.call(aten.arange.default, _extent(e, x)), 1)
    taken = e.call(aten.index.Tensor, x, [rows, e.arg(1)])
    return _permuted(e, taken, op.back)


def _extent(e: "Emitter", x: Any) -> Any:
    return e.call(aten.sym_size.int, x, 0)


def _put(op: Put, e: "Emitter") -> Any:
    x, updates = _permuted(e, e.arg(0), op.front), _permuted(e, e.arg(2), op.front)
    indices = e.arg(1)
    for _ in op.front[2:]:
        indices = e.call(aten.unsqueeze.default, indices, -1)
    spread = e.call(aten.expand_as.default, indices, updates)
    return _permuted(e, e.call(aten.scatter.src, x, 1, spread, updates), op.back)


def _range(op: Range, e: "Emitter") -> Any:
    end = extent(Ref(0), e)
    if op.start:
        end = end + op.start if isinstance(end, int) else e.call(operator.add, end, op.start)
    return e.call(aten.arange.start, op.start, end)


def _permuted(e: "Emitter", x: Any, order: tuple[int, ...]) -> Any:
    return x if order == tuple(sorted(order)) else e.call(aten.permute.default, x, list(order))


def _triangle(op: Triangle, e: "Emitter") -> Any:
    target = aten.triu.default if op.upper else aten.tril.default
    return e.call(target, e.arg(0), op.diagonal)


TOKEN_RULES: dict[type[Op], Callable[[Any, Any], Any]] = {
    Fill: _fill,
    Put: _put,
    Range: _range,
    Scatter: _scatter,
    Sort: _sort,
    Take: _take,
    TopK: _topk,
    Triangle: _triangle,
}
"""How each of these ops is written."""
