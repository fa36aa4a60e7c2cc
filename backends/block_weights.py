"""Weights in 2, 4 or 8 bits by blocks, packed as ONNX Runtime's MatMulNBits takes them.

On a CPU 4-bit weights have fast kernels with float activations (level 0) and with activations
quantized to 8 bits by block (level 4); 2 and 8 bits only the latter. Block sizes are powers of two
from 16 on, for 2 bits 32 to 128 (measured on ONNX Runtime 1.32: others are 50 times slower).
"""

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ..graph.value import bits_of
from ..passes.quantization.place import KERNELS

if TYPE_CHECKING:
    from .quantized_nodes import Weight, Writer


def matmul_nbits(
    writer: "Writer",
    x: ir.Value | None,
    weight: "Weight",
    bias: np.ndarray | None,
    *,
    level: int | None,
) -> ir.Node | None:
    """The product as MatMulNBits, or None where it has no fast kernel.

    Args:
        level: accuracy level, 0 or 4; None for the most accurate that is fast.
    """
    is_integer = "int" in weight.codes.dtype.name
    bits = bits_of(weight.codes.dtype) if is_integer else 0
    block = weight.block or 128
    if block not in KERNELS.get(bits, ()):
        return None
    width, rows = weight.codes.shape
    blocks = -(-width // block)
    shift = 1 << (bits - 1) if weight.codes.dtype.name.startswith("int") else 0
    codes = weight.codes.astype(np.int16) + shift
    scale, zero = _by_block(weight.scale, blocks, rows), None
    if weight.zero is not None or not shift:
        given = np.zeros(()) if weight.zero is None else weight.zero.astype(np.int16)
        zero = _by_block(given, blocks, rows).astype(np.int16) + shift
    filled = np.zeros((rows, blocks * block), np.int16)
    filled[:, :width] = codes.T
    if zero is not None and blocks * block > width:
        filled[:, width:] = zero[:, -1:]  # what fills up the last block stands for 0
    packed = pack(filled.astype(np.uint8), bits).reshape(rows, blocks, block * bits // 8)
    inputs = [
        x,
        writer.initializer(packed, "packed"),
        writer.initializer(scale.astype(np.float32), "scales"),
        None if zero is None else writer.initializer(pack(zero.astype(np.uint8), bits), "zeros"),
        None,
        None if bias is None else writer.initializer(bias, "bias"),
    ]
    best = 0 if bits == 4 else 4
    chosen = best if level is None else level
    return writer.make(
        "MatMulNBits", inputs, K=width, N=rows, bits=bits, block_size=block, accuracy_level=chosen
    )


def _by_block(array: np.ndarray, blocks: int, rows: int) -> np.ndarray:
    """[blocks, O], [O] or [] as [O, blocks]."""
    if array.ndim == 2:
        return array.T
    return np.repeat(np.broadcast_to(array.reshape(-1, 1), (rows, 1)), blocks, axis=1)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes uint8 [O, n] as bytes [O, ⌈n·bits/8⌉], the first code in the lowest bits."""
    if bits == 8:
        return codes
    each = 8 // bits
    short = -codes.shape[1] % each
    parts = np.pad(codes, ((0, 0), (0, short))).reshape(len(codes), -1, each)
    shifts = np.arange(each, dtype=np.uint8) * bits
    packed: np.ndarray = np.bitwise_or.reduce(parts << shifts, axis=2)
    return packed.astype(np.uint8)
