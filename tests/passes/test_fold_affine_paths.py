"""fold-affine across residual adds, slices, broadcasts and products, and where paths meet again."""

import pytest
import torch
from torch import nn

from passel.passes import Canonicalize, FoldAffine, FoldConstants

FOLD = (Canonicalize(), FoldConstants(), Canonicalize(), FoldAffine(), Canonicalize())
X = (torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)),)


class Net(nn.Module):
    """Parameters that the forwards below share: positive gains, a shift, some Linears."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))
        self.c = nn.Parameter(torch.rand(8) + 0.5)
        self.table = nn.Parameter(torch.randn(5, 8))
        self.f, self.g, self.h = (nn.Linear(8, 8) for _ in range(3))
        self.narrow, self.other = nn.Linear(4, 3), nn.Linear(4, 3)
        self.rule = forward

    def forward(self, x):
        return self.rule(self, x)


def check(either_view, rule, *, affine=0, random=False):
    outcome = either_view.apply(Net(rule), X, *FOLD, random=random)
    assert outcome.count("Affine", "mul", "div") == affine, outcome.after
    return outcome


GONE = {
    "telescoped": lambda m, x: m.g((y := x * m.a + m.b) + m.f(y)),
    "telescoped twice": lambda m, x: m.g(
        (z := ((y := x * m.a + m.b) + m.f(y)) * m.c - m.b) + m.h(z)
    ),
    "other side of a sub": lambda m, x: m.g(m.f(y := x * m.a + m.b) - y),
    "left side of a sub": lambda m, x: m.g((y := x * m.a + m.b) - m.f(y)),
    "position table": lambda m, x: m.g((x * m.a + m.b) + m.table),
    "class token": lambda m, x: m.g(torch.cat((m.table[:1].expand(2, 1, 8), x * m.a + m.b), dim=1)),
    "two readers": lambda m, x: (m.f(y := x * m.a + m.b), m.g(y), m.h(y[:, 0])),
    "select": lambda m, x: m.f((x * m.a + m.b)[:, -1]),
    "slice of the features": lambda m, x: m.narrow((x * m.a + m.b)[..., 2:6]),
    "strided slice": lambda m, x: m.narrow((x * m.a + m.b)[..., 1::2]),
    "split": lambda m, x: [
        m.narrow((parts := (x * m.a + m.b).split(4, dim=-1))[0]),
        m.other(parts[1]),
    ],
    "chunk backwards": lambda m, x: [part * m.a[:4] + m.b[:4] for part in m.f(x).chunk(2, dim=-1)],
    "concat of features": lambda m, x: m.g(torch.cat((x[..., :4] * m.a[:4], x[..., 4:]), -1)),
    "flip-like transpose": lambda m, x: m.f((x * m.a + m.b).transpose(0, 1)),
    "heads": lambda m, x: m.f((x * m.a + m.b).view(2, 5, 2, 4).flatten(2)),
    "mean of tokens": lambda m, x: m.f((x * m.a + m.b).mean(1)),
    "sum of tokens, no shift": lambda m, x: m.f((x * m.a).sum(1)),
    "token mixing": lambda m, x: m.f(torch.softmax(x @ x.mT, -1) @ (x * m.a)),
    "expand": lambda m, x: m.f((x[:, :1] * m.a + m.b).expand(2, 5, 8)),
    "scalar": lambda m, x: m.f(-x / 3 + 0.5),
    "relu": lambda m, x: m.f(torch.relu(x * m.a)),
    "relu backwards": lambda m, x: torch.exp(torch.relu(m.f(x)) * m.a),
    "broadcast row": lambda m, x: m.g((x * m.a + m.b) + m.f(x[:, :1])),
    "shift past an add": lambda m, x: m.g((x + m.b) + torch.exp(x)),
}


@pytest.mark.parametrize("case", GONE)
def test_nothing_is_left(either_view, case):
    check(either_view, GONE[case])


GATED = {
    "gate of another branch": lambda m, x: m.f((x * m.a) * torch.tanh(x)),
    "divided by another branch": lambda m, x: m.f((x * m.a) / torch.exp(x)),
    "through a product": lambda m, x: torch.exp((m.f(x) * torch.sigmoid(x)) * m.a),
}


@pytest.mark.parametrize("case", GATED)
def test_only_the_product_of_branches_is_left(either_view, case):
    check(either_view, GATED[case], affine=1)


MEETING = {
    # One value reaches an add on both sides: each side would ask the other for its inverse.
    "itself and a multiple": lambda m, x: m.g((y := x * m.a) + y * m.c),
    "a multiple and itself": lambda m, x: m.g((y := x * m.a) * m.c + y),
    "itself twice": lambda m, x: m.g((y := x * m.a) + y),
    "its two halves": lambda m, x: m.narrow((y := x * m.a + m.b)[..., :4] + y[..., 4:]),
    "its halves, one scaled": lambda m, x: m.narrow(
        (y := x * m.a + m.b)[..., :4] + y[..., 4:] * m.c[:4]
    ),
    "square": lambda m, x: m.g((y := x * m.a) * y),
    "product with a function of it": lambda m, x: m.g((y := x * m.a) * torch.tanh(y)),
    "gram matrix": lambda m, x: torch.softmax((y := x * m.a) @ y.mT, -1),
    "joined with itself": lambda m, x: m.g(torch.cat(((y := x * m.a), y * m.c), 1)),
    "scaled, then its own branch": lambda m, x: m.g((y := m.f(x) * m.a) * m.c + (y - m.b)),
}


@pytest.mark.parametrize("case", MEETING)
def test_paths_that_meet_again(either_view, case):
    either_view.apply(Net(MEETING[case]), X, *FOLD, random=False)


STAYS = {
    "square root": (lambda m, x: torch.exp(x * m.a), "a reader cannot absorb it"),
    "axis mixed": (
        lambda m, x: m.f((x * m.a).reshape(2, 8, 5).transpose(1, 2)),
        "the map does not vary along the channel axis",
    ),
    "sum of a shift": (
        lambda m, x: m.f((x + m.b).sum(1)),
        "the channel axis is mixed with another",
    ),
    "along tokens": (
        lambda m, x: m.f(x * m.table[:, :1]),
        "the map does not vary along the channel axis",
    ),
    "negative relu": (lambda m, x: m.f(torch.relu(x * -m.a)), "a reader cannot absorb it"),
    "denominator": (lambda m, x: m.f(torch.exp(x) / (x * m.a)), "a reader cannot absorb it"),
    "contracted": (lambda m, x: (x * m.a) @ x.mT, "a reader cannot absorb it"),
}


@pytest.mark.parametrize("case", STAYS)
def test_one_affine_is_left(either_view, case):
    rule, reason = STAYS[case]
    outcome = either_view.apply(Net(rule), X, *FOLD, random=False)
    assert outcome.refused(reason), outcome.reasons


def test_partial_fold_is_not_made_when_one_reader_refuses(either_view):
    outcome = either_view.apply(
        Net(lambda m, x: (m.f(y := x * m.a + m.b), torch.exp(y))), X, *FOLD, random=False
    )
    assert outcome.count("Affine", "mul") == 1
    assert outcome.refused("a reader cannot absorb it")
