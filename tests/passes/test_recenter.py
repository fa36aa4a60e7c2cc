"""recenter: LayerNorm to RMSNorm on residual streams of all kinds, in both views, in float64."""

import copy
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passel.graph import Graph, onnx
from passel.models import GPT, GPT_TINY, ViT, ViTConfig, gpt_inputs, vit_inputs
from passel.passes import Canonicalize, FoldConstants, Recenter
from passel.passes.basis import Recentred
from passel.passes.report import Size
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

BEFORE = (FoldConstants(), Canonicalize())
VIT = ViTConfig(image_size=8, patch_size=4, dim=WIDTH, depth=2, heads=2, classes=5)


class Perceiver(Block):
    """The stream starts from learned latents, which the first norm and the first add both read."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(2, 5, WIDTH))
        self.inward = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.latents + self.inward(self.table(ids)).relu() @ self.inward.weight
        x = self.latents + self.branches[0](self.norms[0](self.latents) + self.inward(x).relu())
        return self.finish(x + self.branches[1](self.norms[1](x)))


class Shared(Block):
    """One number is a factor of the stream and also a term; one table is looked up and added."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.tensor(0.7))

    def embed(self, ids: Tensor) -> Tensor:
        return self.table(ids) * self.number + self.number + self.table.weight[:5]


class Masked(Block):
    """Tokens are replaced by a learned vector and by a number, and weighted by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(WIDTH))

    def embed(self, ids: Tensor) -> Tensor:
        x = torch.where((ids > 3)[..., None], self.table(ids), self.vector)
        return torch.where((ids == 2)[..., None], 0.5, x) * (ids != 1)[..., None]


class Computed(Block):
    """An activation writes to the stream, as gelu(conv) does in Whisper."""

    def embed(self, ids: Tensor) -> Tensor:
        return F.gelu(self.table(ids)).transpose(0, 1)


class Input(Block):
    """A graph input is on the stream."""

    def embed(self, ids: Tensor) -> Tensor:
        return ids


class Depthwise(Block):
    """A grouped convolution over the tokens writes to the stream (a positional encoding)."""

    def __init__(self) -> None:
        super().__init__(layers=3)
        self.other = nn.Embedding(VOCABULARY, WIDTH)
        self.encode = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)

    def embed(self, ids: Tensor) -> Tensor:
        return self.table(ids) + self.encode(self.other(ids).transpose(1, 2)).transpose(1, 2)


class Albert(Block):
    """All layers share their weights and their norm."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for _ in range(3):
            x = x + self.branches[0](self.norms[0](x))
        return self.finish(x)


