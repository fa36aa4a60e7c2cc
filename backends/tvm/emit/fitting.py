"""Extents that must agree, but only the run can tell: a kernel that checks them, and copies.

Relax's own `match_cast` cannot say it: its bindings are simplified away where both extents are
known already.
"""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from .dims import Extent

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

MESSAGE = "the shapes of the inputs do not go together: expected two extents to be equal"


def fitted(emitter: "Emitter", x: "relax.Expr", shape: Sequence[Extent]) -> "relax.Expr":
    """x, of which the run checks that it has this shape."""
    from tvm import te, tirx

    def compute(data: Any) -> Any:
        held = tirx.decl_buffer(list(shape), data.dtype, "fitted", layout=None)
        return te.extern(
            [list(shape)],
            [data],
            lambda inputs, outputs: _checked_copy(inputs[0], outputs[0]),
            dtype=data.dtype,
            out_buffers=[held],
            name="fit",
        )

    return emitter.call_te(compute, x, name="fit")


def _checked_copy(source: Any, target: Any) -> Any:
    """Statements that compare the shapes of two buffers and copy one to the other."""
    from tvm import tirx
    from tvm.ir import StringImm
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    fits = [a.equal(b) for a, b in zip(source.shape, target.shape, strict=True)]
    # TVM 0.27 takes the condition first, whatever the names of the parameters say.
    check = tirx.AssertStmt(tirx.all(*fits), StringImm("ValueError"), [StringImm(MESSAGE)])
    read, written = T.buffer_proxy(source), T.buffer_proxy(target)
    with IRBuilder() as copy, T.serial(0, prod(source.shape)) as i:
        written[i] = read[i]
    return tirx.SeqStmt([check, copy.get()])
