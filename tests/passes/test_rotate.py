"""rotate: RMS-normed residual streams in a rotated basis, both views, in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passel.graph import Graph
from passel.graph.ops import Gather, Linear, Norm
from passel.models import GPT, GPT_TINY, ViT, ViTConfig, gpt_inputs, randomize, vit_inputs
from passel.models.llama import LlamaBlock, rope_tables
from passel.passes import Canonicalize, Rotate
from passel.passes.crest import crest, sample
from passel.passes.orthogonal import Rotation
from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding.rtn import rtn
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

PREPARE = ("fold-constants", "canonicalize", "recenter", "fold-constants", "canonicalize")
FORMS = ("hadamard", "block", "random")
VIT = ViTConfig(image_size=8, patch_size=4, dim=WIDTH, depth=2, heads=2, classes=5)


def rms() -> nn.Module:
    return nn.RMSNorm(WIDTH, eps=1e-5)


def plain() -> nn.Module:
    return nn.RMSNorm(WIDTH, eps=1e-5, elementwise_affine=False)


class Llama(nn.Module):
    """Embedded tokens, two decoder blocks of Llama, a norm and a head."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(LlamaBlock(WIDTH, 2, 12) for _ in range(2))
        self.norm, self.head = rms(), nn.Linear(WIDTH, VOCABULARY, bias=False)
        for norm in (norm for block in self.blocks for norm in (block.norm1, block.norm2)):
            norm.eps = 1e-5  # the default of float64 is lost by torch.onnx
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for block in self.blocks:
            x = block(x, *rope_tables(ids.shape[1], WIDTH // 2, x))
        return self.head(self.norm(x))


class Activated(Block):
    """gelu(conv) writes to the stream along axis 1, as in Whisper."""

    def __init__(self) -> None:
        super().__init__(norm=rms)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def embed(self, ids: Tensor) -> Tensor:
        return F.gelu(self.conv(self.table(ids).transpose(1, 2))).transpose(1, 2)


class Input(Block):
    """A graph input is on the stream."""

    def embed(self, ids: Tensor) -> Tensor:
        return ids


class Gate(nn.Module):
    """Reads a norm with something that is no Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.sigmoid(x))


class OneGate(Block):
    """One of three norms is read by a gate: it is rotated back."""

    def __init__(self) -> None:
        super().__init__(norm=rms)
        self.branches[0] = Gate()


class Shared(Block):
    """All layers share their weights and their norm; a tied head shares the table."""

    def __init__(self, norm: Callable[[], nn.Module] = plain) -> None:
        super().__init__(norm=norm, tied=True)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for _ in range(3):
            x = x + self.branches[0](self.norms[0](x))
        return self.finish(x)


class Lent(Block):
    """A norm's reader shares its weight with a Linear off the stream: the norm is rotated back."""

    def __init__(self) -> None:
        super().__init__(norm=rms)
        self.other = nn.Embedding(VOCABULARY, WIDTH)

    def embed(self, ids: Tensor) -> Tensor:
        return self.table(ids) + self.branches[0](self.other(ids))


class Moved(Block):
    """The stream is cut, joined, expanded, masked with zero and scaled on its way."""

    def __init__(self) -> None:
        super().__init__(norm=rms)
        self.token, self.vector = (
            nn.Parameter(torch.randn(1, 1, WIDTH)),
            nn.Parameter(torch.ones(1)),
        )

    def embed(self, ids: Tensor) -> Tensor:
        x = torch.where((ids == 2)[..., None], 0.0, self.table(ids)) * 0.5
        x = torch.cat([self.token.expand(ids.shape[0], 2, WIDTH), x], 1)
        x = x.reshape(-1, WIDTH).unflatten(0, (ids.shape[0], -1))
        return torch.cat(x.split([3, 4], 1)[::-1], 1) - self.token

    def finish(self, x: Tensor) -> Tensor:
        return self.head(self.norms[-1](x).mean(1, keepdim=True)[:, 0])


def ids() -> tuple[Tensor]:
    return (some_ids(),)


def vectors() -> tuple[Tensor]:
    return (torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0)),)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]], int]] = {
    "recentred": (Block, ids, 0),
    "recentred, tied": (lambda: Block(tied=True), ids, 0),
    "gains": (lambda: Block(norm=rms), ids, 0),
    "gains, tied": (lambda: Block(norm=rms, tied=True), ids, 0),
    "no gains, tied": (lambda: Block(norm=plain, tied=True), ids, 0),
    "an activation": (Activated, ids, 1),
    "an input": (lambda: Input(norm=rms), vectors, 1),
    "a gate": (OneGate, ids, 1),
    "shared": (Shared, ids, 0),
    "one linear": (lambda: Block(norm=rms, branch=lambda: nn.Linear(WIDTH, WIDTH)), ids, 0),
    "shared, gains": (lambda: Shared(rms), ids, 0),
    "a weight lent": (Lent, ids, 1),
    "moves": (Moved, ids, 0),
    "attention": (lambda: Block(branch=Causal, norm=rms), ids, 0),
    "llama": (Llama, ids, 0),
    "llama, tied": (lambda: Llama(tied=True), ids, 0),
    "vit": (lambda: ViT(VIT), lambda: vit_inputs(VIT, batch=2), 0),
    "gpt": (lambda: GPT(GPT_TINY), lambda: gpt_inputs(GPT_TINY, tokens=5), 0),
}


