"""Recognise a product with a weight in few bits, and what is done to its result.

The kernel is a reduction with stages (`product_stages`), and the reduction is
    sums[.., m, n] = Σ_k x[.., m, k] · W[k, n]
where W[k, n] is exactly what `weight_only_format.element` says for the buffers that are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .expressions import loads_of, number_of, same, simplified
from .product_stages import Staged, staged_of
from .stages import Loop, Stage
from .weight_only_format import ENTRIES, WORD, Format, Operands, element

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class Product:
    """What a kernel computes; see the module docstring.

    Attributes:
        x: float32 [.., M, K].
        weight: its buffers.
        form: its numbers.
        staged: its sums, float32 [.., M, N], and what is done to them.
    """

    x: Any
    weight: Operands
    form: Format
    staged: Staged


def product_of(function: "tvm.tirx.PrimFunc") -> Product | None:
    """What a kernel computes, if it is such a product with elementwise stages."""
    found = staged_of(function)
    operands = None if found is None else _operands(found[0])
    return None if found is None or operands is None else Product(*operands, found[1])


def _operands(stage: Stage) -> tuple[Any, Operands, Format] | None:
    """(x, the weight, its format) of the reduction."""
    from tvm import ir, tirx

    reduced = [loop for loop in stage.loops if loop.reduces]
    if stage.combine is not tirx.Add or not _is_zero(stage.init):
        return None
    if len(reduced) != 1 or not isinstance(stage.value, tirx.Mul):
        return None
    x, k = stage.value.a, reduced[0]
    is_whole = isinstance(x, ir.TensorLoad) and same(x.indices, [*stage.indices[:-1], k.var])
    if not is_whole or str(x.ty) != "float32" or k.size != number_of(x.source.shape[-1]):
        return None
    weight = _weight(stage.value.b)
    columns = number_of(stage.buffer.shape[-1])
    if weight is None or columns is None or k.size is None:
        return None
    for form in _formats(weight, k.size, columns):
        if _is_element(form, weight, stage, k):
            return x.source, weight, form
    return None


def _is_zero(value: Any) -> bool:
    return float(getattr(value, "value", 1.0)) == 0.0


def _weight(value: Any) -> Operands | None:
    """The buffers that an expression reads, told apart by type and rank."""
    found: dict[tuple[str, int], Any] = {}
    for load in loads_of(value):
        key = (str(load.ty), len(load.source.shape))
        other = found.setdefault(key, load.source)
        if not other.same_as(load.source):
            return _with_offset(value)
    return _told_apart(found)


def _with_offset(value: Any) -> Operands | None:
    """number·scale + offset: two buffers of one type, the offset on its own."""
    from tvm import ir, tirx

    if not isinstance(value, tirx.Add) or not isinstance(value.b, ir.TensorLoad):
        return None
    found = {(str(load.ty), len(load.source.shape)): load.source for load in loads_of(value.a)}
    weight = _told_apart(found)
    if weight is None or weight.shift is not None:
        return None
    return Operands(weight.codes, weight.scale, value.b.source, weight.table)


def _told_apart(found: dict[tuple[str, int], Any]) -> Operands | None:
    codes = found.get(("uint8", 4), found.get(("int8", 4)))
    scale = found.get(("float32", 3))
    if codes is None or scale is None:
        return None
    return Operands(codes, scale, found.get(("int8", 3)), found.get(("float32", 1)))


def _formats(weight: Operands, rows: int, columns: int) -> list[Format]:
    """Formats that fit the buffers' shapes."""
    shapes = [[number_of(e) for e in part.shape] for part in (weight.codes, weight.scale)]
    (_, words, lanes, _), (_, blocks, _) = shapes
    if not words or not lanes or not blocks or words % blocks:
        return []
    made = [
        Format(bits, rows, columns, lanes, words // blocks)
        for bits in ((8,) if str(weight.codes.dtype) == "int8" else (1, 2, 4))
    ]
    return [form for form in made if _fits(form, weight)]


def _fits(form: Format, weight: Operands) -> bool:
    """Whether the buffers have the shapes of a format."""
    by_block = [form.panels, form.blocks, form.lanes]
    wanted: list[tuple[Any, Sequence[int]]] = [
        (weight.codes, [form.panels, form.words, form.lanes, WORD // 8]),
        (weight.scale, by_block),
        (weight.shift, by_block),
        (weight.table, [ENTRIES]),
    ]
    return all(
        part is None or [number_of(e) for e in part.shape] == list(shape) for part, shape in wanted
    )


def _is_element(form: Format, weight: Operands, stage: Stage, k: Loop) -> bool:
    """Whether the reduction multiplies by W[k, n] of this format."""
    column = stage.indices[-1]
    if number_of(column) is not None:
        return False
    expected = element(form, weight, k.var, column)
    return same([stage.value.b], [expected]) or same(
        [simplified(stage.value.b)], [simplified(expected)]
    )
