"""Dynamic shapes as users write them: which extents are free, and what they are called."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from .errors import InvalidInput
from .signature import Arguments

Entries = list[dict[int, Any]]
"""For each leaf of the arguments, what was said about its axes."""


def named_dims(dynamic_shapes: Any) -> Any:
    """Let users write {"x": {0: "batch"}}: equal names become one torch.export.Dim."""
    dims: dict[str, Any] = {}

    def convert(entry: Any) -> Any:
        if isinstance(entry, str):
            if not entry.isidentifier():
                raise InvalidInput(f"dynamic_shapes: expected a name like 'batch', got {entry!r}")
            return dims.setdefault(entry, Dim(entry))
        if isinstance(entry, dict):
            return {key: convert(value) for key, value in entry.items()}
        if isinstance(entry, list | tuple):
            return type(entry)(convert(value) for value in entry)
        return entry

    return convert(dynamic_shapes)


def widened(model: torch.nn.Module, arguments: Arguments, shapes: Any) -> Arguments:
    """The arguments, twice as long wherever a dynamic extent is 1, which the export would fix."""
    leaves, spec = pytree.tree_flatten(arguments)
    entries = _entries(model, arguments, shapes)
    if len(entries) == len(leaves):
        leaves = [_doubled(leaf, axes) for leaf, axes in zip(leaves, entries, strict=True)]
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return args, kwargs


def _doubled(leaf: Any, axes: dict[int, Any]) -> Any:
    for axis, entry in axes.items():
        fixed = entry is None or isinstance(entry, int) or entry == Dim.STATIC
        if not fixed and -leaf.ndim <= axis < leaf.ndim and leaf.shape[axis] == 1:
            leaf = torch.cat([leaf, leaf], axis)
    return leaf


def dim_names(
    program: ExportedProgram, model: torch.nn.Module, arguments: Arguments, shapes: Any
) -> dict[str, str]:
    """The user's names of the program's symbols, such as {"s77": "batch"}."""
    specs = program.graph_signature.input_specs
    users = [spec.arg.name for spec in specs if spec.kind is InputKind.USER_INPUT]
    values = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    entries = _entries(model, arguments, shapes)
    if len(entries) != len(users):
        return {}
    pairs = zip((values.get(name) for name in users), entries, strict=True)
    found = [
        (str(value.shape[axis]), getattr(entry, "__name__", ""))
        for value, axes in pairs
        if value is not None
        for axis, entry in axes.items()
    ]
    return {symbol: name for symbol, name in found if symbol.isidentifier() and name.isidentifier()}


def _entries(model: torch.nn.Module, arguments: Arguments, shapes: Any) -> Entries:
    """In the flat order of the arguments; without the rest where the two do not fit together."""
    args, kwargs = arguments
    if not isinstance(shapes, Mapping):
        return [*_flat(args, shapes), *_flat(kwargs, None)]
    by_position = [shapes.get(name) for name in positional(model)[: len(args)]]
    return [*_flat(args, by_position), *_flat(kwargs, shapes)]


def positional(model: torch.nn.Module) -> list[str]:
    """Names of the parameters of `forward` that can be given by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(model.forward).parameters.values()
    return [parameter.name for parameter in found if parameter.kind in kinds]


def _flat(value: Any, shapes: Any) -> Iterator[dict[int, Any]]:
    if isinstance(value, torch.Tensor):
        yield _axes(shapes)
    elif isinstance(value, dict):
        inner = shapes if isinstance(shapes, Mapping) else {}
        for key, item in value.items():
            yield from _flat(item, inner.get(key))
    elif isinstance(value, list | tuple):
        several: Sequence[Any] = shapes if isinstance(shapes, list | tuple) else ()
        for index, item in enumerate(value):
            yield from _flat(item, several[index] if index < len(several) else None)
    else:
        yield from ({} for _ in pytree.tree_leaves(value))


def _axes(shapes: Any) -> dict[int, Any]:
    if isinstance(shapes, Mapping):
        return {axis: entry for axis, entry in shapes.items() if isinstance(axis, int)}
    return dict(enumerate(shapes)) if isinstance(shapes, list | tuple) else {}
