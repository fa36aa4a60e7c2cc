"""EL2N against its closed forms and torch; selection; spellings."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passel.errors import InvalidInput
from passel.passes.quantization.calibration import (
    Samples,
    Selection,
    el2n,
    informative,
    select_samples,
)

NET = """
<ir_version: 10, opset_import: ["": 20]>
net (float[batch, 3] x) => (float[batch, 3] y) { y = Identity(x) }
"""


# -- scores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_closed_forms(classes):
    sure = np.full((1, classes), -1000.0)
    sure[0, classes // 2] = 1000.0
    assert el2n(sure)[0] == 0
    wrong = np.array([(classes // 2 + 1) % classes])
    assert el2n(sure, wrong)[0] == pytest.approx(np.sqrt(2))
    assert el2n(np.zeros((1, classes)))[0] == pytest.approx(np.sqrt(1 - 1 / classes))


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_against_torch(labelled, dtype):
    generator = np.random.default_rng(0)
    logits = (5 * generator.normal(size=(4, 6, 7))).astype(dtype)
    labels = generator.integers(0, 7, size=(4, 6)) if labelled else None
    wide = torch.from_numpy(logits.astype(np.float64))
    known = wide.argmax(-1) if labels is None else torch.from_numpy(labels)
    expected = (wide.softmax(-1) - torch.nn.functional.one_hot(known, 7)).norm(dim=-1)
    np.testing.assert_allclose(el2n(logits, labels), expected.numpy(), rtol=1e-12)


def test_probabilities_are_not_put_through_softmax_again():
    logits = np.random.default_rng(0).normal(size=(5, 4))
    probabilities = torch.from_numpy(logits).softmax(-1).numpy()
    before = probabilities.copy()
    np.testing.assert_allclose(el2n(probabilities), el2n(logits), rtol=1e-12)
    np.testing.assert_array_equal(probabilities, before)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((3, 1)), None, r"at least 2 classes\], got \(3, 1\)"),
        (np.zeros(()), None, r"at least 2 classes\], got \(\)"),
        (np.array([[np.nan, 1.0]]), None, "hold NaN or Inf"),
        (np.zeros((3, 2)), np.zeros(2, int), r"expected integer labels \(3,\), got int64 \(2,\)"),
        (np.zeros((3, 2)), np.zeros(3), "got float64"),
        (np.zeros((3, 2)), np.array([0, 1, 2]), "labels below 2 and from 0"),
        (np.zeros((3, 2)), np.array([0, 1, -1]), "labels below 2 and from 0"),
    ],
)
def test_bad_scores(logits, labels, message):
    with pytest.raises(InvalidInput, match=message):
        el2n(logits, labels)


# -- selection -------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.data(), st.sampled_from([0.0, 0.05, 0.3, 0.9]))
def test_one_of_each_part_and_none_of_the_highest(count, source, trim):
    k = source.draw(st.integers(1, count))
    scores = np.random.default_rng(count).permutation(count).astype(np.float64)
    chosen = select_samples(scores, k, trim)
    assert len(set(chosen.tolist())) == k
    assert (np.diff(chosen) > 0).all()
    kept = max(count - int(trim * count), k)
    ranks = np.sort(scores[chosen])
    assert ranks[-1] < kept
    for part, rank in enumerate(ranks):  # the ranks are the scores here
        assert part * kept // k <= rank < (part + 1) * kept / k
        assert rank == int((part + 0.5) * kept / k + 1e-9)


def test_equal_scores_are_taken_in_order():
    np.testing.assert_array_equal(select_samples(np.zeros(8), 4, 0.0), [1, 3, 5, 7])


@pytest.mark.parametrize(
    ("scores", "k", "trim", "message"),
    [
        (np.zeros(3), 4, 0.0, "choose 1 to 3 samples, got 4"),
        (np.zeros(3), 0, 0.0, "choose 1 to 3 samples, got 0"),
        (np.array([1, np.nan]), 1, 0.0, "one finite score a sample"),
        (np.zeros((2, 2)), 1, 0.0, "one finite score a sample"),
        (np.zeros(3), 1, 1.0, r"trim in \[0, 1\), got 1.0"),
    ],
)
def test_bad_selection(scores, k, trim, message):
    with pytest.raises(InvalidInput, match=message):
        select_samples(scores, k, trim)


# -- on a graph ------------------------------------------------------------------------------------


def unsure(count, rows=1):
    """Sample i is the more unsure the higher i; in a shuffled order, with that order."""
    order = np.random.default_rng(0).permutation(count)
    row = np.array([[1.0, 0, 0]], np.float32)
    return [np.tile(np.float32(10 - 9 * i / count) * row, (rows, 1)) for i in order], order


@pytest.mark.parametrize("rows", [1, 3])
def test_informative_spreads_over_the_models_doubt(onnx_text, rows):
    graph, _ = onnx_text(NET)
    data, order = unsure(40, rows)
    calls = []
    chosen = informative(
        graph,
        Samples.of(data, graph.inputs),
        4,
        trim=0.1,
        progress=lambda *call: calls.append(call),
    )
    assert sorted(order[chosen]) == [4, 13, 22, 31]  # the middles of four parts of 36
    assert calls[-1][:2] == (39, 40)


def test_labels_count_where_they_are_given(onnx_text):
    graph, _ = onnx_text(NET)
    data = [np.array([[9.0, 0, 0]])] * 2 + [np.array([[0.0, 9, 0]])] * 2
    labels = [np.array([0])] * 3 + [np.array([1])]  # the third one is wrong
    samples = Samples.of(data, graph.inputs)
    chosen = informative(graph, samples, 3, trim=0.25, labels=labels)
    assert chosen.tolist() == [0, 1, 3]


def test_an_output_that_is_no_score(onnx_text):
    text = NET.replace("float[batch, 3] y", "int64[batch, 3] y").replace(
        "Identity(x)", "Cast<to = 7>(x)"
    )
    graph, _ = onnx_text(text)
    with pytest.raises(InvalidInput, match="expected float scores from 'y'"):
        informative(graph, Samples.of(unsure(3)[0], graph.inputs), 1)


# -- spellings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        (None, Selection(None)),
        (5, Selection(5)),
        ("el2n", Selection(64, "el2n")),
        ("EL2N", Selection(64, "el2n")),
        (("el2n", 7), Selection(7, "el2n")),
        (["el2n", 7], Selection(7, "el2n")),
        (("first", 7), Selection(7)),
    ],
)
def test_spellings(spelling, expected):
    assert Selection.of(spelling) == expected


@pytest.mark.parametrize(
    "spelling", [0, -1, 2.5, True, "best", ("el2n", 0), ("el2n", None), ("el2n", 3, 4), (3, 4)]
)
def test_bad_spellings(spelling):
    with pytest.raises(InvalidInput, match="expected calibration_samples as a number from 1"):
        Selection.of(spelling)


def test_applied(onnx_text):
    graph, _ = onnx_text(NET)
    data, _ = unsure(20)
    samples = Samples.of(data, graph.inputs)
    assert Selection.of(None).applied(graph, samples) is samples
    assert Selection.of("el2n").applied(graph, samples) is samples  # fewer than 64
    first = Selection.of(3).applied(graph, samples)
    assert [s[0].tolist() for s in first] == [a.tolist() for a in data[:3]]
    chosen = informative(graph, samples, 5)
    found = Selection.of(("el2n", 5)).applied(graph, samples)
    assert [s[0].tolist() for s in found] == [data[i].tolist() for i in chosen]
