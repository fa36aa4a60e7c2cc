"""How the ONNX operators that choose positions at run time read in the vocabulary."""

from .onnx_node import NodeView, rule
from .ops import Fill, Scatter, TopK, Triangle
from .value import Op


@rule("TopK")
def _topk(view: NodeView) -> Op | None:
    axis, k = view.axis(-1, view.rank(0)), view.constant_ints(1)
    if axis is None or not view.given(1):
        return None
    number = None if k is None else k[0]
    return TopK(axis=axis, k=number, largest=bool(view.attr_int("largest", 1)))


@rule("ScatterElements", "Scatter")
def _scatter(view: NodeView) -> Op | None:
    axis = view.axis(0, view.rank(0))
    if axis is None or view.attr_string("reduction", "none") != "none":
        return None
    return Scatter(axis=axis)


@rule("ConstantOfShape")
def _fill(view: NodeView) -> Op | None:
    value = view.node.attributes.get("value")
    number = 0.0 if value is None else value.as_tensor().numpy().reshape(-1)[0].item()
    return Fill(number=number, dims=view.constant_ints(0))


@rule("Trilu")
def _triangle(view: NodeView) -> Op | None:
    diagonal = view.constant_ints(1) if view.given(1) else (0,)
    if diagonal is None:
        return None
    return Triangle(upper=bool(view.attr_int("upper", 1)), diagonal=diagonal[0])
