"""The sites of `quantize`: one product or table, or an op that is left alone."""

from dataclasses import dataclass

import numpy as np

from ...graph import Graph, Op, Value
from ...graph.ops import Cast, Conv, Dequantize, Elementwise, Gather, Linear, Reshape
from ..base import LayerQuality, Refusal, decibels
from .activations import quantize_dynamic, quantize_result, quantize_static, result_of
from .layer import LayerData
from .place import Form, kernel_notes
from .rounded import Rounded
from .stored import is_plain, write_weight

INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Left:
    """An op that is left alone, and why."""

    anchor: Op
    refusal: Refusal

    @property
    def touched(self) -> tuple[Op, ...]:
        return (self.anchor,)


@dataclass(frozen=True, eq=False)
class Product:
    """One op to be quantized.

    Attributes:
        anchor: the Linear, Conv or Gather.
        form: how it will be computed.
        rounded: its weight.
        low, high: range of the activation, where its format is static.
        quality: for the report.
        result: range of what it makes, where that is quantized too.
    """

    anchor: Op
    form: Form
    rounded: Rounded
    low: float = 0.0
    high: float = 0.0
    quality: LayerQuality | None = None
    refusal: Refusal | None = None
    result: tuple[float, float] | None = None

    @property
    def touched(self) -> tuple[Op, ...]:
        return (self.anchor,)

    def apply(self, graph: Graph) -> None:
        """Write it."""
        if isinstance(self.anchor, Gather):
            _write_table(graph, self.anchor, self.rounded)
            return
        assert isinstance(self.anchor, Linear | Conv)
        x = self.anchor.x
        _write_product(graph, self.anchor, self.rounded)
        if self.rounded.left is not None and isinstance(self.anchor, Linear):
            _write_branch(graph, self.anchor, x, self.rounded)
        if self.form.activation is None:
            return
        if self.form.dynamic:
            quantize_dynamic(graph, self.anchor, by_row=self.form.by_row)
        else:
            scale = quantize_static(graph, self.anchor, self.form.activation, self.low, self.high)
            _write_bias(graph, self.anchor, self.rounded, scale)
            made = result_of(graph, self.anchor)
            if self.result is not None and made is not None and is_plain(self.rounded):
                quantize_result(graph, made, self.form.activation, *self.result)


def quality_of(op: Op, form: Form, rounded: Rounded, layer: LayerData) -> LayerQuality:
    """What became of a weight, for the report."""
    weight = np.asarray(layer.weight, np.float64)
    dense = rounded.dense()
    noise, signal = float(((weight - dense) ** 2).sum()), float((weight**2).sum())
    seen = float("nan")
    if layer.second is not None:
        lost = max(layer.error(dense), 0.0)
        seen = decibels(float(((weight @ layer.second) * weight).sum()), lost)
    bits = rounded.bits / weight.size
    notes = rounded.notes
    if not is_plain(rounded):
        notes = (*notes, "no kernel: computed in float from what is stored when the model loads")
    else:
        notes = (*notes, *kernel_notes(op, form))
    return LayerQuality(
        op.name, str(form), rounded.method, bits, decibels(signal, noise), seen, notes
    )


def _write_product(graph: Graph, op: Linear | Conv, rounded: Rounded) -> None:
    """Let `op` take its weight from what is stored."""
    old = op.weight
    if isinstance(op, Conv):
        value = write_weight(graph, op, rounded)
        value = _reshaped(graph, op, value, old)
    else:
        # torch groups codes along the last axis only, ONNX Runtime fuses [I, O] only
        by_columns = graph.binding.frontend == "onnx"
        value = write_weight(graph, op, rounded, by_columns=by_columns)
        graph.update(op, layout="io" if by_columns else "oi")
    graph.set_input(op, 1, value)
    if old.constant is not None:
        old.constant.release()


