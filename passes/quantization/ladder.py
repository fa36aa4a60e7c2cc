"""The forms that one product could take instead of its own, for a budget to choose from.

Above its own form stand more precise ones: a range found at run time instead of before, weights in
8 bits, a float activation, float. Where the size counts and weights alone are quantized, forms of
fewer bits stand below. A table is looked up and a convolution has no kernel for any other form:
those have their own and float.
"""

from dataclasses import replace

from ...graph import Graph, Op
from ...graph.onnx_quant_opset import opset_for
from ...graph.ops import Linear
from .budget import Budget
from .candidates import matrix_of, weight_of
from .grid import Grid
from .place import Form
from .rounded import Format

W8 = Format(Grid("int8"), 32)
W4 = Format(Grid("uint4", symmetric=False), 32)
W2 = Format(Grid("uint2", symmetric=False), 64)
ROWS8 = Format(Grid("int8"))
DYNAMIC = 1.25
"""What a product costs whose activation is quantized at run time, beside one known beforehand."""


def forms_of(graph: Graph, op: Op, own: Form, budget: Budget) -> list[Form | None]:
    """The forms that the graph's IR can say, its own first; None is float."""
    if not isinstance(op, Linear):
        return [own, None]
    if own.activation is None:
        return [own, *_weights(graph, own.weight, below=budget.size(1) is not None), None]
    if budget.noise is None:  # only the size counts: what stays quantized stays fast
        return [own, None]
    return [own, *_activations(own), *map(Form, _eight(graph)), None]


def _weights(graph: Graph, own: Format, *, below: bool) -> list[Form | None]:
    """Other formats of a weight that is multiplied with floats."""
    bits = own.grid.bits
    above = [one for one in (W4, *_eight(graph)) if one.grid.bits > bits]
    lower = [one for one in (W4, W2) if below and one.grid.bits < bits]
    return [Form(one) for one in (*above, *lower) if _is_said(graph, one)]


def _eight(graph: Graph) -> list[Format]:
    """Weights in 8 bits, by blocks where the IR has blocks."""
    return [W8 if _is_said(graph, W8) else ROWS8]


def _is_said(graph: Graph, one: Format) -> bool:
    """Whether the IR has a format: ONNX's operator set may be too old for it."""
    opset = getattr(graph.binding, "opset", None)
    return opset is None or opset_for(one.grid.dtype, block=one.block) <= opset


def _activations(own: Form) -> list[Form | None]:
    """More precise ways to multiply codes by codes."""
    found: list[Form | None] = []
    if not own.dynamic and own.activation == Grid("uint8", symmetric=False):
        own = replace(own, dynamic=True)
        found.append(own)
    if own.weight.grid.bits < 8 and not own.weight.grid.is_float:
        found.append(replace(own, weight=ROWS8))
    return found


def cost_of(op: Op, form: Form | None) -> float:
    """Bytes that a product reads and multiplies: stored ones, and its operands' at their width.

    Codes are multiplied as they are, anything else in the weight's float type.
    """
    dtype = weight_of(op).dtype
    assert dtype is not None
    stored = width = float(dtype.itemsize)
    if form is not None:
        stored = (form.weight.grid.bits + _scale_bits(form.weight)) / 8
        if form.activation is not None:
            width = form.activation.bits / 8 * (DYNAMIC if form.dynamic else 1)
    return matrix_of(op).size * (stored + width)


def _scale_bits(weight: Format) -> float:
    """Bits of scales per weight, where blocks share them."""
    return 32 / weight.block if weight.block > 0 else 0.0
