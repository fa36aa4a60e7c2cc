"""Every reason for which recenter leaves a stream alone, and that it then changes nothing."""

import ast
import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passel.passes import recenter, streams
from tests.residual import WIDTH, Block, Causal, apply, fingerprint, norms, some_ids


class RuntimeGain(nn.Module):
    """A norm whose gain is an input of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        y = self.first(x)
        y = y + self.second(F.layer_norm(y, (WIDTH,)))
        return self.head(F.layer_norm(y, (WIDTH,), weight=gain))


class EmbeddingNorm(Block):
    """A norm of the embeddings alone, whose result is the residual stream (Bloom, MBart, CLIP)."""

    def __init__(self) -> None:
        super().__init__(layers=1)
        self.first = nn.LayerNorm(WIDTH)
        nn.init.normal_(self.first.bias)

    def embed(self, ids: Tensor) -> Tensor:
        return self.first(self.table(ids))


class PostNorm(Block):
    """x ← LN(x + f(x)), as in BERT."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for norm, branch in zip(self.norms, self.branches, strict=False):
            x = norm(x + branch(x))
        return self.head(x)


class Exposed(Block):
    """The last hidden state leaves the model unnormalised."""

    def finish(self, x: Tensor) -> Tensor:
        return x


class MixedNorms(Block):
    """An RMSNorm reads the same stream, and so its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.norms[1] = nn.RMSNorm(WIDTH)


class Transposed(nn.Module):
    """A square value and its transpose on one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.head = (
            nn.Linear(WIDTH, WIDTH),
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return self.head(self.norm(y + y.transpose(0, 1)))


IDS = (some_ids(),)
SQUARE = (torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)),)
GAINED = (SQUARE[0], torch.rand(WIDTH, generator=torch.Generator().manual_seed(1)))
CASES = {
    "the norm's gain is computed at run time": (RuntimeGain, GAINED, "layer_norm_1"),
    "it would add as many ops as it saves": (EmbeddingNorm, IDS, "layer_norm"),
    "an op reads the stream itself, not a norm of it": (PostNorm, IDS, "linear"),
    "the stream is a graph output": (Exposed, IDS, "add_1"),
    "a norm of another kind reads the stream": (MixedNorms, IDS, ""),
    "the stream is read along two axes": (Transposed, SQUARE, ""),
}


@pytest.mark.parametrize("reason", CASES)
def test_refusal(reason, view):
    build, inputs, node = CASES[reason]
    graph, _ = view.lift(build(), inputs)
    apply(graph, "fold-constants", "canonicalize")
    layers = norms(graph)["layer"]
    (report,) = apply(graph, "recenter")
    refusals = [refusal for _, refusal in report.refused if refusal.reason == reason]
    assert refusals
    assert all(refusal.node for refusal in refusals)
    if view.name == "fx":
        assert any(node in refusal.node for refusal in refusals)
    if report.applied:  # only where another stream of the model could be converted
        assert reason == "it would add as many ops as it saves"
        assert norms(graph)["layer"] == len(report.refused)
        return
    assert norms(graph)["layer"] == layers


@pytest.mark.parametrize("reason", [r for r in CASES if "as many ops" not in r])
def test_a_refused_graph_is_unchanged(reason, fx_view):
    build, inputs, _ = CASES[reason]
    graph, _ = fx_view.lift(build(), inputs)
    apply(graph, "fold-constants", "canonicalize")
    before = fingerprint(graph)
    (report,) = apply(graph, "recenter")
    assert not report.applied
    assert report.refused
    assert fingerprint(graph) == before


def test_every_reason_is_tested():
    written = {reason for module in (recenter, streams) for reason in reasons(module)}
    assert written == set(CASES)


def reasons(module):
    """The literals that refusals of a module are made from, directly or through `reason`."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Refusal":
            if isinstance(node.args[0], ast.Constant):
                yield node.args[0].value
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reason":
            yield ast.literal_eval(node.value)


# -- the net gain ---------------------------------------------------------------------------------


class Gate(nn.Module):
    """Reads a norm with something that is no Linear, so that its shift becomes an add."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.sigmoid(x))


class Gated(Block):
    """`gates` of its five norms are read by gates, and the stream starts from an activation."""

    def __init__(self, gates: int, activated: bool) -> None:
        super().__init__(layers=4)
        self.activated = activated
        for k in range(gates):
            self.branches[k] = Gate()

    def embed(self, ids: Tensor) -> Tensor:
        return self.table(ids).relu() if self.activated else self.table(ids)


@pytest.mark.parametrize(
    ("gates", "activated", "converts"),
    [(0, False, True), (4, False, True), (3, True, True), (4, True, False)],
)
def test_what_is_added_has_to_be_outnumbered(gates, activated, converts, view):
    graph, run = view.lift(Gated(gates, activated).double(), IDS)
    apply(graph, "canonicalize")
    want = run()
    (report,) = apply(graph, "recenter")
    assert bool(report.applied) == converts
    if converts:
        assert sum(op.kind == "Affine" for op in graph.ops) == gates
        assert norms(graph) == {"rms": 5}
        (got,), (target,) = run(), want
        assert abs(got - target).max() <= 1e-11 * abs(target).max()
    else:
        ((_, refusal),) = report.refused
        assert refusal.detail == "1 recentrings and 4 adds for 5 norms"


def test_a_shift_of_zeros_needs_no_add(view):
    model = Gated(4, True)
    for norm in model.norms:
        nn.init.zeros_(norm.bias)
    graph, _ = view.lift(model, IDS)
    apply(graph, "canonicalize", "recenter")
    assert norms(graph) == {"rms": 5}
    assert not any(op.kind == "Affine" for op in graph.ops)


def test_a_gain_that_cannot_fold_stays_with_the_norm(view):
    graph, _ = view.lift(Gated(1, False), IDS)
    apply(graph, "canonicalize", "recenter")
    gained = [norm for norm in graph.ops if norm.kind == "RMSNorm" and norm.scale is not None]
    assert len(gained) == 1


def test_excluding_a_writer_keeps_the_stream(view):
    """`exclude=` names an op whose weights would be edited."""
    from passel.passes import Recenter
    from passel.passes.driver import run_passes

    graph, _ = view.lift(Block(branch=Causal), IDS)
    apply(graph, "canonicalize")
    (report,) = run_passes(graph, [Recenter()], exclude=["branches.0"])
    assert report.excluded
    assert norms(graph) == {"layer": 3}