class Gate(nn.Module):
    """Reads a norm with something that is no Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.sigmoid(x))


class OneGate(Block):
    """One of three norms is read by a gate, the others by Linears."""

    def __init__(self) -> None:
        super().__init__()
        self.branches[0] = Gate()


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]], dict[str, int]]]
MODELS = {
    "block": (Block, lambda: (some_ids(),), {"RMSNorm": 3}),
    "tied": (lambda: Block(tied=True), lambda: (some_ids(),), {"RMSNorm": 3}),
    "plain norms": (
        lambda: Block(norm=lambda: nn.LayerNorm(WIDTH, elementwise_affine=False)),
        lambda: (some_ids(),),
        {"RMSNorm": 3},
    ),
    "no shift": (
        lambda: Block(norm=lambda: nn.LayerNorm(WIDTH, bias=False)),
        lambda: (some_ids(),),
        {"RMSNorm": 3},
    ),
    "shared constants": (Shared, lambda: (some_ids(),), {"RMSNorm": 3}),
    "masked": (Masked, lambda: (some_ids(),), {"RMSNorm": 3}),
    "an activation": (Computed, lambda: (some_ids(),), {"RMSNorm": 3, "mean": 1}),
    "an input": (Input, lambda: (torch.randn(2, 5, WIDTH),), {"RMSNorm": 3, "mean": 1}),
    "a grouped convolution": (Depthwise, lambda: (some_ids(),), {"RMSNorm": 4, "mean": 1}),
    "shared weights": (Albert, lambda: (some_ids(),), {"RMSNorm": 4, "add": 3}),
    "a gate": (OneGate, lambda: (some_ids(),), {"RMSNorm": 3, "add": 1}),
    "vit": (lambda: ViT(VIT), lambda: vit_inputs(VIT, batch=2), {"RMSNorm": 5}),
    "gpt": (lambda: GPT(GPT_TINY), lambda: gpt_inputs(GPT_TINY, tokens=5), {"RMSNorm": 5}),
}


@pytest.mark.parametrize("name", MODELS)
def test_numerics(view, name):
    build, inputs, counts = MODELS[name]
    outcome = view.apply(build(), inputs(), *BEFORE, Recenter())
    assert outcome.count("LayerNorm") == 0
    assert outcome.count("RMSNorm") == counts["RMSNorm"]
    recentrings = outcome.count("Reduce") - outcome.before.get("Reduce", 0)
    assert recentrings == counts.get("mean", 0)
    assert outcome.count("Affine") == counts.get("add", 0)


def test_a_constant_that_a_norm_reads_directly(fx_view):
    """Where fold-constants did not run: the norm has to read the recentred constant too."""
    outcome = fx_view.apply(Perceiver(), (some_ids(),), Canonicalize(), Recenter())
    assert outcome.count("RMSNorm") == 3


def test_a_broken_rewrite_is_seen(view, monkeypatch):
    monkeypatch.setattr(Recentred, "project", lambda self, rows: rows - 0.01 * rows.mean())
    with pytest.raises(AssertionError, match="relative error"):
        view.apply(Block(), (some_ids(),), *BEFORE, Recenter())


def test_golden(fx_view, golden):
    graph, _ = fx_view.lift(Block(layers=1, tied=True), (some_ids(),))
    apply(graph, "canonicalize")
    golden("recenter/tied_block_before", graph)
    apply(graph, "recenter")
    golden("recenter/tied_block_after", graph)


# -- tied and shared constants --------------------------------------------------------------------


def tied(model: nn.Module, view) -> Graph:
    """The graph of a tied model; torch.onnx's own folding would transpose the head's table."""
    if view.name == "fx":
        graph, _ = view.lift(model, (some_ids(),))
    else:
        program = torch.export.export(model.eval(), (some_ids(),))
        exported = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
        assert exported is not None
        graph = onnx.lift(exported.model)
    apply(graph, "canonicalize")
    return graph


def test_a_tied_table_is_split_and_the_head_keeps_the_original(view):
    model = Block(tied=True).double()
    table = model.table.weight.detach().numpy().copy()
    graph = tied(model, view)
    before, want = Size.of(graph), outputs(graph, (some_ids(),))
    apply(graph, "recenter")
    after = Size.of(graph)
    gone = sum(parameter.nbytes for parameter in model.norms.parameters())
    made = 8 * VOCABULARY  # the last norm's shift is the head's bias now
    assert after.bytes == before.bytes + table.nbytes + made - gone
    assert error(outputs(graph, (some_ids(),)), want) <= 1e-11
    gain = model.norms[-1].weight.detach().numpy()
    head = next(v for op in graph.ops if op.kind == "Linear" for v in op.inputs if in_vocabulary(v))
    stored = head.array() if head.shape[0] == VOCABULARY else head.array().T
    np.testing.assert_allclose(stored, table * gain, rtol=1e-15)
    np.testing.assert_array_equal(model.table.weight.detach().numpy(), table)


def in_vocabulary(value):
    return value is not None and value.constant is not None and VOCABULARY in value.shape[:2]


def test_a_head_without_gain_to_fold_keeps_the_very_table(fx_view):
    model = Block(tied=True, norm=lambda: nn.LayerNorm(WIDTH, elementwise_affine=False))
    graph = tied(model, fx_view)
    (table,) = [v for v in graph.constants() if v.shape == (VOCABULARY, WIDTH)]
    apply(graph, "recenter")
    assert [op.kind for op in table.readers] == ["Linear"]


def test_a_tied_table_may_stay_whole(view):
    """With split_tied=False the looked-up rows are recentred by an op, and no table is added."""
    model = Block(tied=True)
    graph = tied(model.double(), view)
    before, want = Size.of(graph), outputs(graph, (some_ids(),))
    apply(graph, "recenter(split_tied=False)")
    assert norms(graph) == {"rms": 3}
    assert sum(op.kind == "Reduce" for op in graph.ops) == 1
    assert Size.of(graph).bytes < before.bytes + 8 * VOCABULARY * WIDTH
    assert error(outputs(graph, (some_ids(),)), want) <= 1e-11


def test_space_offers_both_ways_for_tied_tables_only():
    tied = lifted(Block(tied=True), (some_ids(),))
    assert Recenter().space(tied) == (Recenter(), Recenter(split_tied=False))
    assert Recenter().space(lifted(Block(), (some_ids(),))) == (Recenter(),)


class TwoStacks(nn.Module):
    """An encoder and a decoder with one table, as in M2M100."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Block(), Block()
        for parameter in self.decoder.parameters():
            nn.init.normal_(parameter)  # or torch.onnx would share equal weights
        self.decoder.table = self.encoder.table
        self.bridge = nn.Linear(VOCABULARY, WIDTH)

    def forward(self, ids: Tensor, others: Tensor) -> Tensor:
        x = self.decoder.embed(others) + self.bridge(self.encoder(ids))
        return self.decoder.finish(x + self.decoder.branches[0](self.decoder.norms[0](x)))


