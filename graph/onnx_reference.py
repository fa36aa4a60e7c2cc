"""Execute ONNX models with onnx.reference, for verification: slow, and right in float64."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv_transpose import ConvTranspose as OneGroup
from scipy.special import erf

from .onnx_node import MICROSOFT
from .onnx_reference_quant import QUANTIZATION


class SimplifiedLayerNormalization(OpRun):
    """ORT's RMS norm, which ONNX has no schema for."""

    op_domain = ""

    def _run(self, *inputs: np.ndarray, **attributes: Any) -> tuple[np.ndarray]:
        x, scale = inputs[:2]
        axis = attributes.get("axis", -1)
        axes = tuple(range(axis + x.ndim if axis < 0 else axis, x.ndim))
        moment = np.mean(x * x, axis=axes, keepdims=True)
        normed = x / np.sqrt(moment + attributes.get("epsilon", 1e-5)) * scale
        return (normed.astype(x.dtype),)


class Gelu(OpRun):
    """ORT's exact GELU."""

    op_domain = MICROSOFT

    def _run(self, x: np.ndarray, **attributes: Any) -> tuple[np.ndarray]:
        return ((x * 0.5 * (1 + erf(x / np.sqrt(2)))).astype(x.dtype),)


class StandardGelu(OpRun):
    """The reference's own rounds its constants to float32, whatever the type of x."""

    op_domain = ""

    def _run(self, x: np.ndarray, **attributes: Any) -> tuple[np.ndarray]:
        if attributes.get("approximate", "none") == "none":
            return ((x * 0.5 * (1 + erf(x / np.sqrt(2)))).astype(x.dtype),)
        inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
        return ((0.5 * x * (1 + np.tanh(inner))).astype(x.dtype),)


class FastGelu(OpRun):
    """ORT's tanh GELU, with its optional bias."""

    op_domain = MICROSOFT

    def _run(self, *inputs: np.ndarray, **attributes: Any) -> tuple[np.ndarray]:
        x = sum(inputs)
        inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
        return ((0.5 * x * (1 + np.tanh(inner))).astype(inputs[0].dtype),)


class QuickGelu(OpRun):
    """ORT's sigmoid GELU; SiLU when alpha is 1."""

    op_domain = MICROSOFT

    def _run(self, x: np.ndarray, **attributes: Any) -> tuple[np.ndarray]:
        return ((x / (1 + np.exp(-attributes.get("alpha", 1.702) * x))).astype(x.dtype),)


class ORTSimplifiedLayerNormalization(SimplifiedLayerNormalization):
    """The same under ORT's own domain, as some exporters write it."""

    op_domain = MICROSOFT


class GatherElements(OpRun):
    """The reference's own goes wrong when the indices span fewer rows than the data."""

    op_domain = ""

    def _run(self, *inputs: np.ndarray, **attributes: Any) -> tuple[np.ndarray]:
        data, indices = inputs
        axis = attributes.get("axis", 0) % data.ndim
        corner = tuple(
            slice(None) if i == axis else slice(extent) for i, extent in enumerate(indices.shape)
        )
        return (np.take_along_axis(data[corner], indices, axis),)


StandardGelu.__name__ = "Gelu"


class ConvTranspose(OneGroup):
    """The reference's own fails on several groups: run it a group at a time."""

    op_domain = ""

    def _run(  # type: ignore[override]  # the base lists every attribute as a keyword
        self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, **attributes: Any
    ) -> tuple[np.ndarray]:
        count = attributes.get("group") or 1
        parts = zip(np.split(x, count, axis=1), np.split(weight, count), strict=True)
        one = {**attributes, "group": 1}
        run = super()._run
        groups = [run(a, w, None, **one)[0] for a, w in parts]  # type: ignore[no-untyped-call]
        result = np.concatenate(groups, axis=1)
        return (result if bias is None else result + bias.reshape(-1, *[1] * (x.ndim - 2)),)


ORTSimplifiedLayerNormalization.__name__ = "SimplifiedLayerNormalization"
EXTRA: list[type[OpRun]] = [
    SimplifiedLayerNormalization,
    ORTSimplifiedLayerNormalization,
    Gelu,
    StandardGelu,
    FastGelu,
    QuickGelu,
    GatherElements,
    ConvTranspose,
    *QUANTIZATION,
]
"""Operators that exported models are full of and that the reference lacks or gets wrong."""


def run(model: ir.Model, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Execute a model that may be taken apart, on arrays in the order of its required inputs."""
    required = [str(v.name) for v in model.graph.inputs if v.name not in model.graph.initializers]
    if len(required) != len(inputs):
        raise ValueError(f"expected {len(required)} inputs {required}, got {len(inputs)}")
    feeds = dict(zip(required, inputs, strict=True)) | _detach(model)
    proto = ir.to_proto(model)
    return execute(proto, feeds)


def compiled(model: ir.Model) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """A model that may be taken apart, to be executed often."""
    required = [str(value.name) for value in model.graph.inputs]
    weights = _detach(model)
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=EXTRA)
    return lambda arrays: _run(evaluator, dict(zip(required, arrays, strict=True)) | weights)


def execute(proto: onnx.ModelProto, feeds: "dict[str, np.ndarray]") -> list[np.ndarray]:
    """The outputs of a model without initializers."""
    return _run(ReferenceEvaluator(proto, new_ops=EXTRA), feeds)


def _run(evaluator: ReferenceEvaluator, feeds: "dict[str, np.ndarray]") -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        results = evaluator.run(None, feeds)
    return [np.asarray(result) for result in results]


def _detach(model: ir.Model) -> "dict[str, np.ndarray]":
    """Turn initializers into inputs, so that no weight goes through protobuf."""
    feeds: dict[str, np.ndarray] = {}
    for name, value in list(model.graph.initializers.items()):
        assert value.const_value is not None
        feeds[name] = value.const_value.numpy()
        model.graph.initializers.pop(name)
        value.const_value = None
        if value not in model.graph.inputs:
            model.graph.inputs.append(value)
    return feeds