def rotated(view, name: str, form: str = "hadamard") -> tuple[Graph, float, int]:
    """The rotated graph of a model, its relative error, and how many Linears were added."""
    build, inputs, _ = MODELS[name]
    model, given = randomize(build()).double(), inputs()
    given = tuple(x.double() if x.is_floating_point() else x for x in given)
    graph, run = view.lift(model, given)
    apply(graph, *PREPARE)
    count = sum(1 for _ in graph.walk(Linear))
    (report,) = apply(graph, f"rotate(form={form!r}, block={WIDTH // 2}, always=True)")
    assert len(report.applied) == 1
    assert not report.refused
    added = sum(1 for _ in graph.walk(Linear)) - count
    return graph, error(run(), expected(model, given)), added


@pytest.mark.parametrize("name", MODELS)
def test_numerics(either_view, name):
    graph, found, added = rotated(either_view, name)
    assert found <= 1e-11
    assert added == MODELS[name][2]
    assert all(norm.scale is None for norm in graph.walk(Norm))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["gains, tied", "an activation", "a gate", "vit"])
def test_forms(fx_view, name, form):
    _, found, _ = rotated(fx_view, name, form)
    assert found <= 1e-11


def test_both_views_are_exact(view):
    assert rotated(view, "gains, tied")[1] <= 1e-11


def test_a_broken_rewrite_is_seen(either_view, monkeypatch):
    from passel.passes import rotate

    monkeypatch.setattr(rotate, "rotated_columns", lambda gain, basis, rows: rows * gain)
    assert rotated(either_view, "gains")[1] > 1e-2


def test_every_weight_is_rotated_by_the_matrix_written_out():
    """Against numpy: Qᵀ·W for what writes, V·diag(γ)·Q for what reads."""
    graph = lifted(randomize(Block(norm=rms, layers=1)).double(), ids())
    apply(graph, "canonicalize")
    first, second, head = (
        (op.weight.array(), op.bias and op.bias.array()) for op in graph.walk(Linear)
    )
    gains = [norm.scale.array() for norm in graph.walk(Norm)]
    (table,) = (op.x.array() for op in graph.walk(Gather))
    apply(graph, "rotate(seed=5, always=True)")
    q = Rotate(seed=5)._rotation_of(WIDTH).project(np.eye(WIDTH))
    wanted = [
        (first[0] * gains[0] @ q, first[1]),
        (q.T @ second[0], q.T @ second[1]),
        (head[0] * gains[1] @ q, None),
    ]
    for op, (weight, bias) in zip(graph.walk(Linear), wanted, strict=True):
        np.testing.assert_allclose(op.weight.array(), weight, atol=1e-14)
        assert (op.bias is None) == (bias is None)
        if bias is not None:
            np.testing.assert_allclose(op.bias.array(), bias, atol=1e-14)
    (op,) = graph.walk(Gather)
    np.testing.assert_allclose(op.x.array(), table @ q, atol=1e-14)


def test_what_is_shared_stays_shared():
    graph = lifted(Shared().double(), ids())
    apply(graph, "canonicalize")
    constants = len(graph.constants())
    apply(graph, "rotate(always=True)")
    assert len(graph.constants()) == constants


def test_golden(fx_view, golden):
    graph, _ = fx_view.lift(OneGate(), ids())
    apply(graph, "canonicalize")
    golden("rotate/gate_before", graph)
    apply(graph, "rotate(always=True)")
    golden("rotate/gate_after", graph)


