"""Hand a model in memory to ONNX Runtime, its big tensors by pointer instead of by copy.

A protobuf holds at most 2 GB, and would hold a second copy of every weight. So big initializers are
written as external data without a file, and the session gets their memory itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

POINTER_BYTES = 1 << 16
"""Tensors at least this large are passed by pointer."""
SHARED_TYPES = (
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.INT8,
    ir.DataType.UINT8,
)


def serialized(model: ir.Model, options: ort.SessionOptions) -> tuple[bytes, list[np.ndarray]]:
    """The model as bytes, its big initializers attached to `options`.

    Returns the bytes and the arrays that must live as long as the session: it keeps pointers.
    """
    big = [value for value in model.graph.initializers.values() if _is_big(value)]
    arrays = [_contiguous(value) for value in big]
    if arrays:
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays]
        options.add_external_initializers([str(value.name) for value in big], values)
    with _hollow(big):
        payload = ir.to_proto(model).SerializeToString()
    return payload, arrays


def _is_big(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.nbytes >= POINTER_BYTES and tensor.dtype in SHARED_TYPES


def _contiguous(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return np.ascontiguousarray(value.const_value.numpy())


@contextmanager
def _hollow(values: list[ir.Value]) -> Iterator[None]:
    """For the time of serialisation, let the initializers point to external data."""
    tensors = [value.const_value for value in values]
    try:
        for value, tensor in zip(values, tensors, strict=True):
            assert tensor is not None
            value.const_value = ir.ExternalTensor(
                "held-in-memory",
                0,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=str(value.name),
                base_dir="",
            )
        yield
    finally:
        for value, tensor in zip(values, tensors, strict=True):
            value.const_value = tensor
