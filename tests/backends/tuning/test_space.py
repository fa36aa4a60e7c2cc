"""The search space: what a model leaves to decide, and plans made of decisions."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from passel.backends.select import FORM
from passel.backends.tuning.plan import EXPORTED, Plan
from passel.backends.tuning.space import OFF, SCHEMES, Space, explored, space_of
from passel.passes.registry import parse, resolve
from tests.backends.tuning.races import planned


class Block(nn.Module):
    """A pre-norm residual block: recenter and compress have something to do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(4, 8), nn.LayerNorm(8)
        self.up, self.head, self.last = nn.Linear(8, 8), nn.Linear(8, 4), nn.LayerNorm(8)

    def forward(self, x):
        stream = self.embed(x)
        stream = stream + self.up(self.norm(stream))
        return self.head(self.last(stream))


SPACES = st.builds(
    Space,
    pipeline=st.just((("recenter", "recenter"), ("compress", "compress"))),
    variants=st.just({"recenter": ("recenter", OFF), "compress": (OFF, "compress", "x")}),
    backends=st.sampled_from([("onnxruntime",), ("onnxruntime", "torch", "tvm"), ("torch",)]),
    schemes=st.sampled_from([(), SCHEMES]),
    cores=st.integers(1, 6).map(lambda count: tuple(range(count))),
    threads=st.sampled_from([0, 1, 2]),
    throughput=st.booleans(),
)


@given(SPACES, st.integers(0, 10**6))
def test_whatever_is_picked_is_a_plan_that_fits_the_machine(space, seed):
    rng = random.Random(seed)
    plan = space.plan(lambda name, options: rng.choice(options))
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.backend in space.backends
    assert plan.threads in ({space.threads} if space.threads else {0, *range(7)})
    assert plan.streams * max(1, plan.threads) <= max(len(space.cores), plan.threads)
    assert len(plan.affinity) in (0, plan.threads)
    if plan.backend == "onnxruntime":
        assert plan.form in (*FORM.options, EXPORTED)
        assert plan.form != EXPORTED or not plan.passes


@given(SPACES)
def test_the_start_points_hold_the_baseline_every_form_and_every_backend(space):
    plans = [planned(space, values) for values in space.starts()]
    assert plans[0] == space.baseline or "onnxruntime" not in space.backends
    assert {plan.backend for plan in plans} == set(space.backends)
    if "onnxruntime" in space.backends:
        assert {plan.form for plan in plans} >= {EXPORTED, *FORM.options}
        found = {spec for plan in plans for spec in plan.passes}
        assert found >= set(space.schemes)


@given(SPACES)
def test_every_start_point_answers_whatever_its_plan_asks(space):
    for values in space.starts():
        asked = []
        space.plan(lambda name, options, v=values, a=asked: a.append((name, options)) or v[name])
        assert all(values[name] in options for name, options in asked)


def test_one_name_always_has_the_same_options():
    """A study refuses a decision whose options change."""
    space = Space(backends=("onnxruntime", "torch", "tvm"), cores=(0, 1, 2), schemes=SCHEMES)
    seen = {}
    for seed in range(200):
        rng = random.Random(seed)

        def pick(name, options, rng=rng):
            assert seen.setdefault(name, options) == options
            return rng.choice(options)

        space.plan(pick)
    assert {"form", "threads", "workers", "scheme", "affinity"} <= set(seen)


def test_what_a_model_leaves_to_decide(view):
    graph, _ = view.lift(Block(), (torch.randn(2, 4),))
    variants = explored(graph, resolve("default"))
    assert variants["recenter"] == ("recenter", OFF)
    assert variants["compress"] == (OFF, "compress", "compress(form='paper')")
    for options in variants.values():
        assert all(parse(spec).spec == spec for spec in options if spec != OFF)


def test_a_model_without_norms_leaves_nothing(view):
    graph, _ = view.lift(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), (torch.randn(2, 4),))
    assert explored(graph, resolve("default")) == {}


@pytest.mark.parametrize("choice", [OFF, "compress", "compress(form='paper')"])
def test_a_pass_of_the_space_runs_or_not(view, choice):
    graph, _ = view.lift(Block(), (torch.randn(2, 4),))
    space = space_of(graph, resolve("default"), cores=(0,))
    plan = planned(space, {"compress": choice})
    assert [spec for spec in plan.passes if spec.startswith("compress")] == [choice] * (
        choice != OFF
    )
    assert "recenter" in plan.passes
    assert "recenter" not in planned(space, {"recenter": OFF}).passes
