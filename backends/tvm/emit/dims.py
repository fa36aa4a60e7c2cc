"""Extents of shapes as Relax takes them: numbers, and expressions over named variables.

An extent of the graph is a number, a name ("batch") or arithmetic on names ("2*s0", "s0 + 1"). The
names that the inputs' shapes introduce become variables; all other extents must follow from them.
An input whose extent is a·s + b, while no other has the extent s, introduces a variable d for it,
and s is (d − b)/a.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ....graph import Dim, Value

if TYPE_CHECKING:
    from tvm import tirx

Extent = Any
"""A number, or an integer expression of TVM's."""

LONGEST = 500
"""Characters of an expression that is still read: a file may name its dimensions as it likes."""
OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
FUNCTIONS = ("Max", "Min", "Mod", "PythonMod", "FloorDiv")
"""What sympy writes as calls."""


class Unknown(Exception):
    """An extent that does not follow from those of the inputs."""


class Dims:
    """The variables of one function, and what is known of them: each is at least 1.

    Attributes:
        variables: all of them.
    """

    def __init__(self, inputs: Iterable[Value]) -> None:
        from tvm.sym.analyzer import Analyzer

        self.variables: list[Any] = []
        self._analyzer = Analyzer()
        self._known: dict[str, Any] = {}
        dims = [dim for value in inputs for dim in value.shape or () if isinstance(dim, str)]
        for dim in sorted(dict.fromkeys(dims), key=lambda dim: not dim.isidentifier()):
            self._introduce(dim)

    def __call__(self, dim: Dim) -> Extent:
        """An extent of the graph's as Relax takes it.

        Raises:
            Unknown: it does not follow from the inputs' extents.
        """
        if isinstance(dim, int):
            return dim
        if dim not in self._known:
            self._known[dim] = self.simple(_evaluated(_parsed(dim), self._known, dim))
        return self._known[dim]

    def spells(self, value: Value) -> bool:
        """Whether the whole shape of a value follows from the inputs' extents."""
        if value.shape is None:
            return False
        try:
            return all(self(dim) is not None for dim in value.shape)
        except Unknown:
            return False

    def simple(self, extent: Any) -> Extent:
        """The same extent in its shortest form; a number where it is one."""
        from tvm import tirx

        if isinstance(extent, int):
            return extent
        found = self._analyzer.simplify(extent)
        return int(found) if isinstance(found, tirx.IntImm) else found

    def equal(self, a: Any, b: Any) -> bool | None:
        """Whether two extents are the same; None where that depends on the inputs."""
        difference = self.simple(a - b)
        if isinstance(difference, int):
            return difference == 0
        return False if self._analyzer.can_prove(difference != 0) else None

    def at_least(self, a: Any, b: Any) -> bool | None:
        """Whether a ≥ b; None where that depends on the inputs."""
        difference = self.simple(a - b)
        if isinstance(difference, int):
            return difference >= 0
        if self._analyzer.can_prove(difference >= 0):
            return True
        return False if self._analyzer.can_prove(difference < 0) else None

    def largest(self, a: Any, b: Any) -> Extent:
        """The larger of two extents."""
        from tvm import tirx

        known = self.at_least(a, b)
        if known is None:
            return self.simple(tirx.max(*_expressions(a, b)))
        return a if known else b

    def smallest(self, a: Any, b: Any) -> Extent:
        """The smaller of two extents."""
        from tvm import tirx

        known = self.at_least(b, a)
        if known is None:
            return self.simple(tirx.min(*_expressions(a, b)))
        return a if known else b

    def product(self, extents: Sequence[Any]) -> Extent:
        """Number of elements of a shape."""
        total: Any = 1
        for extent in extents:
            total = total * extent
        return self.simple(total)

    def _introduce(self, dim: str) -> None:
        """A variable for an input's extent, unless it follows from what there is."""
        try:
            self(dim)
            return
        except Unknown:
            variable = self._known[dim] = self._variable(dim)
        solved = _linear(dim)
        if solved is not None and solved[0] not in self._known:
            name, factor, offset = solved
            self._known[name] = self.simple((variable - offset) // factor)

    def _variable(self, name: str) -> "tirx.Var":
        from tvm import tirx
        from tvm.sym.analyzer import ConstIntBound

        variable = tirx.Var(identifier(name) or "dim", "int64")
        self._analyzer.update(variable, ConstIntBound(1, ConstIntBound.POS_INF))
        self.variables.append(variable)
        return variable


def identifier(name: str) -> str:
    """A name as TVM and C take it."""
    return "".join(c if c.isalnum() else "_" for c in name)


def _parsed(dim: str) -> ast.expr:
    if len(dim) > LONGEST:
        raise Unknown(dim)
    try:
        return ast.parse(dim, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unknown(dim) from error


def _evaluated(tree: ast.expr, known: dict[str, Any], dim: str) -> Any:
    """The value of an extent's spelling over known names."""
    try:
        return _number(tree, known, dim)
    except (ValueError, RecursionError, MemoryError, ZeroDivisionError) as error:
        raise Unknown(dim) from error


def _expressions(*extents: Extent) -> list[Any]:
    """Extents as integers of TVM's, of one type."""
    from tvm import tirx

    return [tirx.const(e, "int64") if isinstance(e, int) else e for e in extents]


def _number(node: ast.expr, known: dict[str, Any], dim: str) -> Any:
    """The value of an expression over known names."""
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand, known, dim)
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(power))) if power > 0:
            base = found = _number(left, known, dim)
            for _ in range(power - 1):
                found = found * base
            return found
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_number(left, known, dim), _number(right, known, dim))
        case ast.Call(func=ast.Name(id=name), args=args) if name in FUNCTIONS and len(args) > 1:
            return _called(name, [_number(argument, known, dim) for argument in args])
    raise Unknown(dim)


def _called(name: str, arguments: list[Any]) -> Any:
    from tvm import tirx

    if name in ("Mod", "PythonMod"):
        return arguments[0] % arguments[1]
    if name == "FloorDiv":
        return arguments[0] // arguments[1]
    if all(isinstance(argument, int) for argument in arguments):
        return max(arguments) if name == "Max" else min(arguments)
    first, *rest = _expressions(*arguments)
    for other in rest:
        first = tirx.max(first, other) if name == "Max" else tirx.min(first, other)
    return first


def _linear(dim: str) -> tuple[str, int, int] | None:
    """(s, a, b) where an extent is a·s + b with a ≠ 0."""
    try:
        tree = _parsed(dim)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        if len(names) != 1 or dim.isidentifier():
            return None
        (name,) = names
        zero, one, two, far = (_evaluated(tree, {name: n}, dim) for n in (0, 1, 2, 101))
    except Unknown:
        return None
    factor = one - zero
    straight = factor == two - one != 0 and far == zero + 101 * factor
    return (name, factor, zero) if straight else None
