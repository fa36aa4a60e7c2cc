"""compress: d to d − 1 features on recentred streams, both forms, both views, in float64."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passel.graph import Graph
from passel.graph.ops import Linear, Norm
from passel.models import GPT, GPT_TINY, ViT, ViTConfig, gpt_inputs, vit_inputs
from passel.passes import Canonicalize, Compress, FoldConstants, Recenter
from passel.passes.basis import DropLast, Helmert
from passel.passes.streams import find_streams
from passel.passes.zero_mean import is_zero_mean
from tests.residual import (
    VOCABULARY,
    WIDTH,
    Block,
    Causal,
    apply,
    error,
    expected,
    lifted,
    mlp,
    norms,
    outputs,
    some_ids,
)

BEFORE = (FoldConstants(), Canonicalize(), Recenter(), FoldConstants(), Canonicalize())
KINDS = {"isometric": "RMSNorm", "paper": "CRMSNorm"}
VIT = ViTConfig(image_size=8, patch_size=4, dim=WIDTH, depth=2, heads=2, classes=5)
MEAN = ViTConfig(image_size=8, patch_size=4, dim=WIDTH, depth=2, heads=2, classes=5, pool="mean")


class Activated(Block):
    """gelu(conv) writes to the stream along axis 1, as in Whisper."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def embed(self, ids: Tensor) -> Tensor:
        return F.gelu(self.conv(self.table(ids).transpose(1, 2))).transpose(1, 2)


class Input(Block):
    """A graph input is on the stream."""

    def embed(self, ids: Tensor) -> Tensor:
        return ids


class Moved(Block):
    """The stream is cut, joined, expanded, reshaped, masked and scaled on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.vector = (
            nn.Parameter(torch.randn(1, 1, WIDTH)),
            nn.Parameter(torch.ones(1)),
        )

    def embed(self, ids: Tensor) -> Tensor:
        x = torch.where((ids == 2)[..., None], self.vector, self.table(ids)) * 0.5
        x = torch.cat([self.token.expand(ids.shape[0], 2, WIDTH), x], 1)
        x = x.reshape(-1, WIDTH).unflatten(0, (ids.shape[0], -1))
        return torch.cat(x.split([3, 4], 1)[::-1], 1) - self.token

    def finish(self, x: Tensor) -> Tensor:
        return self.head(self.norms[-1](x).mean(1, keepdim=True)[:, 0])


class Gate(nn.Module):
    """Reads a norm with something that is no Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.sigmoid(x))


class OneGate(Block):
    """One of three norms is read by a gate: it is expanded again."""

    def __init__(self) -> None:
        super().__init__()
        self.branches[0] = Gate()


class Normed(Block):
    """The last norm's result leaves the model: it is expanded again."""

    def finish(self, x: Tensor) -> Tensor:
        return self.norms[-1](x)


class Sized(Block):
    """The token extents are read from the norm's result."""

    def finish(self, x: Tensor) -> Tensor:
        y = self.norms[-1](x)
        return self.head(y.reshape(y.shape[0] * y.shape[1], WIDTH)).reshape(*y.shape[:2], -1)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]], int, int]]
MODELS = {
    "block": (Block, lambda: (some_ids(),), 3, 0),
    "tied": (lambda: Block(tied=True), lambda: (some_ids(),), 3, 0),
    "an activation": (Activated, lambda: (some_ids(),), 3, 0),
    "an input": (Input, lambda: (torch.randn(2, 5, WIDTH),), 3, 0),
    "moves": (Moved, lambda: (some_ids(),), 3, 0),
    "a gate": (OneGate, lambda: (some_ids(),), 3, 1),
    "a norm as output": (Normed, lambda: (some_ids(),), 3, 1),
    "extents": (Sized, lambda: (some_ids(),), 3, 0),
    "attention": (lambda: Block(branch=Causal), lambda: (some_ids(),), 3, 0),
    "two features": (
        lambda: Block(branch=lambda: mlp(2), width=2),
        lambda: (some_ids(),),
        3,
        0,
    ),
    "vit": (lambda: ViT(VIT), lambda: vit_inputs(VIT, batch=2), 5, 0),
    "vit, mean": (lambda: ViT(MEAN), lambda: vit_inputs(MEAN, batch=2), 5, 0),
    "gpt": (lambda: GPT(GPT_TINY), lambda: gpt_inputs(GPT_TINY, tokens=5), 5, 0),
}


