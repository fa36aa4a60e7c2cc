"""A kernel as a matrix product with what is done before and after it.

    C[batch, m, n] = Σ_k a(batch, m, k)·b(batch, k, n)
    output[..] = write(C, batch, m, n)

over axes batch, m, n, k: `a` does not know n, and `b` does not know m (but see `with_rows_of_b`).
Blocks that compute an operand run before; a block that cannot be turned into `write` (its output
has more elements than C) runs after. `matmul_match.product_of` sees one in a kernel.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .expressions import number_of

if TYPE_CHECKING:
    from tvm import ir, s_tir, tirx

WIDER = {"float16": "float32", "bfloat16": "float32"}
"""Types whose sums are kept in a wider one."""


@dataclass(frozen=True)
class Axis:
    """A variable and how far it runs, an expression of the index type."""

    var: "ir.Var"
    extent: Any


@dataclass(frozen=True)
class Product:
    """A kernel with one matrix product; see the module docstring.

    Attributes:
        function: the kernel as it was, for its parameters.
        batch: axes that the product is repeated along.
        m, n, k: axes of the product; n is the one along which the output is contiguous.
        a, b: the factors, in the type of the sum.
        dtype: type of the sum.
        result: buffer C, for reference in `write`.
        write: what is done with one element of C.
        before: blocks that make operands, in order.
        after: blocks that read C as a whole, in order.
        buffers: buffers of `before` and `after`.
        part: length of the parts of k along which `a` is read evenly; 0 for all of it.
    """

    function: "tirx.PrimFunc"
    batch: tuple[Axis, ...]
    m: Axis
    n: Axis
    k: Axis
    a: Any
    b: Any
    dtype: str
    result: "ir.Var"
    write: "tirx.Stmt"
    before: "tuple[s_tir.SBlock, ...]"
    after: "tuple[s_tir.SBlock, ...]"
    buffers: "tuple[ir.Var, ...]"
    part: int = 0

    @property
    def index(self) -> str:
        """Type of every index."""
        return dtype_of(self.n.extent)


def dtype_of(expression: Any) -> str:
    """The type of a number's expression."""
    return str(expression.ty.dtype)


def is_one(extent: Any) -> bool:
    """Whether an extent is known to be 1."""
    return number_of(extent) == 1
