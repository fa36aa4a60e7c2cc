"""Convolutions through the TVM backend against torch, and the arithmetic of their extents."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from passel.backends.tvm.emit import emit
from passel.backends.tvm.emit.conv_geometry import forward, geometry_of
from passel.backends.tvm.machine import Machine, machine_of
from passel.backends.tvm.pipeline import build
from passel.graph import fx
from passel.graph.ops import Conv
from tests.backends.tvm.emission import called
from tests.backends.tvm.product_kernels import MACHINES

BOUND = 1e-5
"""On float32 results of order 1 that are summed in another order."""


class Patches(nn.Module):
    """The embedding of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 20, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).flatten(2).transpose(1, 2)


CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "pointwise": (nn.Conv2d(6, 10, 1), (2, 6, 5, 7)),
    "patches as an image": (nn.Conv2d(3, 8, 4, 4), (1, 3, 8, 12)),
    "long lines": (nn.Conv2d(3, 9, 3, padding=1), (1, 3, 6, 30)),
    "long lines, strided": (nn.Conv2d(3, 5, 3, stride=2, padding=1), (1, 3, 9, 64)),
    "short lines, grouped": (nn.Conv2d(4, 8, 3, padding=1, groups=2), (2, 4, 9, 9)),
    "depthwise": (nn.Conv2d(5, 5, 3, padding=1, groups=5), (1, 5, 7, 19)),
    "depthwise, strided": (nn.Conv2d(4, 8, (3, 5), (2, 3), groups=4), (1, 4, 9, 23)),
    "dilated": (nn.Conv2d(2, 3, 3, padding=2, dilation=2), (1, 2, 7, 5)),
    "one axis": (nn.Conv1d(4, 6, 5, padding=2, bias=False), (2, 4, 30)),
    "three axes": (nn.Conv3d(2, 3, 3, padding=1), (1, 2, 4, 5, 6)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), (1, 4, 5, 6)),
    "transposed, cropped": (nn.ConvTranspose2d(2, 3, 3, padding=4, dilation=2), (1, 2, 9, 8)),
    "tokens": (Patches(), (2, 3, 8, 12)),
}


def error(module: nn.Module, x: torch.Tensor, target: Machine) -> tuple[float, list[str]]:
    """The largest difference to torch, and the rules that the kernels took."""
    program = torch.export.export(module.eval(), (x,))
    emitted = emit(fx.lift(program), target)
    code, scheduled = build(emitted.module, target)
    (found,) = called(code, emitted.constants)([x.numpy()])
    assert not scheduled.serial
    return float(np.abs(found - module(x).detach().numpy()).max()), list(scheduled.rules.values())


@pytest.mark.parametrize("mcpu", MACHINES)
@pytest.mark.parametrize("name", CASES)
def test_convolution(name: str, mcpu: str) -> None:
    module, shape = CASES[name]
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    wrong, rules = error(module, x, machine_of(mcpu, 2))
    assert wrong < BOUND
    assert rules == ["matmul"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.integers(4, 12),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    pads=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.integers(1, 2),
    gap=st.integers(0, 1),
)
def test_extents_are_those_of_torch(
    size: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int, gap: int
) -> None:
    x, weight = torch.zeros(1, 1, size), torch.zeros(1, 1, kernel)
    if size + sum(pads) >= (kernel - 1) * dilation + 1:
        found = geometry_of(
            Conv(stride=(stride,), padding=(pads,), dilation=(dilation,)), [size], [1, 1, kernel]
        )
        wide = nn.functional.pad(x, pads)
        wanted = nn.functional.conv1d(wide, weight, stride=stride, dilation=dilation)
        assert found.across == wanted.shape[2:]
    extra = gap if gap < max(stride, dilation) else 0
    if (size - 1) * stride + (kernel - 1) * dilation + 1 + extra > 2 * pads[0]:
        found = geometry_of(
            Conv(
                stride=(stride,),
                padding=((pads[0], pads[0]),),
                dilation=(dilation,),
                transposed=True,
                output_padding=(extra,),
            ),
            [size],
            [1, 1, kernel],
        )
        wanted = nn.functional.conv_transpose1d(
            x, weight, None, stride, pads[0], extra, 1, dilation
        )
        assert found.across == wanted.shape[2:]


def test_transposed_weight_is_turned_round() -> None:
    weight = np.arange(2 * 3 * 2).reshape(2, 3, 2).astype(np.float32)  # [C, O/groups, taps]
    geometry = geometry_of(
        Conv(transposed=True, groups=2, padding=((0, 0),)), [5], list(weight.shape)
    )
    assert (geometry.channels, geometry.out, geometry.groups) == (1, 3, 2)
    found = forward(weight, geometry)
    assert found.tolist() == [[[1, 0]], [[3, 2]], [[5, 4]], [[7, 6]], [[9, 8]], [[11, 10]]]
