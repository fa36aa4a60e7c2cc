"""What a residual stream is made of, on small modules: members, writers, readers, blockers."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passel.graph import Graph, Value
from passel.graph.ops import Conv, Gather, Linear
from passel.passes import streams
from passel.passes.recenter import Recenter
from passel.passes.streams import Stream, find_streams
from tests.residual import apply, error, expected, lifted, norms, outputs

D = 8
IDS = torch.tensor([[1, 4, 2], [3, 3, 0]])


class Probe(nn.Module):
    """A table, `move` on the stream, a LayerNorm and a head."""

    def __init__(self, move: Callable[["Probe", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.move = move
        self.table = nn.Embedding(10, D)
        self.row = nn.Parameter(torch.randn(1, 1, D))
        self.column = nn.Parameter(torch.randn(3, 1))
        self.scalar = nn.Parameter(torch.tensor(0.7))
        self.outward = nn.Linear(D, D)
        self.norm = nn.LayerNorm(D)
        self.head = nn.Linear(D, 5)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, ids: Tensor) -> Tensor:
        found = self.move(self, self.table(ids))
        return self.head(self.norm(found)) if isinstance(found, Tensor) else found[0]


def stream_of(model: nn.Module, *inputs: Tensor) -> Stream:
    graph = prepared(model, *inputs)
    (stream,) = find_streams(graph, ("layer",))
    return stream


def prepared(model: nn.Module, *inputs: Tensor) -> Graph:
    graph = lifted(model, inputs or (IDS,))
    apply(graph, "fold-constants", "canonicalize")
    return graph


MEMBERS: dict[str, Callable[[Probe, Tensor], Tensor]] = {
    "nothing": lambda m, x: x,
    "add a row": lambda m, x: x + m.row,
    "subtract a row": lambda m, x: m.row - x,
    "negate": lambda m, x: -x,
    "add a scalar": lambda m, x: x + m.scalar,
    "add a number a token": lambda m, x: x + m.column,
    "a factor a token": lambda m, x: x * m.column,
    "a factor that is a number": lambda m, x: x * m.scalar,
    "divide by a number": lambda m, x: x / m.scalar,
    "a computed factor": lambda m, x: x * torch.arange(x.shape[1]).to(x.dtype)[:, None].exp(),
    "a mask": lambda m, x: torch.where((IDS > 2)[..., None], x, m.row),
    "a mask and a number": lambda m, x: torch.where((IDS > 2)[..., None], x, m.scalar),
    "to float32 and back": lambda m, x: x.float().to(x.dtype),
    "dropout": lambda m, x: F.dropout(x, 0.5, training=False),
    "other tokens first": lambda m, x: x.transpose(0, 1),
    "there and back": lambda m, x: x.transpose(1, 2).transpose(1, 2),
    "one token": lambda m, x: x[:, 0],
    "some tokens": lambda m, x: x[:, 1:],
    "gathered tokens": lambda m, x: x.index_select(1, torch.tensor([2, 0])),
    "a token before": lambda m, x: torch.cat([m.row.expand(2, 1, D), x], 1),
    "cut and joined": lambda m, x: torch.cat(x.split([1, 2], 1)[::-1], 1),
    "unbound": lambda m, x: x.unbind(1)[1],
    "mean of the tokens": lambda m, x: x.mean(1),
    "sum of the tokens": lambda m, x: x.sum(1, keepdim=True),
    "tokens merged": lambda m, x: x.reshape(6, D),
    "tokens cut": lambda m, x: x.reshape(2, 3, 1, D).squeeze(2).unsqueeze(0),
    "expanded": lambda m, x: x[:, :1].expand(2, 4, D),
    "a residual": lambda m, x: x + m.outward(m.norm(x)),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_member(name: str) -> None:
    """The stream goes on through the op, up to the table; recentring there leaves the result."""
    model = Probe(MEMBERS[name]).double()
    want = expected(model, (IDS,))
    graph = prepared(model)
    (stream,) = find_streams(graph, ("layer",))
    assert not stream.blockers
    assert not stream.computed
    assert any(isinstance(writer.op, Gather) for writer in stream.writers)
    apply(graph, "recenter")
    assert set(norms(graph)) == {"rms"}
    single = 1e-6 if "float32" in name else 1e-12
    assert error(outputs(graph, (IDS,)), want) <= single


def read_by(reader: Callable[[Probe, Tensor], Tensor]) -> Callable[[Probe, Tensor], object]:
    """The stream's norm feeds the head, and `reader` sees the stream itself."""

    def move(model: Probe, x: Tensor) -> tuple[Tensor]:
        return (model.head(model.norm(x)).mean() + reader(model, x).sum(),)

    return move


