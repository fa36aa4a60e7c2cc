"""Every reason for which compress leaves a stream alone, and that it then changes nothing."""

import ast
import inspect

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passel.graph import Graph
from passel.graph.onnx import lift
from passel.passes import compress, resize, streams
from tests.residual import (
    WIDTH,
    Block,
    apply,
    error,
    fingerprint,
    lifted,
    norms,
    outputs,
    some_ids,
)


def rms() -> nn.Module:
    return nn.RMSNorm(WIDTH, elementwise_affine=False)


def centre(model: nn.Module) -> nn.Module:
    """Recentre the writers of a model whose norms are RMSNorms."""
    with torch.no_grad():
        model.table.weight -= model.table.weight.mean(1, keepdim=True)
        for branch in model.branches:
            branch[2].weight -= branch[2].weight.mean(0)
            branch[2].bias -= branch[2].bias.mean()
    return model


class Zeros(Block):
    def __init__(self) -> None:
        super().__init__(norm=rms)
        nn.init.zeros_(self.table.weight)
        for branch in self.branches:
            nn.init.zeros_(branch[2].weight)
            nn.init.zeros_(branch[2].bias)


class Constant(Block):
    """A number is added to every feature: an RMSNorm sees it."""

    def embed(self, ids: Tensor) -> Tensor:
        return self.table(ids) + 0.3


class Read(Block):
    """A Linear reads the stream."""

    def finish(self, x: Tensor) -> Tensor:
        return self.head(x)


class Exposed(Block):
    def finish(self, x: Tensor) -> Tensor:
        return x


class Mixed(Block):
    def __init__(self) -> None:
        super().__init__(norm=rms)
        self.norms[1] = nn.LayerNorm(WIDTH)


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.norm = rms()

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return self.head(self.norm(y + y.transpose(0, 1)))


class Gates(Block):
    """No norm is read by a Linear."""

    def __init__(self) -> None:
        super().__init__(norm=rms)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Sigmoid(), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
            for _ in range(2)
        )


class Conditioned(Block):
    """The gain of a norm depends on the input."""

    def __init__(self) -> None:
        super().__init__(norm=rms)

    def forward(self, ids: Tensor) -> Tensor:
        gain = self.table(ids[0]).mean(0)
        return self.head(F.rms_norm(self.table(ids), (WIDTH,), gain, 1e-5))


