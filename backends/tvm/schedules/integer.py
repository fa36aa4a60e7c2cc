"""Products of bytes with the CPU's dot product instruction, and all that follows in one kernel."""

from typing import TYPE_CHECKING

from ..machine import Machine
from ..vnni import GROUP, dot_of
from .finish import written
from .integer_kernel import Kernel
from .integer_match import Product, product_of
from .integer_tile import SMALL, Tile, tile_for

if TYPE_CHECKING:
    import tvm


def integer_product(
    function: "tvm.tirx.PrimFunc", machine: Machine, tile: Tile | None = None
) -> "tvm.s_tir.Schedule | None":
    """A schedule of a product of bytes and of the elementwise stages behind it.

    Args:
        function: the kernel.
        machine: where it runs.
        tile: its tile of sums; None for the one that should be fastest.
    """
    product = product_of(function)
    dot = dot_of(machine)
    if product is None or dot is None or product.lanes != dot.lanes:
        return None
    panels = int(product.panels.shape[0])
    threads = 1 if _is_small(product) else machine.threads
    chosen = tile or tile_for(threads, dot, product.rows, panels, product.steps)
    return written(function, Kernel(product, dot, threads).body(chosen))


def _is_small(product: Product) -> bool:
    """Whether other threads are not worth waking."""
    rows = product.rows
    return rows is not None and rows * product.columns * product.steps * GROUP < SMALL
