"""The rule for matrix products: any batch, any extents, with what is fused before and after."""

from typing import TYPE_CHECKING

from ..machine import Machine
from .loops import sequence
from .matmul_form import Product
from .matmul_loops import block
from .matmul_match import product_of
from .matmul_nest import Nest
from .matmul_operands import with_columns
from .matmul_stages import stage, with_direct_rows, with_rows_of_b

if TYPE_CHECKING:
    import tvm
    from tvm import tirx


def matmul(function: "tvm.tirx.PrimFunc", machine: Machine) -> "tvm.s_tir.Schedule | None":
    """Tile, vectorise and share out a product of two matrices; see `matmul_nest`."""
    from tvm import s_tir

    product = product_of(function)
    if product is None:
        return None
    product, rows = with_direct_rows(product)
    product, columns, registers = with_columns(product, machine)
    nest = Nest(with_rows_of_b(product), columns, machine).statement()
    return s_tir.Schedule(_kernel(product, machine, [*rows, *registers, nest]))


def _kernel(product: Product, machine: Machine, body: "list[tirx.Stmt]") -> "tvm.tirx.PrimFunc":
    """The function with its blocks replaced by these statements and the stages around them."""
    before = [stage(made, machine) for made in product.before]
    after = [stage(made, machine) for made in product.after]
    whole = sequence([*before, *body, *after])
    return product.function.with_body(block("root", whole, product.buffers))
