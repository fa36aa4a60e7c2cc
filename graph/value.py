"""The pieces of a graph: constants, values and ops."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np

Dim = int | str
"""One extent of a shape: a number, or the name of a symbolic (dynamic) dimension."""
Shape = tuple[Dim, ...]

NARROW = {
    "int2": 2,
    "uint2": 2,
    "int4": 4,
    "uint4": 4,
    "float4_e2m1fn": 4,
    "float6_e2m3fn": 6,
    "float6_e3m2fn": 6,
}
"""Bits of the element types that are narrower than a byte."""


class Constant:
    """A tensor known at compile time; its bytes are read only when `array` is called."""

    def __init__(
        self,
        load: Callable[[], np.ndarray],
        shape: tuple[int, ...],
        dtype: np.dtype,
        *,
        source: object = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        self._load = load
        self._release = release
        self.shape = shape
        self.dtype = dtype
        self.source = source  # the IR's own tensor object, so that lowering can hand it back

    @classmethod
    def of(cls, array: np.ndarray) -> Self:
        """Wrap an array that is in memory."""
        return cls(lambda: array, array.shape, array.dtype)

    @property
    def nbytes(self) -> int:
        """Size in memory, elements of less than a byte packed."""
        return -(-int(np.prod(self.shape, dtype=np.int64)) * bits_of(self.dtype) // 8)

    def array(self) -> np.ndarray:
        """The values, as a read-only view where the IR can give one (memory map, torch storage)."""
        return self._load()

    def release(self) -> None:
        """Let go of a memory map opened by `array`, so its pages no longer count as resident."""
        if self._release is not None:
            self._release()


@dataclass(eq=False)
class Value:
    """One tensor of the graph.

    Attributes:
        name: unique within the graph; the IR's own name where it has one.
        shape: extents, symbolic ones as strings; None when the rank is unknown.
        dtype: element type; None for what is not a tensor.
        producer: the op that makes it; None for graph inputs and constants.
        constant: its payload when it is known at compile time.
        origin: the IR's own handle (an fx.Node, an ir.Value); None for values that passes made.
    """

    name: str
    shape: Shape | None
    dtype: np.dtype | None
    producer: "Op | None" = None
    constant: Constant | None = None
    origin: Any = None
    uses: "dict[tuple[Op, int], None]" = field(default_factory=dict, repr=False)

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype is not None and is_float(self.dtype)

    @property
    def readers(self) -> "list[Op]":
        """The ops that read this value, each once, in order of first use."""
        return list(dict.fromkeys(op for op, _ in self.uses))

    def array(self) -> np.ndarray:
        """The payload of a constant value."""
        if self.constant is None:
            raise ValueError(f"expected a constant, got the computed value {self.name!r}")
        return self.constant.array()


@dataclass(eq=False, kw_only=True)
class Op:
    """One operation. Subclasses in `ops.py` name the operands and carry the attributes.

    Attributes:
        inputs: operands in the vocabulary's order; None where an optional one is absent.
        outputs: results.
        name: the node's name in the IR, for reports.
        scope: dotted path of the module it came from, or "".
        source: the IR's node that this op still stands for; None once an attribute was edited.
        order: position in `inputs` of each tensor argument of `source`; None when they agree.
    """

    inputs: "list[Value | None]" = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    name: str = ""
    scope: str = ""
    source: Any = None
    order: tuple[int, ...] | None = None
    lifted_inputs: "tuple[Value | None, ...]" = field(default=(), repr=False)
    prev: "Op | None" = field(default=None, repr=False)
    next: "Op | None" = field(default=None, repr=False)
    erased: bool = field(default=False, repr=False)

    @property
    def effectful(self) -> bool:
        """Whether the op does something besides making its results, so that it is never dead."""
        return False

    @property
    def output(self) -> Value:
        """The first result."""
        return self.outputs[0]

    @property
    def kind(self) -> str:
        """What reports and `exclude=` call this op."""
        return type(self).__name__

    def operand(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def require(self, index: int) -> Value:
        """An operand that the vocabulary guarantees."""
        value = self.operand(index)
        assert value is not None, f"{self.kind} {self.name!r} lacks operand {index}"
        return value


def bits_of(dtype: np.dtype) -> int:
    """Bits of one element, packed: numpy gives every int4 a byte of its own."""
    return NARROW.get(dtype.name, 8 * dtype.itemsize)


def is_float(dtype: np.dtype) -> bool:
    """Whether a dtype is a floating-point type, the ml_dtypes ones included."""
    return dtype.kind == "f" or dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")


SHARED = frozenset(f.name for f in fields(Op))
"""The fields of every op."""


def own_fields(op: Op) -> dict[str, Any]:
    """What a kind of op adds to every op's fields."""
    return {f.name: getattr(op, f.name) for f in fields(op) if f.name not in SHARED}