BLOCKED: dict[str, tuple[Callable[[Probe, Tensor], object], str]] = {
    "a Linear": (
        read_by(lambda m, x: m.outward(x)),
        "an op reads the stream itself, not a norm of it",
    ),
    "some features": (
        read_by(lambda m, x: x[..., :4]),
        "an op reads the stream itself, not a norm of it",
    ),
    "a gate": (
        read_by(lambda m, x: x * x),
        "an op reads the stream itself, not a norm of it",
    ),
    "a factor a feature": (
        read_by(lambda m, x: torch.relu(x * m.row)),
        "an op reads the stream itself, not a norm of it",
    ),
    "the largest token": (
        read_by(lambda m, x: x.amax(1)),
        "an op reads the stream itself, not a norm of it",
    ),
    "the mean feature": (
        read_by(lambda m, x: x.mean(-1)),
        "an op reads the stream itself, not a norm of it",
    ),
    "heads": (
        read_by(lambda m, x: x.reshape(2, 3, 2, 4)),
        "an op reads the stream itself, not a norm of it",
    ),
    "an RMSNorm": (
        read_by(lambda m, x: F.rms_norm(x, (D,))),
        "a norm of another kind reads the stream",
    ),
    "the output": (
        lambda m, x: (x + m.outward(m.norm(x)),),
        "the stream is a graph output",
    ),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_blocker(name: str) -> None:
    move, reason = BLOCKED[name]
    graph = prepared(Probe(move))
    stream = next(find_streams(graph, ("layer",)))
    assert reason in {refusal.reason for refusal in stream.blockers}


class TwoAxes(nn.Module):
    """A square value and its transpose on one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.outward = nn.LayerNorm(D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        y = self.outward(x)
        return self.norm(y + y.transpose(0, 1))


def test_one_value_along_two_axes() -> None:
    stream = next(find_streams(prepared(TwoAxes(), torch.randn(D, D)), ("layer",)))
    assert {refusal.reason for refusal in stream.blockers} == {"the stream is read along two axes"}


class Patches(nn.Module):
    """A convolution that writes patches, and a class token and positions that are constants."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.head = conv, nn.LayerNorm(D), nn.Linear(D, 5)
        self.token = nn.Parameter(torch.randn(1, 1, D))

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image).flatten(2).transpose(1, 2)
        return self.head(self.norm(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)))


@pytest.mark.parametrize(
    ("conv", "editable"),
    [
        (nn.Conv2d(4, D, 2, stride=2), True),
        (nn.Conv2d(4, D, 3, padding=1), True),
        (nn.ConvTranspose2d(4, D, 2), True),
        (nn.Conv2d(4, D, 1, groups=4), False),
        (nn.ConvTranspose2d(4, D, 1, groups=4), False),
        (nn.Sequential(nn.Conv2d(4, D, 1), nn.GELU()), False),
    ],
    ids=["patches", "padded", "transposed", "grouped", "transposed grouped", "activated"],
)
def test_a_convolution_writes(conv: nn.Module, editable: bool) -> None:
    """Along axis 1; the rows of a grouped one see different operands and cannot be mixed."""
    stream = stream_of(Patches(conv), torch.randn(2, 4, 4, 4))
    (writer,) = [writer for writer in stream.writers if writer.value.constant is None]
    assert writer.axis == 1
    assert isinstance(writer.op, Conv) == editable
    assert writer.is_computed != editable
    (token,) = [writer for writer in stream.writers if writer.value.constant is not None]
    assert token.axis == 2
    assert not token.is_computed