class One(nn.Module):
    """A stream of one feature."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(3, 1), nn.RMSNorm(1), nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.first(x)))


def ids_graph(model: nn.Module) -> Graph:
    return lifted(model, (some_ids(),))


PREFIX = """<ir_version: 10, opset_import: ["": 20, "mine": 1]>
g (float[2, 3] x) => (float[a, b] y{more}) <
  float[3, 4] w = {{1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 1.0, -2.0, 3.0, -2.0}},
  float[4, 2] v = {{1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}},
  int64[1] one_axis = {{1}}, float two = {{2.0}}, float eps = {{0.00001}},
  bool[3] both = {{1, 1, 1}}, int64[3] more = {{3, 2, 4}}, {declared}
  int64[1] last = {{-1}}, int64[1] four = {{4}}, int64[2] whole = {{2, 4}}>
{{
  u = MatMul(x, w)
  {body}
  square = Pow(s, two)
  mean = ReduceMean(square, last)
  total = Add(mean, eps)
  root = Sqrt(total)
  n = Div(s, root)
  y = MatMul(n, v)
}}"""


def text_graph(body: str, more: str = "", declared: str = "") -> Graph:
    text = PREFIX.format(body=body, more=more, declared=declared)
    graph = lift(ir.from_proto(onnx.parser.parse_model(text)))
    apply(graph, "canonicalize")
    assert norms(graph) == {"rms": 1}
    return graph


CASES = {
    "the norm's gain is computed at run time": lambda: ids_graph(Conditioned()),
    "the stream is not zero-mean": lambda: ids_graph(Block(norm=rms)),
    "nothing but zeros is written to the stream": lambda: ids_graph(Zeros()),
    "too many norms would have to be expanded again": lambda: ids_graph(centred_gates()),
    "the stream has one feature only": lambda: lifted(One(), (torch.randn(2, 3),)),
    "the feature width is read as a number": lambda: text_graph(
        "s = Identity(u) \n shape = Shape(u)", ", int64[2] shape"
    ),
    "a shape is computed in a way that cannot be edited": lambda: text_graph(
        "t = Compress<axis = 0>(more, both) \n s = Expand(u, t)", declared="float[3, 2, 4] s,"
    ),
    "an op reads the stream itself, not a norm of it": lambda: ids_graph(Read(norm=rms)),
    "the stream is a graph output": lambda: ids_graph(Exposed(norm=rms)),
    "a norm of another kind reads the stream": lambda: ids_graph(Mixed()),
    "the stream is read along two axes": lambda: lifted(Transposed(), (torch.randn(WIDTH, WIDTH),)),
}


def centred_gates() -> nn.Module:
    return centre(Gates())


@pytest.mark.parametrize("form", ["isometric", "paper"])
@pytest.mark.parametrize("reason", CASES)
def test_refusal(reason, form):
    graph = CASES[reason]()
    apply(graph, "canonicalize")
    before = fingerprint(graph)
    (report,) = apply(graph, f"compress(form={form!r})")
    assert set(report.reasons) == {reason}
    assert not report.applied
    assert report.refused[0][1].node
    assert fingerprint(graph) == before


def test_a_number_added_to_every_feature_is_seen():
    graph = ids_graph(centre(Constant(norm=rms)))
    apply(graph, "canonicalize")
    (report,) = apply(graph, "compress")
    assert report.reasons == {"the stream is not zero-mean": 1}


def test_every_reason_is_tested():
    modules = (compress, resize, streams)
    written = {reason for module in modules for reason in reasons(module)}
    assert written == set(CASES)


def reasons(module):
    """The literals that refusals of a module are made from, directly or through `reason`."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Refusal":
            if isinstance(node.args[0], ast.Constant):
                yield node.args[0].value
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reason":
            yield ast.literal_eval(node.value)


def test_zeros_are_not_compressed_again_and_again():
    """Any width of zeros is zero-mean, so nothing but this refusal would end it."""
    graph = ids_graph(Zeros())
    apply(graph, "canonicalize", "compress", "compress")
    assert {norm.x.shape[-1] for norm in graph.ops if norm.kind == "RMSNorm"} == {WIDTH}


@pytest.mark.parametrize(
    "body",
    [
        "s = Reshape(u, whole)",
        "rows = Shape<start = 0, end = 1>(u) \n t = Concat<axis = 0>(rows, four) \n"
        "s = Reshape(u, t)",
        "rows = Shape<start = 0, end = 1>(u) \n t = Concat<axis = 0>(rows, last) \n"
        "s = Reshape(u, t)",
        "t = Max(whole, whole) \n s = Expand(u, t)",
        "t = Max(four, four) \n s = Expand(u, t)",
        "flat = Unsqueeze(u, last) \n t = Max(four, four) \n v1 = Transpose<perm = [0, 2, 1]>(flat)"
        "\n v2 = Expand(v1, t) \n s = Squeeze(v2, one_axis)",
    ],
    ids=["constant", "computed", "rest", "expanded", "short target", "shorter target"],
)
@pytest.mark.parametrize("form", ["isometric", "paper"])
def test_a_target_shape_is_edited(body, form):
    graph = text_graph(body)
    x = (torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),)
    want = outputs(graph, x)
    (report,) = apply(graph, f"compress(form={form!r})")
    assert len(report.applied) == 1
    assert error(outputs(graph, x), want) <= 1e-6
    again = graph.binding.lower(graph)
    onnx.checker.check_model(ir.to_proto(again))
    assert np.isfinite(want[0]).all()
