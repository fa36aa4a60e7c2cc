"""Refuse models whose weights or interface cannot be worked with, and say which part it is."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch

from .errors import InvalidModel
from .graph import is_float
from .graph.onnx_tensor import forget_pages

BLOCK = 1 << 22
"""Elements looked at together: the answer costs no more memory than that."""


def check_tensors(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse NaN in the parameters and buffers of a torch model.

    Raises:
        InvalidModel: names the first tensor that holds NaN.
    """
    for path, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.device.type != "meta" and _torch_nan(tensor):
            raise InvalidModel(f"{name}: {path!r} holds NaN: repair the checkpoint")


def _torch_nan(tensor: torch.Tensor) -> bool:
    blocks = tensor.detach().reshape(-1).split(BLOCK) if tensor.is_contiguous() else (tensor,)
    return any(bool(torch.isnan(block).any()) for block in blocks)


def check_onnx(model: ir.Model, name: str) -> None:
    """Refuse NaN in initializers.

    Raises:
        InvalidModel: names the first initializer that holds NaN.
    """
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and is_float(tensor.dtype.numpy()) and _onnx_nan(tensor):
            raise InvalidModel(
                f"{name}: initializer {value.name!r} holds NaN: repair the checkpoint"
            )


def check_interface(model: ir.Model, name: str) -> None:
    """Refuse inputs and outputs that are no tensors of numbers, which nothing here can compare.

    Raises:
        InvalidModel: names the input or output.
    """
    for what, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            kind = value.type
            is_tensor = kind is None or isinstance(kind, ir.TensorType)
            if not is_tensor or value.dtype == ir.DataType.STRING:
                raise InvalidModel(
                    f"{name}: {what} {value.name!r} is {kind}: expected a tensor of numbers"
                )


def _onnx_nan(tensor: ir.TensorProtocol) -> bool:
    """Block by block; a file's pages are let go again."""
    array = tensor.numpy().reshape(-1)
    starts = range(0, array.size, BLOCK)
    blocks = (array[start : start + BLOCK].astype(np.float32, copy=False) for start in starts)
    found = any(bool(np.isnan(block).any()) for block in blocks)
    if isinstance(tensor, ir.ExternalTensor):
        forget_pages(tensor)
    return found