class Mixer(nn.Module):
    """Tokens are mixed by a Linear over the token axis, as in MLP-Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix, self.head = nn.LayerNorm(D), nn.Linear(3, 3), nn.Linear(D, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.head(self.norm(x + y))


def test_a_linear_over_another_axis_is_a_computed_writer() -> None:
    stream = stream_of(Mixer(), torch.randn(2, 3, D))
    assert [writer.is_computed for writer in stream.writers] == [True, True]  # the input, the mixer
    assert sorted(writer.axis for writer in stream.writers) == [1, 2]
    assert len(stream.readers) == 2


def test_writers_of_every_kind() -> None:
    model = Probe(lambda m, x: x + m.row + m.scalar + m.outward(m.norm(x)))
    stream = stream_of(model)
    assert {type(writer.op) for writer in stream.writers} == {Gather, Linear, type(None)}
    assert {writer.axis for writer in stream.writers if writer.op is None} == {2, -1}


class Two(nn.Module):
    """An encoder's and a decoder's stream, joined only through Linears of a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(10, D) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(4))
        self.linears = nn.ModuleList(nn.Linear(D, D) for _ in range(3))

    def forward(self, ids: Tensor) -> Tensor:
        x, y = self.tables[0](ids), self.tables[1](ids)
        x = x + self.linears[0](self.norms[0](x))
        y = y + self.linears[1](self.norms[1](x)) + self.linears[2](self.norms[2](y))
        return self.norms[3](y).relu()


def test_each_computed_value_is_on_one_stream() -> None:
    found = list(find_streams(prepared(Two()), ("layer",)))
    assert [len(stream.readers) for stream in found] == [2, 2]
    assert not found[0].axes.keys() & found[1].axes.keys()


def test_streams_are_found_on_the_graph_as_it_stands() -> None:
    """A norm that writes to the next stream may gain an add when its own is rewritten."""

    class Chained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(10, D)
            self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(6))
            self.linears = nn.ModuleList(nn.Linear(D, D) for _ in range(5))
            for parameter in self.norms.parameters():
                nn.init.normal_(parameter)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.table(ids)
            for k in range(2):
                x = x + self.linears[k](self.norms[k](x))
            y = self.norms[2](x)  # read by a residual stream: its shift stays as an add
            for k in range(3, 5):
                y = y + self.linears[k](self.norms[k](y))
            return self.linears[2](self.norms[5](y))

    model = Chained().double()
    want = expected(model, (IDS,))
    graph = prepared(model)
    (report,) = apply(graph, "recenter")
    assert len(report.applied) == 2
    assert norms(graph) == {"rms": 6}
    assert error(outputs(graph, (IDS,)), want) <= 1e-12


def deep(layers: int) -> Graph:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, D)
            self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(layers))
            self.linears = nn.ModuleList(nn.Linear(D, D) for _ in range(layers))

        def forward(self, ids: Tensor) -> Tensor:
            x = self.table(ids)
            for norm, linear in zip(self.norms, self.linears, strict=True):
                x = x + linear(norm(x))
            return x.relu()

    return prepared(Deep())


def test_finding_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the layers, ten times the values visited, each once."""
    visited: list[Value] = []
    upwards = streams._upwards
    monkeypatch.setattr(
        streams, "_upwards", lambda s, v, *rest: visited.append(v) or upwards(s, v, *rest)
    )
    counts = []
    for layers in (10, 100):
        graph = deep(layers)
        visited.clear()
        list(Recenter().match(graph))
        assert len(set(visited)) == len(visited)
        counts.append(len(visited))
    assert counts[1] <= 10 * counts[0]


class Tapped(nn.Module):
    """Pre-norm blocks whose stream something else also sees, after `tap` of them."""

    def __init__(self, blocks: int, tap: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tap = tap
        self.table = nn.Embedding(10, D)
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(blocks + 1))
        self.mlps = nn.ModuleList(nn.Linear(D, D) for _ in range(blocks))
        for norm in self.norms:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for index, (norm, mlp) in enumerate(zip(self.norms, self.mlps, strict=False)):
            if index == self.tap:
                x = x + torch.tanh(x)
            x = x + mlp(norm(x))
        return x if self.tap == len(self.mlps) else self.norms[-1](x) @ torch.eye(D)


@pytest.mark.parametrize("view", ["fx", "onnx"])
@pytest.mark.parametrize("tap", [0, 2])
def test_a_stream_begins_after_what_else_sees_it(view: str, tap: int) -> None:
    model = Tapped(5, tap)
    graph = lifted(model, (IDS,), view)
    apply(graph, "fold-constants", "canonicalize", "recenter")
    assert norms(graph) == {"rms": 6 - tap} | ({"layer": tap} if tap else {})
    assert error(outputs(graph, (IDS,)), expected(model, (IDS,))) <= 1e-5


def test_a_stream_that_is_seen_at_its_end_is_blocked_whole() -> None:
    graph = prepared(Tapped(5, 5), IDS)
    (stream,) = find_streams(graph, ("layer",))
    assert len(stream.readers) == 5
    assert [refusal.reason for refusal in stream.blockers] == ["the stream is a graph output"]