def _reshaped(graph: Graph, op: Conv, value: Value, old: Value) -> Value:
    """[O, I·taps] as the convolution's weight: codes are reshaped themselves where that works."""
    shape = old.shape
    assert shape is not None
    dims = tuple(int(dim) for dim in shape)
    made = value.producer
    if isinstance(made, Dequantize) and made.block == 0:
        codes = made.x.array().reshape(dims)
        graph.set_input(made, 0, graph.constant(codes, made.x.name))
        made.output.shape = dims
        return value
    reshape = Reshape(inputs=[value], dims=dims, scope=op.scope)
    graph.add(reshape, (dims, value.dtype), before=op, name=f"{op.name}_weight")
    return reshape.output


def _write_branch(graph: Graph, op: Linear, x: Value, rounded: Rounded) -> None:
    """Add left·(right·x) to y, which stays the same value for its readers."""
    assert rounded.left is not None
    assert rounded.right is not None
    dtype, result = op.output.dtype, op.output
    shape, rank = result.shape, rounded.left.shape[1]
    assert shape is not None
    assert dtype is not None
    thin = None if x.shape is None else (*x.shape[:-1], rank)
    value = x
    for matrix, extents in ((rounded.right, thin), (rounded.left, shape)):
        weight = graph.constant(matrix.astype(dtype), f"{op.name}_low_rank")
        made = Linear(inputs=[value, weight], layout="oi", scope=op.scope)
        graph.add(made, (extents, dtype), before=op, name=f"{op.name}_low_rank")
        value = made.output
    partial = graph.renew(result, shape)
    total = Elementwise(inputs=[partial, value], outputs=[result], fn="add", scope=op.scope)
    graph.add(total, after=op, name=f"{op.name}_corrected")


def _write_bias(graph: Graph, op: Linear | Conv, rounded: Rounded, scale: np.ndarray) -> None:
    """The bias as int32 codes at the accumulator's scale, where the product is one of integers."""
    part = rounded.parts[0]
    if op.bias is None or op.bias.constant is None or not is_plain(rounded):
        return
    if part.format.block > 0 or part.format.grid.is_float:
        return
    steps = float(scale) * part.scale.reshape(-1)
    bias = op.bias.array()
    codes = np.rint(bias.astype(np.float64) / steps)
    if not np.abs(codes).max(initial=0) <= INT32.max or bias.dtype != np.float32:  # NaN too
        return
    per_channel = steps.size > 1
    scales = (steps if per_channel else steps.reshape(())).astype(np.float32)
    operands = [
        graph.constant(codes.astype(np.int32), f"{op.name}_bias_codes"),
        graph.constant(scales, f"{op.name}_bias_scale"),
    ]
    made = Dequantize(inputs=list(operands), axis=0 if per_channel else None, scope=op.scope)
    graph.add(made, (op.bias.shape, op.bias.dtype), before=op, name=f"{op.name}_bias")
    graph.set_input(op, 2, made.output)


def _write_table(graph: Graph, op: Gather, rounded: Rounded) -> None:
    """Look up codes and scales, and multiply: y = codes[ids]·scale[ids]."""
    part, result = rounded.parts[0], op.output
    shape, dtype = result.shape, result.dtype
    assert shape is not None
    assert dtype is not None
    codes = graph.constant(part.codes.astype(part.format.grid.dtype), f"{op.name}_codes")
    scale = graph.constant(part.scale.astype(dtype), f"{op.name}_scale")
    rows = Gather(inputs=[codes, op.indices], axis=0, scope=op.scope)
    graph.add(rows, (shape, codes.dtype), before=op, name=f"{op.name}_rows")
    steps = Gather(inputs=[scale, op.indices], axis=0, scope=op.scope)
    graph.add(steps, ((*shape[:-1], 1), dtype), before=op, name=f"{op.name}_steps")
    cast = Cast(inputs=[rows.output], dtype=dtype, scope=op.scope)
    graph.add(cast, (shape, dtype), before=op, name=f"{op.name}_cast")
    graph.renew(result, shape)
    product = Elementwise(
        inputs=[cast.output, steps.output], outputs=[result], fn="mul", scope=op.scope
    )
    graph.add(product, after=op, name=f"{op.name}_dequantized")
    graph.prune(op)
