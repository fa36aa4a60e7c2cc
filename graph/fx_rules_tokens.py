"""Lift rules for operators that choose positions at run time: top-k, scatter, indexing by batch."""

from typing import Any

import torch
from torch import fx

from .fx_call import Call, Operand, Rule
from .fx_tensor import numpy_dtype, shape_of
from .ops import Fill, Gather, Ref, Scatter, Take, TopK, Triangle
from .value import Dim, Op

_INTEGERS = (torch.int64, torch.int32)
_PASSED = ("view", "reshape", "unsqueeze", "_to_copy", "to", "contiguous", "clone", "alias")
"""Operators through which an arange is still the same numbers in the same order."""


def _topk(call: Call) -> Op | None:
    x, k = call.tensor("self"), call["k"]
    if x is None or x.rank == 0:
        return None
    inputs: list[Any] = [x, k] if isinstance(k, Operand) else [x]
    number = None if isinstance(k, Operand) else k
    axis = call.axis("dim", x.rank)
    return TopK(inputs=inputs, axis=axis, k=number, largest=bool(call["largest"]))


def _sort(call: Call) -> Op | None:
    """A sort is a top-k of all entries; a stable one promises more than a top-k does."""
    x = call.tensor("self")
    if x is None or x.rank == 0 or call.get("stable"):
        return None
    axis = call.axis("dim", x.rank)
    extent = x.shape[axis]
    if not isinstance(extent, int):
        return None
    return TopK(inputs=[call["self"]], axis=axis, k=extent, largest=bool(call["descending"]))


def _fill(number: float | None = None) -> Rule:
    """A rule for a tensor of one number, given or in the call."""

    def rule(call: Call) -> Op | None:
        held = call.get("fill_value") if number is None else number
        if not isinstance(held, bool | int | float) or numpy_dtype(call.val.dtype) is None:
            return None
        size = call.get("size", call.shape)  # "like" another tensor: static, or as that one's
        inputs: list[Any] = [entry for entry in size if isinstance(entry, Operand)]
        refs = map(Ref, range(len(inputs)))
        dims = tuple(next(refs) if isinstance(entry, Operand) else entry for entry in size)
        if any(isinstance(dim, str) for dim in dims):
            return Fill(inputs=[call["self"]], number=held)
        return Fill(inputs=inputs, number=held, dims=dims)

    return rule


def _scatter(call: Call) -> Op | None:
    x, indices = call.tensor("self"), call.tensor("index")
    updates: Any = call.tensor("src")
    if updates is None and isinstance(call.get("value"), bool | int | float):
        dtype = numpy_dtype(call.val.dtype)
        updates = None if dtype is None else call.literal(call["value"], dtype)
    if x is None or indices is None or updates is None or x.rank == 0:
        return None
    if isinstance(updates, Operand) and updates.shape != indices.shape:
        return None  # torch reads a corner of it
    inputs: list[Any] = [x, indices, updates]
    return Scatter(inputs=inputs, axis=call.axis("dim", x.rank))


def _index(call: Call) -> Op | None:
    """x[:, idx] is a Gather; x[arange(B), idx] names other rows for each batch element."""
    x, indices = call.tensor("self"), call["indices"]
    if x is None or any(i is not None and not _is_index(i, *_INTEGERS) for i in indices):
        return None
    given = [axis for axis, index in enumerate(indices) if index is not None]
    inputs: list[Any] = [x, *(indices[axis] for axis in given[-1:])]
    if len(given) == 1:
        return Gather(inputs=inputs, axis=given[0])
    if given != [0, 1] or not _is_iota(indices[0].node, x.shape[0]):
        return None
    lead, chosen = indices[0].shape, indices[1].shape
    if chosen[:1] != x.shape[:1] or len(chosen) != 2 or lead != (x.shape[0], 1):
        return None
    if not _is_index(indices[1], torch.int64):
        return None
    return Take(inputs=inputs, axis=1, batch=0)


def _is_index(found: Any, *dtypes: torch.dtype) -> bool:
    """Whether an index is a tensor of positions, not a mask."""
    return isinstance(found, Operand) and found.node.meta["val"].dtype in dtypes


def _is_iota(node: fx.Node, extent: Dim) -> bool:
    """Whether a node holds 0, 1, .. extent − 1, in whatever shape."""
    while node.op == "call_function" and _name(node) in _PASSED:
        node = node.args[0]  # type: ignore[assignment]
    if node.op != "call_function" or _name(node) != "arange":
        return False
    bounds = [bound for bound in node.args if not isinstance(bound, torch.dtype)]
    counts_up = len(bounds) == 1 or (bounds[0] == 0 and bounds[2:] in ([], [1]))
    return bool(counts_up) and shape_of(node.meta["val"]) == (extent,)


def _name(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]


def _triangle(*, upper: bool) -> Rule:
    """A rule for torch.tril or torch.triu."""

    def rule(call: Call) -> Op | None:
        x, diagonal = call.tensor("self"), call["diagonal"]
        if x is None or type(diagonal) is not int:
            return None
        inputs: list[Any] = [x]
        return Triangle(inputs=inputs, upper=upper, diagonal=diagonal)

    return rule


TOKENS: dict[str, Rule] = {
    "tril.default": _triangle(upper=False),
    "triu.default": _triangle(upper=True),
    "topk.default": _topk,
    "sort.default": _sort,
    "sort.stable": _sort,
    "scatter.src": _scatter,
    "scatter.value": _scatter,
    "index.Tensor": _index,
    **{f"{name}.default": _fill(0.0) for name in ("zeros", "zeros_like", "new_zeros")},
    **{f"{name}.default": _fill(1.0) for name in ("ones", "ones_like", "new_ones")},
    **{f"{name}.default": _fill() for name in ("full", "full_like", "new_full")},
}
"""The rule of each ATen overload, by its name without the "aten." prefix."""
