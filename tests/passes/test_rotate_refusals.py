"""Every reason for which rotate leaves a stream alone, and that it then changes nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passel.graph import Graph
from passel.passes import Rotate, rotate, streams
from tests.passes.test_compress_refusals import One, Transposed, reasons
from tests.residual import WIDTH, Block, apply, fingerprint, lifted, some_ids


def rms() -> nn.Module:
    return nn.RMSNorm(WIDTH, eps=1e-5)


class Constant(Block):
    """A number is added to every feature."""

    def embed(self, ids: Tensor) -> Tensor:
        return self.table(ids) + 0.3


class Read(Block):
    """A Linear reads the stream."""

    def finish(self, x: Tensor) -> Tensor:
        return self.head(x)


class Exposed(Block):
    """The stream is an output."""

    def finish(self, x: Tensor) -> Tensor:
        return x


class Gates(Block):
    """Two norms of three are read by something that is no Linear."""

    def __init__(self) -> None:
        super().__init__(norm=rms)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Sigmoid(), nn.Linear(WIDTH, WIDTH)) for _ in range(2)
        )


class Conditioned(Block):
    """The gain of a norm depends on the input."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        gain = self.table(ids[0]).mean(0)
        return self.head(F.rms_norm(x, (WIDTH,), gain, 1e-5))


class Large(Block):
    """Half-precision weights near the largest number."""

    def __init__(self) -> None:
        super().__init__(norm=rms)
        with torch.no_grad():
            self.table.weight[0, 0] = 3e4
        self.half()


def ids_graph(model: nn.Module) -> Graph:
    return lifted(model, (some_ids(),))


CASES = {
    "the stream has one feature only": ("", lambda: lifted(One(), (torch.randn(2, 3),))),
    "the width is no multiple of the block": (
        "form='block', block=12",
        lambda: ids_graph(Block(norm=rms)),
    ),
    "a rotation would not spread the weights more evenly": (
        "",
        lambda: lifted_even(),
    ),
    "the norm's gain is computed at run time": ("", lambda: ids_graph(Conditioned(norm=rms))),
    "a number is added to all features of the stream": ("", lambda: ids_graph(Constant(norm=rms))),
    "the rotated weight might overflow float16": ("", lambda: ids_graph(Large())),
    "too many rotations would have to be computed": ("", lambda: ids_graph(Gates())),
    "an op reads the stream itself, not a norm of it": ("", lambda: ids_graph(Read(norm=rms))),
    "the stream is a graph output": ("", lambda: ids_graph(Exposed(norm=rms))),
    "a norm of another kind reads the stream": ("", lambda: ids_graph(mixed())),
    "the stream is read along two axes": (
        "",
        lambda: lifted(Transposed(), (torch.randn(WIDTH, WIDTH),)),
    ),
}


def lifted_even() -> Graph:
    """Entries of one size everywhere: no rotation makes them more even."""
    model = Block(norm=rms)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.sign())
    return ids_graph(model)


def mixed() -> nn.Module:
    model = Block(norm=rms)
    model.norms[1] = nn.LayerNorm(WIDTH)
    return model


@pytest.mark.parametrize("reason", CASES)
def test_refusal(reason: str) -> None:
    parameters, build = CASES[reason]
    graph = build()
    apply(graph, "canonicalize")
    before = fingerprint(graph)
    (report,) = apply(graph, f"rotate({parameters})")
    assert set(report.reasons) == {reason}
    assert not report.applied
    assert report.refused[0][1].node
    assert fingerprint(graph) == before


def test_every_reason_is_tested() -> None:
    written = {reason for module in (rotate, streams) for reason in reasons(module)}
    assert written == set(CASES)


def test_layer_norms_are_not_looked_at() -> None:
    (report,) = apply(ids_graph(Block()), "rotate")
    assert not report.applied
    assert not report.refused


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"form": "dct"}, r"rotate: expected form in \['block', 'hadamard', 'random'\], got 'dct'"),
        ({"block": 52}, "rotate: expected a Hadamard order as block, got 52"),
        ({"block": 1}, "rotate: expected a Hadamard order as block, got 1"),
        ({"block": -4}, "rotate: expected a Hadamard order as block, got -4"),
        ({"seed": -1}, "rotate: expected a seed of at least 0, got -1"),
    ],
)
def test_bad_parameters(parameters: dict[str, int | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rotate(**parameters)


def test_space_holds_nothing_but_the_pass() -> None:
    one = Rotate(seed=3)
    assert one.space(ids_graph(Block(norm=rms))) == (one,)
    assert not one.once
    assert Rotate(always=True).once