def spiky(width: int = WIDTH, factor: float = 20.0) -> nn.Module:
    """One channel of the stream is far larger than the others, and its gain far smaller."""
    model = Block(norm=lambda: nn.RMSNorm(width, eps=1e-5), branch=lambda: mlp(width), width=width)
    with torch.no_grad():
        model.table.weight[:, 3] *= factor
        for branch in model.branches:
            branch[2].weight[3] *= factor
            branch[2].bias[3] *= factor
        model.head.weight[:, 5] *= factor
    return model


@pytest.mark.parametrize("form", ["hadamard", "random"])
def test_outliers_are_rotated_and_twice_is_once(either_view, form):
    """`apply` of a view runs the pass again, which must find nothing."""
    outcome = either_view.apply(spiky(64), ids(), Canonicalize(), Rotate(form=form), random=False)
    times = len(outcome.reports[1].applied)
    assert times == 1 if form == "hadamard" else times >= 1


def test_normal_numbers_are_left_alone(fx_view):
    outcome = fx_view.apply(spiky(64, 1.0), ids(), Canonicalize(), Rotate(), random=False)
    assert outcome.reasons >= {"a rotation would not spread the weights more evenly"}


def test_rounding_loses_less_where_there_were_outliers():
    """4 bits to nearest: a scale per row of what reads, a scale per table and weight written."""
    before, after = rounding_errors(False), rounding_errors(True)
    assert after[0] < 0.75 * before[0]
    assert after[1] < 0.05 * before[1]
    assert after[2] < 0.5 * before[2]


def rounding_errors(rotate: bool) -> tuple[float, float, float]:
    """Mean relative squared error of reading and written weights, and the error of the output."""
    model = spiky(256)
    graph = lifted(model, ids())
    apply(graph, "canonicalize", *(["rotate"] if rotate else []))
    reading, writing = [], []
    for op in list(graph.walk(Linear)):
        writes = op.weight.array().shape[0] == 256
        (writing if writes else reading).append(rounded(graph, op, 1, -1 if writes else 0))
    writing += [rounded(graph, op, 0, -1) for op in list(graph.walk(Gather))]
    found = error(outputs(graph, ids()), expected(model, ids()))
    return float(np.mean(reading)), float(np.mean(writing)), found


def rounded(graph: Graph, op, index: int, block: int) -> float:
    """Round a weight in place; its relative squared error."""
    weight = op.inputs[index].array()
    dense = rtn(LayerData(weight), Format(Grid("int4"), block)).dense()
    graph.set_input(op, index, graph.constant(dense.astype(weight.dtype), "rounded"))
    return float(((dense - weight) ** 2).sum() / (weight**2).sum())


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)]
)
def test_narrow_types(dtype, bound):
    model = Block(norm=rms).to(dtype)
    graph = lifted(model, ids())
    want = outputs(graph, ids())
    apply(graph, "canonicalize")
    (report,) = apply(graph, "rotate(always=True)")
    assert len(report.applied) == 1
    assert error(outputs(graph, ids()), want) <= bound


def test_dynamic_batch_and_length(either_view):
    model = Block(branch=Causal, norm=rms).double()
    graph, _ = either_view.lift(model, ids(), dynamic_shapes=({0: "batch", 1: "length"},))
    apply(graph, "default", "rotate(always=True)")
    assert norms(graph) == {"rms": 3}
    for shape in ((2, 5), (3, 4), (4, 9)):
        given = (some_ids(*shape),)
        assert error(outputs(graph, given), expected(model, given)) <= 1e-11


def test_crest():
    assert crest(np.ones((2, 8))) == 1
    assert crest(np.eye(8)) == 8
    assert crest(np.zeros((2, 8))) == 0
    both = np.array([[3.0, 0, 0, 0], [1.0, 1, 1, 1]])
    np.testing.assert_allclose(crest(both), 4 * (9 + 1) / (9 + 4))


@pytest.mark.parametrize(
    ("shape", "axis"), [((700, 6), 1), ((6, 700), 0), ((6, 40, 3, 3), 0), ((6,), 0)]
)
def test_sample(shape, axis):
    array = np.random.default_rng(0).normal(size=shape)
    found = sample(array, axis)
    assert found.shape[1] == 6
    assert len(found) in range(1, 257)
    whole = {tuple(row) for row in np.moveaxis(array, axis, -1).reshape(-1, 6)}
    assert {tuple(row) for row in found} <= whole


def test_a_rotation_keeps_lengths():
    made = Rotate()._rotation_of(24)
    assert isinstance(made, Rotation)
    rows = np.random.default_rng(0).normal(size=(5, 24))
    np.testing.assert_allclose(
        np.linalg.norm(made.project(rows), axis=1), np.linalg.norm(rows, axis=1), rtol=1e-14
    )
