"""One battery over every registered pass."""

import functools
import hashlib
import inspect
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from passel import passes
from passel.errors import InvalidInput
from passel.graph import Graph
from passel.graph.check import check
from passel.graph.text import to_text
from passel.models import ViT, ViTConfig, randomize, vit_inputs
from passel.passes import DEFAULT, PASSES, Exactness, parse, resolve
from passel.passes.driver import run_pass, run_passes

HEADINGS = ("Rewrite", "Why", "Exactness", "Legality", "Effect", "References")
ROOT = Path(passes.__file__).parent
CONFIG = ViTConfig(
    image_size=8, patch_size=4, channels=1, dim=8, depth=2, heads=2, classes=3, layer_scale=0.5
)
each = pytest.mark.parametrize("name", PASSES)


@functools.cache
def program(view):
    """One small ViT, exported once a view."""
    torch.manual_seed(0)
    return view.export(randomize(ViT(CONFIG)), vit_inputs(CONFIG), opset=23)


def vit(view):
    """A fresh graph of it."""
    return view.open(program(view), vit_inputs(CONFIG))


def fingerprint(graph):
    """The text of a graph and the bytes of its constants."""
    digest = hashlib.sha256(to_text(graph).encode())
    for value in graph.constants():
        array = value.array()
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


@each
def test_name_is_the_file_stem_and_the_class(name):
    kind = PASSES[name]
    module = inspect.getmodule(kind)
    assert Path(module.__file__).stem == name.replace("-", "_")
    assert kind.__name__ == name.title().replace("-", "")
    assert getattr(passes, kind.__name__) is kind


def _place(heading, text):
    """Where a heading starts a line; it may say what it is about before its colon."""
    found = re.search(rf"^{heading}[^:\n]*:", text, re.MULTILINE)
    return -1 if found is None else found.start()


@each
def test_docstring_is_a_method_card(name):
    text = inspect.getmodule(PASSES[name]).__doc__
    places = [_place(heading, text) for heading in HEADINGS]
    assert -1 not in places, dict(zip(HEADINGS, places, strict=True))
    assert places == sorted(places)
    assert PASSES[name]().summary == text.strip().splitlines()[0]
    assert PASSES[name]().summary.endswith(".") or ":" in PASSES[name]().summary


@each
def test_spec_round_trips_and_a_pass_is_a_value(name):
    one = PASSES[name]()
    assert parse(one.spec) == one
    assert parse(f"{name.replace('-', '_')}()") == one
    assert hash(one) == hash(PASSES[name]())
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(AttributeError):
        one.anything = 1


@each
def test_space_holds_passes_that_round_trip(name, view):
    graph, _ = vit(view)
    before = fingerprint(graph)
    variants = PASSES[name]().space(graph)
    assert variants
    assert all(isinstance(one, PASSES[name]) and parse(one.spec) == one for one in variants)
    assert fingerprint(graph) == before


@each
def test_matching_and_refusing_change_nothing(name, view):
    graph, _ = vit(view)
    before = fingerprint(graph)
    one = PASSES[name]()
    for site in one.match(graph):
        one.refuse(graph, site)
        assert site.anchor in site.touched or site.touched
    assert fingerprint(graph) == before


@each
def test_an_empty_graph(name):
    report = run_pass(Graph(binding=None), PASSES[name]())
    assert (report.applied, report.refused, report.ops_after) == ([], [], {})


@each
def test_twice_is_once_and_the_same_bytes_every_time(name, view):
    prints = []
    for _ in range(2):
        graph, _ = vit(view)
        run_passes(graph, [PASSES["fold-constants"](), PASSES["canonicalize"]()])
        start = fingerprint(graph)
        report = run_pass(graph, PASSES[name]())
        assert (fingerprint(graph) != start) == bool(report.applied)
        check(graph, name)
        prints.append(fingerprint(graph))
        again = run_pass(graph, PASSES[name]())
        assert not again.applied
        assert fingerprint(graph) == prints[-1]
    assert prints[0] == prints[1]


@each
def test_both_views_agree(name, request):
    """From canonical form on, with attention as one op in both."""
    counts = []
    for view in ("fx", "onnx"):
        graph, _ = vit(type(request.getfixturevalue("fx_view"))(view))
        run_passes(graph, [PASSES["fold-constants"](), PASSES["canonicalize"]()])
        report = run_pass(graph, PASSES[name]())
        counts.append((len(report.applied), sorted(report.reasons.items())))
    assert counts[0] == counts[1]


def test_every_file_is_registered():
    """A file with a method card is a pass, and in the table."""
    cards = {
        path.stem.replace("_", "-")
        for path in ROOT.glob("*.py")
        if _place("Rewrite", path.read_text(encoding="utf-8")) >= 0
    }
    assert cards == set(PASSES)


def test_the_default_pipeline_is_exact():
    assert all(one.exactness is not Exactness.APPROXIMATE for one in DEFAULT)
    assert list(DEFAULT) == resolve("default")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("nonsense", "expected one of default, none, "),
        ("fold-affine(strength=3)", "cannot read"),
        ("fold-affine(3)", "expected keyword parameters only"),
        ("fold-affine(3", "cannot read"),
    ],
)
def test_bad_requests(request_, message):
    with pytest.raises(InvalidInput, match=message):
        resolve(request_)


def test_requests():
    assert resolve("none") == []
    assert resolve(["canonicalize", PASSES["recenter"]()]) == [
        PASSES["canonicalize"](),
        PASSES["recenter"](),
    ]
    assert set(passes.available()) == set(PASSES)


def test_default_leaves_a_plain_module_as_it_is(view):
    graph, _ = view.lift(nn.Linear(8, 4), (torch.zeros(2, 8),))
    assert not any(report.applied for report in run_passes(graph, DEFAULT))
