"""Linears with a packed weight through the TVM backend, against torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from passel.backends.tvm.emit import emit
from passel.backends.tvm.emit.linear import packed
from passel.backends.tvm.machine import machine_of
from passel.backends.tvm.pipeline import build
from passel.graph import fx
from tests.backends.tvm.emission import called
from tests.backends.tvm.product_kernels import MACHINES


class Block(nn.Module):
    """A linear, GELU, and a linear with a residual; the last multiplies by a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 50), nn.Linear(50, 24, bias=False)
        self.third = nn.Parameter(torch.randn(24, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.second(nn.functional.gelu(self.first(x)))
        return x @ self.third


@pytest.mark.parametrize("mcpu", MACHINES)
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [
        (torch.float32, 1e-5),
        (torch.float64, 1e-13),
        (torch.float16, 2**-5),
        (torch.bfloat16, 2**-2),
    ],
)
def test_each_product_is_one_kernel(dtype: torch.dtype, bound: float, mcpu: str) -> None:
    """And what follows it is part of the kernel.

    Results are below 32, so the bounds of the narrow types are two units in their last place.
    """
    from tvm import cpu, relax
    from tvm.runtime import tensor

    torch.manual_seed(0)
    target = machine_of(mcpu, 2)
    module, x = Block().eval().to(dtype), torch.randn(2, 7, 24).to(dtype)
    emitted = emit(fx.lift(torch.export.export(module, (x,))), target)
    code, scheduled = build(emitted.module, target)
    assert (list(scheduled.rules.values()), scheduled.serial) == (["matmul"] * 3, [])
    constants = [
        torch.from_numpy(array.astype(np.float32)).to(dtype)
        if dtype is torch.bfloat16
        else tensor(array)
        for array in emitted.constants
    ]
    found = relax.VirtualMachine(code, cpu())["main"](x, constants)[0]
    assert (torch.from_dlpack(found) - module(x)).abs().max() < bound


def test_open_token_count() -> None:
    target = machine_of("znver4", 2)
    module = nn.Linear(12, 40).eval()
    batch, tokens = torch.export.Dim("batch", max=16), torch.export.Dim("tokens", max=512)
    x = torch.randn(3, 7, 12)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: batch, 1: tokens},))
    emitted = emit(fx.lift(program), target)
    code, scheduled = build(emitted.module, target)
    assert not scheduled.serial
    run = called(code, emitted.constants)
    for shape in ((1, 2, 12), (3, 7, 12), (2, 130, 12)):
        x = torch.randn(shape)
        (found,) = run([x.numpy()])
        torch.testing.assert_close(torch.from_numpy(found), module(x), rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(inner=st.integers(1, 5), width=st.integers(1, 40), lanes=st.sampled_from([2, 8, 16]))
def test_packing(inner: int, width: int, lanes: int) -> None:
    weight = 1 + np.arange(inner * width, dtype=np.float32).reshape(inner, width)
    panels = packed(weight, lanes)
    assert panels.shape == (-(-width // lanes), inner, lanes)
    for i in range(inner):
        for j in range(panels.shape[0] * lanes):
            expected = weight[i, j] if j < width else 0
            assert panels[j // lanes, i, j % lanes] == expected
