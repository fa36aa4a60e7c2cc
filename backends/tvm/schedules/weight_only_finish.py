"""What is done to a register of sums before it is stored: the stages of a kernel, lane by lane."""

from typing import Any

from .finish import Finish
from .loops import index, sequence, serial, vector
from .weight_only_match import Product


class PanelFinish(Finish):
    """Writes the stages of one product, a panel at a time."""

    def __init__(self, product: Product) -> None:
        super().__init__(product.staged)
        self._form = product.form

    def panel(self, row: Any, panel: Any, sums: Any, start: Any) -> Any:
        """The results of one row and panel.

        Args:
            row: of the whole product.
            panel: which columns.
            sums: buffer that holds their sums.
            start: where in it they begin.
        """
        from tvm import tirx

        form = self._form
        first = panel * form.lanes

        def lane(j: Any) -> Any:
            total = tirx.BufferLoad(sums, [start + j])
            return sequence(self.element([*self.at(row), first + j], total))

        if self.in_vectors:
            whole = vector(form.lanes, lane)
        else:
            whole = serial(index(0), index(form.lanes), lane)
        left = form.columns % form.lanes
        if not left:
            return whole
        some = serial(index(0), index(left), lane)
        return tirx.IfThenElse(panel < form.panels - 1, whole, some)
