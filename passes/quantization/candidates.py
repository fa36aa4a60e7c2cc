"""Which ops could be quantized, and what structure speaks against it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ...graph import Graph, Op, Value
from ...graph.ops import Conv, Dequantize, DynamicQuantize, Gather, Linear, MatMul, Quantize
from ..base import Refusal
from ..patterns import Pattern
from ..weights import row_axis

KINDS: dict[str, type[Op]] = {
    "Linear": Linear,
    "Conv": Conv,
    "Embedding": Gather,
}
"""The kinds of op that can be quantized, by what `op_types_to_quantize` calls them."""
SPELLINGS = {"MatMul": "Linear", "Gemm": "Linear", "Gather": "Embedding"}
"""ONNX's names for them."""
DEFAULT_KINDS = ("Linear", "Conv")
TYPES = (np.dtype(np.float32), np.dtype(np.float16))
"""Types of weights that are quantized: ONNX has no scales in float64."""


@dataclass(frozen=True)
class Needs:
    """What the caller asked for by name.

    Attributes:
        kinds: keys of KINDS.
        excluded: patterns of ops to leave alone.
    """

    kinds: tuple[str, ...]
    excluded: tuple[Pattern, ...]


def is_quantized(graph: Graph) -> bool:
    """Whether the model came in with quantized values."""
    return first_quantized(graph) is not None


def first_quantized(graph: Graph) -> Op | None:
    """The first op that makes quantized values, reads them or multiplies them."""
    kinds = Quantize | Dequantize | DynamicQuantize
    return next((op for op in graph.ops if isinstance(op, kinds) or op.kind in FOREIGN), None)


FOREIGN = {
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "ConvInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QGemm",
    "QLinearMatMul",
    "QLinearConv",
    "GatherBlockQuantized",
}


def candidates(graph: Graph, kinds: Sequence[str]) -> Iterator[Op]:
    """Ops of the wanted kinds that have a weight to quantize, and products that have none."""
    for op in graph.ops:
        if isinstance(op, Gather):
            if "Embedding" in kinds and _is_table(op):
                yield op
        elif isinstance(op, Linear | MatMul):
            if "Linear" in kinds:
                yield op
        elif isinstance(op, Conv) and "Conv" in kinds:
            yield op


def _is_table(op: Gather) -> bool:
    table = op.x
    return table.constant is not None and table.is_float and table.rank == 2 and op.axis == 0


def structural_refusal(op: Op, needs: Needs) -> Refusal | None:
    """Why an op cannot or should not be quantized, whatever the data."""
    if any(pattern.matches(op) for pattern in needs.excluded):
        return Refusal("named in nodes_to_exclude", op.name)
    if isinstance(op, MatMul):
        return Refusal("both operands are computed at run time (attention stays float)", op.name)
    weight = weight_of(op)
    if weight.constant is None:
        return Refusal("the weight is computed at run time", op.name)
    if weight.dtype not in TYPES:
        detail = f"{weight.dtype}: convert the model first, no kernel multiplies it in fewer bits"
        return Refusal("the weight is neither float32 nor float16", op.name, detail)
    if isinstance(op, Conv) and op.transposed:
        return Refusal("transposed convolutions are not quantized", op.name)
    array = weight.array()
    if not np.isfinite(array).all():
        return Refusal("the weight holds NaN or infinity", op.name, weight.name)
    if not array.any():
        return Refusal("the weight is zero throughout", op.name, weight.name)
    return None


def weight_of(op: Op) -> Value:
    """The constant that is rounded."""
    if isinstance(op, Gather):
        return op.x
    assert isinstance(op, Linear | Conv)
    return op.weight


def matrix_shape(op: Op) -> tuple[int, int]:
    """The shape of `matrix_of`, without a look at the numbers."""
    constant = weight_of(op).constant
    assert constant is not None
    rows, *rest = constant.shape
    if isinstance(op, Linear) and row_axis(op) == 1:
        return rest[0], rows
    return rows, prod(rest)


def matrix_of(op: Op) -> np.ndarray:
    """The weight as [O, I]: rows share a result channel (a token, of an embedding)."""
    array = weight_of(op).array()
    if isinstance(op, Linear):
        return array if row_axis(op) == 0 else array.T
    return array.reshape(array.shape[0], -1)
