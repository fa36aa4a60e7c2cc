"""Products with a weight of few bits through the TVM backend, against the graph itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from passel.backends.tvm.checked import checked
from passel.backends.tvm.emit import Emitted, emit
from passel.backends.tvm.emit.weight_only import format_of, packed, product
from passel.backends.tvm.emit.weight_only_codes import Coded, straight
from passel.backends.tvm.machine import machine_of
from passel.backends.tvm.pipeline import build, fused
from passel.backends.tvm.schedules import schedule
from passel.backends.tvm.schedules.weight_only import weight_only
from passel.backends.tvm.schedules.weight_only_format import Operands
from passel.graph import Graph, fx
from passel.passes.driver import run_passes
from passel.passes.quantize import Quantize
from tests.backends.tvm.product_kernels import MACHINES

BOUND = 1e-5
"""On sums of float32 products in another order, relative to the largest result."""
WIDTH, HIDDEN = 192, 344
TOKENS = 7


class Gated(nn.Module):
    """A gate, two linears before it, and one with a bias and a residual behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gated = nn.functional.silu(self.gate(x)) * self.up(x)
        return x + self.down(gated)


def quantized(rows: int, *, open_rows: bool = False, **asked: Any) -> tuple[Graph, np.ndarray]:
    """The model with quantized weights, and an input of so many rows."""
    torch.manual_seed(0)
    x = torch.randn(1, rows, WIDTH)
    dims = {"x": {1: torch.export.Dim("rows", min=1, max=512)}} if open_rows else None
    graph = fx.lift(torch.export.export(Gated().eval(), (x,), dynamic_shapes=dims))
    data = [torch.randn(1, rows, WIDTH).numpy() for _ in range(2)]
    run_passes(graph, [Quantize(calibration=[(one,) for one in data], placement="all", **asked)])
    return graph, x.numpy()


def compiled(graph: Graph, mcpu: str) -> tuple[Callable[[np.ndarray], np.ndarray], Emitted, Any]:
    """The graph as a function of its input, what was emitted, and how it was scheduled."""
    from tvm import cpu, relax
    from tvm.runtime import tensor

    target = machine_of(mcpu, 2)
    emitted = emit(graph, target)
    code, scheduled = build(emitted.module, target)
    constants = [tensor(array) for array in emitted.constants]
    main = relax.VirtualMachine(code, cpu())["main"]
    return (lambda x: main(tensor(x), constants)[0].numpy()), emitted, scheduled


def error(graph: Graph, run: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> float:
    """Largest difference from the graph, relative to its largest result."""
    (expected,) = graph.run([x])
    return float(np.abs(run(x) - expected).max() / np.abs(expected).max())


SCHEMES: dict[str, tuple[dict[str, Any], float]] = {
    "w8": ({"scheme": "w8"}, 8 + 32 / 64),
    "w4": ({"scheme": "w4"}, 4 + (32 + 8) / 32),
    "w2": ({"scheme": "w2"}, 2 + (32 + 8) / 64),
    "ternary": ({"scheme": "ternary"}, 2 + (32 + 8) / WIDTH),
    "binary": ({"scheme": "binary"}, 1 + (32 + 32) / WIDTH),
}
"""What is asked for, and about how many bits an element of the weight then takes."""


@pytest.mark.parametrize(
    ("scheme", "mcpu"),
    [*((name, "znver4") for name in SCHEMES), ("w8", "haswell"), ("w4", "haswell")],
)
def test_the_weight_stays_packed(scheme: str, mcpu: str) -> None:
    """One kernel for each product, with what follows it, in the bits that the scheme promises."""
    asked, bits = SCHEMES[scheme]
    graph, x = quantized(1, **asked)
    run, emitted, scheduled = compiled(graph, mcpu)
    assert error(graph, run, x) < BOUND
    assert (list(scheduled.rules.values()), scheduled.serial) == (["weight_only"] * 3, [])
    lanes = machine_of(mcpu, 2).lanes()
    wide = 2 * WIDTH * -(-HIDDEN // lanes) * lanes + HIDDEN * WIDTH
    held = 8 * sum(array.nbytes for array in emitted.constants)
    assert held < 1.1 * bits * wide + 8 * 4 * (HIDDEN + WIDTH)


def test_rows_known_at_run_time() -> None:
    graph, _ = quantized(TOKENS, open_rows=True, scheme="w4")
    run, _, scheduled = compiled(graph, "znver4")
    assert set(scheduled.rules.values()) == {"weight_only"}
    for rows in (1, 2, 4, 5, 11, 12, 13, 33):
        x = np.random.default_rng(rows).normal(size=(1, rows, WIDTH)).astype(np.float32)
        assert error(graph, run, x) < BOUND


@pytest.mark.parametrize("mcpu", MACHINES)
@pytest.mark.parametrize(("rows", "bits", "offset"), [(1, 4, True), (5, 4, False), (1, 2, False)])
def test_tables_are_looked_up(rows: int, bits: int, offset: bool, mcpu: str) -> None:
    """Values without equal steps, which no scale and zero point describes."""
    import tvm
    from tvm import te

    rng, target = np.random.default_rng(0), machine_of(mcpu, 2)
    shape = (64, 37)
    table = np.sort(rng.normal(size=1 << bits))
    by_block = (np.repeat(rng.normal(size=(2, 37)), 32, 0) for _ in range(2))
    scale, moved = (part.astype(np.float32) for part in by_block)
    codes = rng.integers(0, 1 << bits, shape).astype(np.int16)
    weight = Coded(codes, bits, scale, np.zeros(1), moved if offset else np.zeros(1), table)
    form = format_of(weight, target.lanes())
    assert straight(weight) is weight
    assert form is not None
    assert (form.bits, form.block) == (bits, 32)
    arrays = {key: part for key, part in vars(packed(weight, form)).items() if part is not None}
    x = te.placeholder((rows, 64), name="x")
    tensors = {k: te.placeholder(a.shape, str(a.dtype), k) for k, a in arrays.items()}
    plain = te.create_prim_func([x, *tensors.values(), product(x, form, Operands(**tensors))])
    code = tvm.compile(weight_only(plain, target).mod, target=target.target())
    given = rng.normal(size=(rows, 64)).astype(np.float32)
    out = tvm.runtime.tensor(np.zeros((rows, 37), np.float32))
    code["main"](*map(tvm.runtime.tensor, (given, *arrays.values())), out)
    dense = table[codes] * scale + (moved if offset else 0)
    np.testing.assert_allclose(out.numpy(), given @ dense, rtol=0, atol=1e-5 * np.abs(dense).max())


def test_a_quantized_activation_is_multiplied_as_floats() -> None:
    """4-bit weights by blocks are no operand of a product of bytes."""
    graph, x = quantized(TOKENS, scheme="w4a8")
    run, _, scheduled = compiled(graph, "znver4")
    assert list(scheduled.rules.values()).count("weight_only") == 3
    assert error(graph, run, x) < 1e-2  # an activation on the edge of two codes may go either way


def test_scheduled_kernels_agree_with_their_plain_form(tmp_path: Path) -> None:
    graph, _ = quantized(TOKENS, open_rows=True, scheme="w4")
    target = machine_of("haswell", 2)
    scheduled = schedule(fused(emit(graph, target).module, target.target()), target)
    found = checked(scheduled, target, tmp_path)
    assert (found.rejected, found.serial, len(found.plain)) == ({}, [], len(scheduled.plain))
