"""One call of an ATen operator as the lift rules see it: operands and literals by schema name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import fx

from .fx_tensor import dtype_of, shape_of
from .graph import Graph
from .shapes import normal_axis
from .value import Op, Shape, Value


@dataclass(eq=False)
class Operand:
    """One occurrence of a node among a call's arguments; `index` counts occurrences in order."""

    index: int
    value: Value
    node: fx.Node

    @property
    def is_tensor(self) -> bool:
        return isinstance(self.node.meta.get("val"), torch.Tensor)

    @property
    def shape(self) -> Shape:
        return shape_of(self.node.meta["val"]) or ()

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype | None:
        return dtype_of(self.node.meta.get("val"))


@dataclass
class Call:
    """A node under lifting.

    Attributes:
        node: the node.
        graph: the graph being built, for constants that the node spells as literals.
        args: every argument by its schema name, defaults included; nodes are `Operand`s.
        operands: the occurrences of nodes in the arguments, in order.
        respelled: whether the rule left out an argument of the node (see `forget`).
        dtype: the result's element type, where it is narrower than what torch keeps it in.
        results: the nodes that hold each result, where those are not of this node alone; all of
            one result's mean the same, and the last one is read.
        narrowed: constants of the graph in narrower types than torch keeps them in.
    """

    node: fx.Node
    graph: Graph
    args: dict[str, Any]
    operands: list[Operand] = field(default_factory=list)
    respelled: bool = False
    dtype: np.dtype | None = None
    results: list[list[fx.Node]] = field(default_factory=list)
    narrowed: dict[tuple[Value, np.dtype], Value] = field(default_factory=dict)

    def forget(self, name: str) -> None:
        """Drop an operand whose elements are not read, only its static shape.

        The op can then not be copied as the node spells it, and is written anew.
        """
        self.operands.remove(self.args[name])
        self.respelled = True

    @property
    def val(self) -> Any:
        return self.node.meta.get("val")

    @property
    def shape(self) -> Shape:
        """The shape of the (first) result."""
        return shape_of(self.first) or ()

    @property
    def first(self) -> Any:
        return self.val[0] if isinstance(self.val, list | tuple) else self.val

    @property
    def only_first_read(self) -> bool:
        """Whether no result but the first is used."""
        return all(
            is_getitem(user) and (user.args[1] == 0 or not user.users) for user in self.node.users
        )

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.args.get(name, default)

    def tensor(self, name: str) -> Operand | None:
        """A tensor argument, None where absent or not a tensor node."""
        found = self.args.get(name)
        return found if isinstance(found, Operand) and found.is_tensor else None

    def axis(self, name: str, rank: int) -> int:
        return normal_axis(self.args[name], max(rank, 1))

    def literal(self, number: float, dtype: np.dtype) -> Value:
        """A 0-d constant for a number that the call spells out."""
        return self.graph.constant(np.array(number).astype(dtype), f"{self.node.name}_scalar")


class Writer(Protocol):
    """What hands out the nodes of a graph under construction."""

    def node(self, value: Value) -> fx.Node:
        """The node of a value."""
        ...

    def body(self, node: fx.Node) -> fx.Node:
        """The node of a higher-order operator's body."""
        ...


Rule = Callable[[Call], Op | None]


def is_getitem(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def is_taken_apart(node: fx.Node) -> bool:
    """Whether a node makes several results, each read through `getitem` only."""
    return isinstance(node.meta.get("val"), list | tuple) and all(map(is_getitem, node.users))


def attribute_of(node: fx.Node) -> Any:
    """What a `get_attr` node reads: a tensor, or the body of a higher-order operator."""
    found: Any = node.graph.owning_module
    for name in str(node.target).split("."):
        found = getattr(found, name)
    return found


def ints(found: Any) -> tuple[int, ...] | None:
    """A list argument when all its entries are plain integers."""
    if not isinstance(found, Sequence) or not all(type(entry) is int for entry in found):
        return None
    return tuple(found)


def bound(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names that the operator's schema has for them, its defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    defaults = {argument.name: argument.default_value for argument in schema}
    given = zip((argument.name for argument in schema), args, strict=False)
    return {**defaults, **dict(given), **kwargs}
