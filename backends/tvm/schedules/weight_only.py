"""Rule: products of a float x with a weight of few bits, and all that follows in one kernel."""

from typing import TYPE_CHECKING, Any

from ..machine import Machine
from .expressions import number_of
from .finish import written
from .weight_only_finish import PanelFinish
from .weight_only_match import product_of
from .weight_only_row import LoneRow
from .weight_only_rows import Rows, Tile, tile_for

if TYPE_CHECKING:
    import tvm

GUESS = 256
"""Rows that the large tile is made for where their number is found at run time."""
FEW = 4
"""Rows of the tile for fewer than those of the large one."""


def weight_only(function: "tvm.tirx.PrimFunc", machine: Machine) -> "tvm.s_tir.Schedule | None":
    """One row streams the weight through the registers; several rows share floats made of it."""
    from tvm import tirx

    product = product_of(function)
    if product is None or product.form.lanes != machine.lanes():
        return None
    finish = PanelFinish(product)
    lone = LoneRow(product, finish, machine.threads).statement(tirx.const(0, "int64"))
    rows = number_of(finish.rows)
    body: Any = lone if rows == 1 else None
    if body is None:
        panels = product.form.panels
        heights = [GUESS, FEW, 1] if rows is None else [rows]
        tiles = [tile_for(machine.registers, height, panels) for height in heights]
        tiles = [Tile(tile.rows, tiles[0].panels) for tile in tiles]
        body = Rows(product, finish, machine.threads).statement(tiles)
        if rows is None:
            body = tirx.IfThenElse(finish.rows.equal(1), lone, body)
    return written(function, body)
