"""Attention as one kernel against torch: masks, shared heads, odd extents, symbolic ones."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from passel.backends.tvm.emit import emit
from passel.backends.tvm.machine import Machine, machine_of
from passel.backends.tvm.pipeline import build
from passel.graph import Graph
from tests.backends.tvm.emission import graph_of

BOUND = 2e-6
"""Relative to the largest result."""


class Heads(nn.Module):
    """Attention of heads that one linear makes, or several, as models write it."""

    def __init__(
        self, width: int, heads: int, *, groups: int = 0, causal: bool = False, scale: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.groups, self.causal = heads, groups or heads, causal
        self.each, self.scale = width // heads, scale or None
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * self.groups * self.each)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, tokens, width = x.shape
        q = self.q(x).view(batch, tokens, self.heads, self.each).transpose(1, 2)
        k, v = (
            part.view(batch, tokens, self.groups, self.each).transpose(1, 2)
            for part in self.kv(x).split(self.groups * self.each, -1)
        )
        k, v = (repeated(part, self.heads // self.groups) for part in (k, v))
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=self.causal, scale=self.scale
        )
        return mixed.transpose(1, 2).reshape(batch, tokens, width)


def repeated(x: Tensor, times: int) -> Tensor:
    """Heads of keys as often as queries share them, as Llama spells it."""
    if times == 1:
        return x
    batch, groups, tokens, width = x.shape
    wide = x[:, :, None].expand(batch, groups, times, tokens, width)
    return wide.reshape(batch, groups * times, tokens, width)


def tensors(*shapes: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tuple(shape), generator=generator) for shape in shapes]


def half_masked(*shape: int) -> Tensor:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[..., 1, :] = False  # a query that sees nothing
    return mask


def run(graph: Graph, machine: Machine) -> tuple[Callable[..., np.ndarray], list[str]]:
    """The graph, scheduled, and the names of the kernels that the attention rule took."""
    import tvm
    from tvm import relax

    emitted = emit(graph, machine)
    executable, scheduled = build(emitted.module, machine)
    assert not scheduled.serial
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    constants = [tvm.runtime.tensor(np.array(array)) for array in emitted.constants]
    taken = [name for name, rule in scheduled.rules.items() if rule == "attention"]

    def call(*inputs: Tensor) -> np.ndarray:
        arrays = [tvm.runtime.tensor(x.numpy()) for x in inputs]
        return main(*arrays, constants)[0].numpy()

    return call, taken


def agrees(got: np.ndarray, exact: Tensor) -> None:
    expected = exact.detach().numpy()
    assert np.abs(got - expected).max() <= BOUND * np.abs(expected).max()


torch.manual_seed(0)
CASES: dict[str, tuple[nn.Module, list[Tensor]]] = {
    "many tiles": (Heads(128, 2), tensors((1, 197, 128))),
    "causal": (Heads(96, 3, causal=True), tensors((2, 70, 96))),
    "causal, one tile": (Heads(32, 1, causal=True), tensors((1, 5, 32))),
    "shared keys": (Heads(64, 4, groups=2), tensors((2, 33, 64))),
    "odd widths": (Heads(3 * 21, 3, scale=0.3), tensors((1, 50, 63))),
    "added mask": (Heads(64, 4), tensors((2, 37, 64), (2, 1, 37, 37))),
    "mask per key": (
        Heads(64, 4),
        [*tensors((2, 37, 64)), torch.arange(37)[None, None, None] < 20],
    ),
    "masked out": (Heads(64, 2), [*tensors((1, 29, 64)), half_masked(1, 1, 29, 29)]),
    "one query": (Heads(64, 4), tensors((2, 1, 64))),
}


SOME = ("many tiles", "odd widths", "one query")
RUNS = [(case, "znver4") for case in CASES] + [(case, "haswell") for case in SOME]


@pytest.mark.parametrize(("case", "mcpu"), RUNS)
def test_like_torch(case: str, mcpu: str) -> None:
    module, inputs = CASES[case]
    call, taken = run(graph_of(module, inputs, "fx"), machine_of(mcpu, 2))
    assert len(taken) == 1
    agrees(call(*inputs), module(*inputs))


def test_onnx(machine: Machine) -> None:
    module, inputs = CASES["causal"]
    call, taken = run(graph_of(module, inputs, "onnx"), machine)
    assert len(taken) == 1
    agrees(call(*inputs), module(*inputs))


@pytest.mark.parametrize("causal", [False, True])
def test_symbolic_tokens(causal: bool) -> None:
    module = Heads(64, 2, causal=causal)
    dynamic = [{1: Dim("n", min=2)}]
    graph = graph_of(
        lambda net, x: net.module(x), tensors((2, 19, 64)), "fx", dynamic, module=module
    )
    call, taken = run(graph, machine_of("znver4", 2))
    assert len(taken) == 1
    for tokens in (2, 16, 50, 197):
        inputs = tensors((2, tokens, 64))
        agrees(call(*inputs), module(*inputs))


@pytest.mark.parametrize("past", [1, 63, 200])
def test_few_queries_and_many_keys(past: int, machine: Machine) -> None:
    class Decode(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v)

    inputs = tensors((2, 3, 1, 40), (2, 3, past, 40), (2, 3, past, 24))
    call, taken = run(graph_of(Decode(), inputs, "fx"), machine)
    assert len(taken) == 1
    agrees(call(*inputs), Decode()(*inputs))


def test_nothing_is_transposed_in_memory(machine: Machine) -> None:
    """Of a linear, heads to the front, attention and heads back, two kernels are left."""
    import tvm_ffi
    from tvm import relax

    from passel.backends.tvm.pipeline import fused

    module, inputs = CASES["many tiles"]
    emitted = emit(graph_of(module, inputs, "fx"), machine)
    calls: list[Any] = []
    main = fused(emitted.module, machine.target())["main"]
    tvm_ffi.structural_walk(main.body, (relax.Call, calls.append))
    names = [c.args[0].name_hint for c in calls if c.op.name == "relax.call_tir"]
    assert sorted(n.split("_")[0] for n in names) == ["attention", "fused", "fused"]


def test_a_result_that_others_read_keeps_its_shape(machine: Machine) -> None:
    class Both(nn.Module):
        def forward(self, q: Tensor) -> tuple[Tensor, Tensor]:
            mixed = F.scaled_dot_product_attention(q, q, q)
            return mixed.transpose(1, 2).reshape(1, 9, 32), mixed.sum(-1)

    inputs = tensors((1, 2, 9, 16))
    call, taken = run(graph_of(Both(), inputs, "fx"), machine)
    assert len(taken) == 1
    agrees(call(*inputs), Both()(*inputs)[0])


def test_half_precision_is_spelled_out(machine: Machine) -> None:
    module, inputs = CASES["many tiles"]
    graph = graph_of(Heads(128, 2).half(), [x.half() for x in inputs], "fx")
    from tvm import tirx

    module = emit(graph, machine).module
    functions = [f for _, f in module.functions_items() if isinstance(f, tirx.PrimFunc)]
    assert not any("passel.kernel" in (f.attrs or {}) for f in functions if f.attrs)
