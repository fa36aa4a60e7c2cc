"""What is done to the sums of a product before they are stored: its stages, element by element."""

from typing import TYPE_CHECKING, Any

from .expressions import number_of, simplified, substituted, with_loads
from .integer_vectors import are_vectorised, with_round
from .loops import as_index, index
from .matmul_loops import block
from .product_stages import Staged
from .tasks import product

if TYPE_CHECKING:
    import tvm


class Finish:
    """Writes the stages of one product.

    Attributes:
        in_vectors: whether they stay in vectors.
        rows: rows of the whole product, an expression.
    """

    def __init__(self, staged: Staged) -> None:
        self._staged = staged
        self._leading = [as_index(extent) for extent in staged.sums.shape[:-1]]
        self.in_vectors = are_vectorised([stage.value for stage in staged.stages])
        self.rows = product(self._leading)

    def at(self, row: Any) -> list[Any]:
        """Position on every leading axis of a row of the whole product."""
        found: list[Any] = []
        for position, extent in reversed(list(enumerate(self._leading))):
            outermost = all(number_of(e) == 1 for e in self._leading[:position])
            found.append(row if outermost else row % extent)
            row = index(0) if outermost else row // extent
        return [simplified(place) for place in reversed(found)]

    def element(self, place: list[Any], total: Any) -> list[Any]:
        """The stages of one element of the result, each computed once."""
        from tvm import tirx

        statements, held = [], dict[Any, Any]()
        stages = [(stage.buffer, stage.indices, stage.value) for stage in self._staged.stages]
        for buffer, indices, value in [(self._staged.sums, (), total), *stages]:
            value = with_round(with_loads(value, lambda load: held.get(load.source, load)))
            value = substituted(value, dict(zip(indices, place, strict=False)))
            held[buffer] = name = tirx.Var("y", str(value.ty))
            statements.append(tirx.Bind(name, value))
            if buffer in self._staged.outputs:
                statements.append(tirx.BufferStore(buffer, name, place))
        return statements


def written(function: "tvm.tirx.PrimFunc", body: "tvm.tirx.Stmt") -> "tvm.s_tir.Schedule":
    """The schedule of a kernel whose body is written out."""
    import tvm
    from tvm import s_tir

    return s_tir.Schedule(tvm.IRModule({"main": function.with_body(block("root", body))}))
