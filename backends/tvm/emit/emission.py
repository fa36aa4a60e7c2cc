"""How one op is emitted: what a pattern or the table decides before anything is written."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....graph import Op, Value

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


@dataclass(frozen=True)
class Emission:
    """How one op is emitted, alone or with what it covers of its producers.

    Attributes:
        op: the op whose results it makes.
        reads: the computed values that it needs.
        emit: makes one Relax expression per result of `op`; None for one that `Emitter.contents`
            holds.
        shapes: computed values of which it only needs the shape.
        also: ops in front of `op` whose results it makes as well, behind those of `op`; nothing
            reads these results before `op` is emitted.
    """

    op: Op
    reads: tuple[Value, ...]
    emit: "Callable[[Emitter], Sequence[relax.Expr | None]]"
    shapes: tuple[Value, ...] = ()
    also: tuple[Op, ...] = ()

    @property
    def results(self) -> list[Value]:
        """All that it makes, in order."""
        return [value for op in (self.op, *self.also) for value in op.outputs]


def computed(values: Iterable[Value | None]) -> tuple[Value, ...]:
    """Those values that are there and no constants: what an emission that takes them reads."""
    return tuple(value for value in values if value is not None and value.constant is None)
