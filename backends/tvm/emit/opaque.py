"""Operators outside the vocabulary: how one is read, and the tables of those that are spelled.

A rule takes the emitter and a `Call` (ATen) or a `Node` (ONNX), and makes the operator's results; a
test beside it may turn down a use of the operator.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ....graph import Op, Value
from ....graph.onnx_attributes import Attributes
from ....graph.ops import Opaque
from .dims import Extent

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

Rule = Callable[["Emitter", Any], "relax.Expr | Sequence[relax.Expr]"]
Test = Callable[[Any], bool]
ATEN: dict[str, tuple[Rule, Test]] = {}
NODES: dict[str, tuple[Rule, Test]] = {}
"""By the operator's name; one of another domain than ONNX's own has that in front."""
CHECKS = (
    "aten._assert_async.default",
    "aten._assert_async.msg",
    "aten._assert_scalar.default",
    "aten._assert_tensor_metadata.default",
    "aten.sym_constrain_range.default",
    "aten.sym_constrain_range_for_size.default",
)
"""Operators that only check something: the run checks the shapes of the inputs itself."""


class Use:
    """One use of an operator; the emitter is there once the operator is emitted."""

    def __init__(self, emitter: "Emitter | None", op: Op) -> None:
        self.op, self._emitter = op, emitter

    @property
    def emitter(self) -> "Emitter":
        assert self._emitter is not None
        return self._emitter

    @property
    def dtype(self) -> str:
        """Element type of the result."""
        return self.emitter.dtype(self.op.output)


class Call(Use):
    """One call of an ATen operator: its arguments by name, defaults included."""

    def __init__(self, emitter: "Emitter | None", op: Op) -> None:
        from torch import fx

        from ....graph.fx_call import bound

        super().__init__(emitter, op)
        places = iter(range(len(op.lifted_inputs)) if op.order is None else op.order)

        def operand(node: Any) -> Any:
            return op.inputs[next(places)]

        args, kwargs = fx.map_arg((op.source.args, op.source.kwargs), operand)
        self.args = bound(op.source, args, kwargs)

    def __getitem__(self, name: str) -> Any:
        """An argument as it was given; operands are values."""
        return self.args[name]

    def get(self, name: str) -> Any:
        return self.args.get(name)

    def tensor(self, name: str, dtype: str | None = None) -> "relax.Expr":
        """An argument as an expression: a tensor, or a number in `dtype` or the result's type."""
        return self.expression(self.args[name], dtype)

    def expression(self, found: Any, dtype: str | None = None) -> "relax.Expr":
        """A value as an expression, a number as a constant of the result's type."""
        if not isinstance(found, Value):
            return self.emitter.number(found, dtype or self.dtype)
        x = self.emitter[found]
        return x if dtype is None else self.emitter.cast(x, dtype)

    def extent(self, found: Any) -> Extent:
        """A number, or what an operand says of extents."""
        if not isinstance(found, Value):
            return int(found)
        (extent,) = self.emitter.contents.extents(found)
        return extent

    def extents(self, name: str) -> list[Extent]:
        """A list argument."""
        found = self.args[name]
        return [self.extent(one) for one in (found if isinstance(found, Sequence) else [found])]

    def axis(self) -> int:
        """The axis "dim" of "self" from the front."""
        return int(self.args["dim"]) % (self.args["self"].rank or 1)


class Node(Use, Attributes):
    """One ONNX node: its attributes, and its operands as expressions."""

    def __init__(self, emitter: "Emitter | None", op: Op) -> None:
        super().__init__(emitter, op)
        self.node = op.source

    def x(self, index: int = 0) -> "relax.Expr":
        """An operand as an expression."""
        return self.emitter[self.op.require(index)]

    def given(self, index: int) -> bool:
        return self.op.operand(index) is not None

    @property
    def operands(self) -> "list[relax.Expr]":
        return [self.emitter[value] for value in self.op.inputs if value is not None]

    def rank(self, index: int = 0) -> int:
        return self.op.require(index).rank or 0

    def extents(self, index: int) -> list[Extent]:
        """An integer operand that is known at emission."""
        return self.emitter.contents.extents(self.op.require(index))

    def number(self, index: int) -> Any:
        """A lone operand that is known at emission; None where it is absent or computed."""
        found = self.emitter.contents.numbers(self.op.operand(index))
        return None if found is None else found.reshape(-1)[0].item()

    def axis(self, default: int = 0) -> int:
        """The `axis` attribute from the front."""
        return self.attr_int("axis", default) % max(self.rank(), 1)


def aten(*names: str, when: Test = lambda call: True) -> Callable[[Rule], Rule]:
    """Enter a rule for ATen overloads, named without the "aten." in front."""

    def enter(rule: Rule) -> Rule:
        ATEN.update(dict.fromkeys((f"aten.{name}" for name in names), (rule, when)))
        return rule

    return enter


def node(*names: str, when: Test = lambda node: True) -> Callable[[Rule], Rule]:
    """Enter a rule for ONNX operators."""

    def enter(rule: Rule) -> Rule:
        NODES.update(dict.fromkeys(names, (rule, when)))
        return rule

    return enter


def spelling_of(op: Op) -> Callable[..., Any] | None:
    """How an operator outside the vocabulary is emitted; None where nothing can spell it."""
    if not isinstance(op, Opaque):
        return None
    if op.target in CHECKS:
        return lambda emitter, op: []
    if op.target == "overridable initializer":
        return lambda emitter, op: [emitter.constant(op.source.const_value.numpy(), op.name)]
    is_call = hasattr(op.source, "kwargs")
    found = (ATEN if is_call else NODES).get(op.target)
    if found is None or op.source is None or op.effectful:
        return None
    (rule, when), kind = found, Call if is_call else Node
    if not when(kind(None, op)):
        return None

    def spell(emitter: "Emitter", op: Op) -> "Sequence[relax.Expr]":
        made = rule(emitter, kind(emitter, op))
        return made if isinstance(made, list | tuple) else [made]

    return spell