def test_what_streams_share_stays_shared(view):
    """A table that two streams look up is recentred once."""
    graph, run = view.lift(TwoStacks().double(), (some_ids(), some_ids().flip(0)))
    apply(graph, "canonicalize")
    want = run()
    (report,) = apply(graph, "recenter")
    assert len(report.applied) == 2
    assert error(run(), want) <= 1e-11
    tables = [op.x for op in graph.ops if op.kind == "Gather" and op.x.constant is not None]
    assert len(tables) == 2
    assert tables[0] is tables[1]


def test_what_layers_share_stays_shared(view):
    """ALBERT's weights are recentred once, not once a layer."""
    graph, _ = view.lift(Albert(), (some_ids(),))
    apply(graph, "canonicalize")
    before = matrices(graph)
    apply(graph, "recenter")
    assert norms(graph) == {"rms": 4}
    assert matrices(graph) == before


def matrices(graph: Graph) -> int:
    return sum(value.rank == 2 for value in graph.constants())


# -- dynamic shapes, element types, cost ----------------------------------------------------------


def test_dynamic_batch_and_length(view):
    shapes = ({0: "batch", 1: "length"},)
    model = Block(branch=Causal).double()
    graph, _ = view.lift(model, (some_ids(),), dynamic_shapes=shapes)
    apply(graph, "default")
    assert norms(graph) == {"rms": 3}
    for shape in ((2, 5), (3, 4), (4, 9)):
        ids = some_ids(*shape)
        assert error(outputs(graph, (ids,)), expected(model, (ids,))) <= 1e-9


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float16, 8e-3), (torch.bfloat16, 6e-2)], ids=str
)
def test_half_precision(dtype, bound):
    """Weights are rounded once; the result is as close to the truth as the original was."""
    model, inputs = Block().to(dtype), (some_ids(),)
    graph = lifted(model, inputs)
    rounded = outputs(graph, inputs)
    truth = expected(copy.deepcopy(model).double(), inputs)
    apply(graph, "canonicalize", "recenter")
    assert norms(graph) == {"rms": 3}
    assert error(outputs(graph, inputs), truth) <= max(bound, 2 * error(rounded, truth))


def test_a_large_mean_is_no_longer_lost_in_float16():
    """Rows near 1000 lose the small branch they are added to; recentred rows do not."""
    model, inputs = Block(), (some_ids(),)
    with torch.no_grad():
        model.table.weight += 1000
    model = model.half()
    graph = lifted(model, inputs)
    before = outputs(graph, inputs)
    apply(graph, "canonicalize", "recenter")
    after, truth = outputs(graph, inputs), expected(copy.deepcopy(model).double(), inputs)
    assert error(after, truth) < error(before, truth) / 4


def test_cost_is_linear_in_layers():
    """Calls made by the pass, which is what its time is made of, on 10 and 100 layers."""
    ten, hundred = (calls_of(Block(layers=layers)) for layers in (10, 100))
    assert hundred <= 11 * ten


def calls_of(model: nn.Module) -> int:
    graph = lifted(model, (some_ids(),))
    count = 0

    def count_call(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(count_call)
    try:
        apply(graph, "recenter")
    finally:
        sys.setprofile(None)
    assert set(norms(graph)) == {"rms"}
    return count


def test_mlp_is_what_the_default_branch_is():
    assert isinstance(Block().branches[0], type(mlp()))


class Stored8Bit(Block):
    """An embedding table of int8 codes, made float by a cast and a scale."""

    def __init__(self) -> None:
        super().__init__(layers=1)
        self.register_buffer("codes", torch.randint(-100, 100, (VOCABULARY, WIDTH)).to(torch.int8))

    def embed(self, ids: Tensor) -> Tensor:
        return self.codes[ids].double() * 0.0078125  # exact in the float32 that torch.onnx writes


@pytest.mark.parametrize("view", ["fx", "onnx"])
def test_a_table_of_codes_is_not_edited(view):
    model, inputs = Stored8Bit().double().eval(), (some_ids(),)
    graph = lifted(model, inputs, view)
    apply(graph, *(one.spec for one in BEFORE), "recenter")
    assert error(outputs(graph, inputs), expected(model, inputs)) <= 1e-12
