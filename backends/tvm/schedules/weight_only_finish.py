"""What is done to a register of sums before it is stored: the stages of a kernel, lane by lane."""

from typing import Any

from .integer_vectors import are_vectorised, with_round
from .loops import as_index, index, sequence, serial, vector
from .stages import number_of, simplified, substituted, with_loads
from .weight_only_match import Product


class Finish:
    """Writes the stages of one product.

    Attributes:
        in_vectors: whether they stay in vectors.
        rows: rows of the whole product, an expression.
    """

    def __init__(self, product: Product) -> None:
        self.product = product
        self.leading = [as_index(extent) for extent in product.sums.shape[:-1]]
        self.in_vectors = are_vectorised([stage.value for stage in product.stages])
        rows: Any = index(1)
        for extent in self.leading:
            rows = rows * extent
        self.rows = simplified(rows)

    def at(self, row: Any) -> list[Any]:
        """Position on every leading axis of a row of the whole product."""
        found: list[Any] = []
        for position, extent in reversed(list(enumerate(self.leading))):
            outermost = all(number_of(e) == 1 for e in self.leading[:position])
            found.append(row if outermost else row % extent)
            row = index(0) if outermost else row // extent
        return [simplified(place) for place in reversed(found)]

    def panel(self, row: Any, panel: Any, sums: Any, start: Any) -> Any:
        """The results of one row and panel.

        Args:
            row: of the whole product.
            panel: which columns.
            sums: buffer that holds their sums.
            start: where in it they begin.
        """
        from tvm import tirx

        form = self.product.form
        first = panel * form.lanes

        def lane(j: Any) -> Any:
            total = tirx.BufferLoad(sums, [start + j])
            return sequence(self._element([*self.at(row), first + j], total))

        if self.in_vectors:
            whole = vector(form.lanes, lane)
        else:
            whole = serial(index(0), index(form.lanes), lane)
        left = form.columns % form.lanes
        if not left:
            return whole
        some = serial(index(0), index(left), lane)
        return tirx.IfThenElse(panel < form.panels - 1, whole, some)

    def _element(self, place: list[Any], total: Any) -> list[Any]:
        """The stages of one element of the result, each computed once."""
        from tvm import tirx

        product, statements = self.product, []
        held: dict[Any, Any] = {}
        stages = [(stage.buffer, stage.indices, stage.value) for stage in product.stages]
        for buffer, indices, value in [(product.sums, (), total), *stages]:
            at = {var: here for var, here in zip(indices, place, strict=False) if _is_var(var)}
            value = with_loads(value, lambda load: held.get(load.source, load))
            value = substituted(with_round(value), at)
            name = tirx.Var("y", str(value.ty))
            statements.append(tirx.Bind(name, value))
            held[buffer] = name
            if buffer in product.outputs:
                statements.append(tirx.BufferStore(buffer, name, place))
        return statements


def _is_var(index: Any) -> bool:
    return number_of(index) is None
