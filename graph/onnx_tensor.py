"""Constants as onnx_ir tensors: shared where untouched, made late where big."""

import mmap
from functools import partial

import numpy as np
import onnx_ir as ir

from .value import Constant

LAZY_BYTES = 1 << 20
"""Payloads above this are made only when the model is written or loaded."""


def constant_of(tensor: ir.TensorProtocol) -> Constant:
    """A constant whose elements stay where they are until someone asks."""
    release = partial(forget_pages, tensor) if isinstance(tensor, ir.ExternalTensor) else None
    shape = tuple(int(dim) for dim in tensor.shape.numpy())
    return Constant(tensor.numpy, shape, tensor.dtype.numpy(), source=tensor, release=release)


def forget_pages(tensor: ir.ExternalTensor) -> None:
    """Let the pages of a memory-mapped tensor go; arrays over it stay valid and read them again.

    Unmapping (`ExternalTensor.release`) fails as long as any array over the map is alive.
    """
    if isinstance(tensor.raw, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        tensor.raw.madvise(mmap.MADV_DONTNEED)


def tensor_of(constant: Constant, name: str) -> ir.TensorProtocol:
    """A tensor of that name holding the constant's payload."""
    source = constant.source
    if isinstance(source, ir.TensorProtocol):
        return source if source.name == name else _renamed(source, name)
    if constant.nbytes <= LAZY_BYTES:
        return ir.Tensor(constant.array(), name=name)
    kind = ir.DataType.from_numpy(constant.dtype)
    return ir.LazyTensor(
        lambda: ir.Tensor(constant.array()), kind, ir.Shape(constant.shape), name=name
    )


def _renamed(source: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """The same payload under another name: writing a model renames its tensors in place."""
    if isinstance(source, ir.ExternalTensor):
        return ir.ExternalTensor(
            source.location,
            source.offset,
            source.length,
            source.dtype,
            shape=ir.Shape(source.shape),
            name=name,
            base_dir=source.base_dir,
        )
    if source.dtype == ir.DataType.STRING:
        return ir.StringTensor(np.array(source.numpy()), name=name)
    return ir.LazyTensor(lambda: source, source.dtype, ir.Shape(source.shape.numpy()), name=name)