@pytest.mark.parametrize("form", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_numerics(view, name, form):
    build, inputs, count, expanded = MODELS[name]
    outcome = view.apply(build(), inputs(), *BEFORE, Compress(form=form))
    assert outcome.count(KINDS[form]) == count
    widths = {norm.x.shape[-1]: norm for norm in outcome.graph.walk(Norm)}
    (width,) = widths
    assert width in (WIDTH - 1, GPT_TINY.dim - 1, 1)
    linears = outcome.count("Linear") - outcome.before.get("Linear", 0)
    compressed = form == "isometric" and name in ("an activation", "an input")
    if view.name == "fx":  # ONNX has MatMul and Add where fx has Linear
        assert linears == expanded + compressed
    explicit = [op for op in outcome.graph.ops if op.name.startswith("stream_recentred")]
    assert len(explicit) == (form == "paper" and name in ("an activation", "an input"))


@pytest.mark.parametrize("form", KINDS)
def test_a_broken_rewrite_is_seen(view, form, monkeypatch):
    for basis in (Helmert, DropLast):
        monkeypatch.setattr(basis, "read_columns", lambda self, rows: rows[..., :-1])
    with pytest.raises(AssertionError, match="relative error"):
        view.apply(Block(), (some_ids(),), *BEFORE, Compress(form=form))


@pytest.mark.parametrize("form", KINDS)
def test_golden(form, fx_view, golden):
    graph, _ = fx_view.lift(Block(layers=1), (some_ids(),))
    apply(graph, "canonicalize", "recenter")
    golden("compress/block_before", graph)
    apply(graph, f"compress(form={form!r})")
    golden(f"compress/block_after_{form}", graph)


@pytest.mark.parametrize("form", KINDS)
def test_dynamic_batch_and_length(view, form):
    model = Block(branch=Causal).double()
    shapes = ({0: "batch", 1: "length"},)
    graph, _ = view.lift(model, (some_ids(),), dynamic_shapes=shapes)
    apply(graph, "default", f"compress(form={form!r})")
    assert {norm.x.shape[-1] for norm in graph.walk(Norm)} == {WIDTH - 1}
    for shape in ((2, 5), (3, 4), (4, 9)):
        ids = some_ids(*shape)
        assert error(outputs(graph, (ids,)), expected(model, (ids,))) <= 1e-9


@pytest.mark.parametrize("form", KINDS)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)]
)
def test_narrow_types(form, dtype, bound):
    model, inputs = Block().to(dtype), (some_ids(),)
    graph = lifted(model, inputs)
    want = outputs(graph, inputs)
    apply(graph, "canonicalize", "recenter")
    (report,) = apply(graph, f"compress(form={form!r})")
    assert len(report.applied) == 1
    assert error(outputs(graph, inputs), want) <= bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounded_weights_are_known_as_recentred_and_others_are_not(dtype):
    """At realistic widths, where the mean of random half-precision numbers is small."""
    width = 768
    model = Block(layers=1, branch=lambda: mlp(width), width=width).to(dtype)
    graph = lifted(model, (some_ids(),))
    apply(graph, "canonicalize")
    (stream,) = find_streams(graph, ("layer",))
    found = [is_zero_mean(writer) for writer in stream.writers]
    assert not any(found)
    apply(graph, "recenter")
    (stream,) = find_streams(graph, ("rms",))
    assert all(map(is_zero_mean, stream.writers))


def test_an_explicit_recentring_is_absorbed():
    """Qᵀ(I − 11ᵀ/d) = Qᵀ: the Helmert Linear reads what was recentred."""
    graph = prepared(Activated())
    assert sum(op.kind == "Reduce" for op in graph.ops) == 1
    apply(graph, "compress")
    assert not any(op.kind in ("Reduce", "sub") for op in graph.ops)


def prepared(model: nn.Module) -> Graph:
    graph = lifted(model, (some_ids(),))
    apply(graph, "canonicalize", "recenter", "canonicalize")
    return graph


@pytest.mark.parametrize("form", KINDS)
def test_weights_shrink(form):
    graph = prepared(Block())
    apply(graph, f"compress(form={form!r})")
    shapes = {op.weight.shape for op in graph.walk(Linear)}
    assert shapes == {(12, WIDTH - 1), (WIDTH - 1, 12), (VOCABULARY, WIDTH - 1)}


def test_only_the_isometric_form_keeps_ordinary_norms():
    for form, kind in (("isometric", "rms"), ("paper", "crms")):
        graph = prepared(Block())
        eps = {norm.eps for norm in graph.walk(Norm)}
        apply(graph, f"compress(form={form!r})")
        assert norms(graph) == {kind: 3}
        factor = WIDTH / (WIDTH - 1) if form == "isometric" else 1.0
        np.testing.assert_allclose({n.eps for n in graph.walk(Norm)}.pop(), eps.pop() * factor)


def test_a_form_is_checked():
    with pytest.raises(ValueError, match=r"compress: expected form in \['isometric', 'paper'\]"):
        Compress(form="round")


def test_space():
    assert Compress().space(prepared(Block())) == (Compress(), Compress(form="paper"))


def test_cost_is_linear_in_layers():
    ten, hundred = (calls_of(Block(layers=layers)) for layers in (10, 100))
    assert hundred <= 11 * ten


def calls_of(model: nn.Module) -> int:
    graph, count = prepared(model), 0

    def count_call(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(count_call)
    try:
        (report,) = apply(graph, "compress")
    finally:
        sys.setprofile(None)
    assert report.applied
    return count
