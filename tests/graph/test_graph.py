"""The graph's edit primitives, its grammar, and its text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.errors import InvalidGraph
from passel.graph import Constant, Graph, Value, is_float
from passel.graph.check import check
from passel.graph.ops import Conv, Elementwise, Linear, Norm, Opaque, Split, Transpose
from passel.graph.text import to_text

F32 = np.dtype(np.float32)


def make(*fns, shape=(2, 3)):
    """x, then a chain of pointwise ops; the last is the output."""
    graph = Graph(binding=None)
    value = Value("x", shape, F32)
    graph.inputs.append(value)
    for fn in fns:
        value = graph.add(Elementwise(inputs=[value], fn=fn), (shape, F32), name=fn).output
    graph.outputs, graph.output_names = [value], ["y"]
    return graph


def kinds(graph):
    return [op.kind for op in graph.ops]


def named(graph, name):
    return next(op for op in graph.ops if op.name == name)


def test_a_chain_reads_in_order():
    graph = make("exp", "tanh", "abs")
    assert kinds(graph) == ["exp", "tanh", "abs"]
    assert [op.kind for op in graph.walk(Elementwise)] == ["exp", "tanh", "abs"]
    exp = named(graph, "exp")
    assert exp.output.readers == [named(graph, "tanh")]
    assert graph.only_reader(exp.output) is named(graph, "tanh")
    assert graph.is_output(named(graph, "abs").output)
    assert graph.only_reader(named(graph, "abs").output) is None
    check(graph, "nothing")


def test_add_before_after_prepend_and_append():
    graph = make("exp", "tanh")
    x, exp = graph.inputs[0], named(graph, "exp")
    result = ((2, 3), F32)
    graph.add(Elementwise(inputs=[x], fn="sin"), result, before=exp)
    graph.add(Elementwise(inputs=[x], fn="cos"), result, after=exp)
    graph.prepend(Elementwise(inputs=[x], fn="neg"), result)
    graph.append(Elementwise(inputs=[x], fn="abs"))
    assert kinds(graph) == ["neg", "sin", "exp", "cos", "tanh", "abs"]
    graph.add_behind(exp.output, Elementwise(inputs=[x], fn="sqrt"), result, name="root")
    graph.add_behind(x, Elementwise(inputs=[x], fn="log"), result)
    assert kinds(graph) == ["log", "neg", "sin", "exp", "sqrt", "cos", "tanh", "abs"]
    assert named(graph, "root").fn == "sqrt"
    empty = Graph(binding=None)
    empty.prepend(Elementwise(fn="neg"), result)
    assert kinds(empty) == ["neg"]


def test_replace_moves_readers_and_outputs():
    graph = make("exp", "tanh")
    exp, tanh = named(graph, "exp"), named(graph, "tanh")
    graph.replace(exp.output, graph.inputs[0])
    assert tanh.inputs == [graph.inputs[0]]
    assert not exp.output.uses
    graph.replace(tanh.output, exp.output)
    assert graph.outputs == [exp.output]
    assert graph.output_names == ["y"]


def test_redirect_moves_some_readers():
    graph = make("exp", "tanh")
    x, exp = graph.inputs[0], named(graph, "exp")
    other = graph.add(Elementwise(inputs=[x], fn="cos"), ((2, 3), F32), before=exp)
    graph.redirect(x, other.output, [(exp, 0)])
    assert exp.inputs == [other.output]
    assert other.inputs == [x]


def test_a_pinned_value_is_not_replaced():
    graph = make("exp", "tanh")
    value = named(graph, "exp").output
    graph.pinned.add(value)
    assert graph.is_output(value)
    with pytest.raises(
        ValueError, match=f"expected a value that may change, got the pinned '{value.name}'"
    ):
        graph.replace(value, graph.inputs[0])


def test_set_input_fills_up_and_counts_uses():
    graph = make("exp")
    op = named(graph, "exp")
    constant = graph.constant(np.ones(3, np.float32))
    graph.set_input(op, 2, constant)
    assert op.inputs == [graph.inputs[0], None, constant]
    assert list(constant.uses) == [(op, 2)]
    graph.set_input(op, 2, None)
    assert not constant.uses
    assert op.operand(7) is None
    with pytest.raises(AssertionError, match="exp 'exp' lacks operand 1"):
        op.require(1)


def test_update_marks_the_op_as_edited():
    graph = make("exp")
    op = named(graph, "exp")
    op.source = object()
    graph.update(op, fn="abs")
    assert (op.kind, op.source) == ("abs", None)
    with pytest.raises(AttributeError, match="abs has no attribute 'nonsense'"):
        graph.update(op, nonsense=1)


def test_renew_gives_the_producer_another_result():
    graph = make("exp", "tanh")
    exp = named(graph, "exp")
    old = exp.output
    fresh = graph.renew(old, (6,))
    assert exp.output is fresh
    assert (fresh.shape, old.producer) == ((6,), None)
    with pytest.raises(ValueError, match="expected a computed value, got 'x'"):
        graph.renew(graph.inputs[0], (6,))


def test_erase_and_prune():
    graph = make("exp", "tanh")
    exp, tanh = named(graph, "exp"), named(graph, "tanh")
    with pytest.raises(ValueError, match="expected 'exp' to be unread, but 'exp_out' is read"):
        graph.erase(exp)
    graph.outputs = [graph.inputs[0]]
    graph.prune(tanh)
    assert kinds(graph) == []
    assert exp.erased
    assert not graph.inputs[0].uses
    graph.prune(None)


def test_prune_stops_at_what_is_read_and_at_effects():
    graph = make("exp", "tanh")
    effect = graph.add(Opaque(target="assert", impure=True, inputs=[graph.inputs[0]]))
    graph.prune(effect)
    graph.prune(named(graph, "exp"))
    assert kinds(graph) == ["exp", "tanh", "assert"]


def test_a_walk_survives_the_erasure_of_what_it_stands_on():
    graph = make("exp", "tanh", "abs", "neg")
    seen = []
    for op in graph.ops:
        seen.append(op.kind)
        if op.kind in ("tanh", "abs"):
            graph.replace(op.output, op.inputs[0])
            graph.erase(op)
    assert seen == ["exp", "tanh", "abs", "neg"]
    assert kinds(graph) == ["exp", "neg"]
    check(graph, "the walk")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_erasing_in_any_order_keeps_the_list_whole(order):
    graph = make(*["exp"] * 10)
    ops = list(graph.ops)
    for index in dict.fromkeys(order):
        graph.replace(ops[index].output, ops[index].inputs[0])
        graph.erase(ops[index])
    left = [op for k, op in enumerate(ops) if k not in order]
    assert list(graph.ops) == left
    back, op = [], graph._last
    while op is not None:
        back.append(op)
        op = op.prev
    assert back[::-1] == left
    check(graph, "erasing")


def test_names_are_unique_and_reserved_ones_are_taken():
    graph = Graph(binding=None)
    graph.reserve("w")
    assert [graph.fresh_name("w") for _ in range(3)] == ["w_1", "w_2", "w_3"]
    graph.reserve("v_1")
    assert [graph.fresh_name("v"), graph.fresh_name("v")] == ["v", "v_1_1"]


def test_constants_are_listed_once_in_order_of_use():
    graph = make("exp")
    a, b = (graph.constant(np.full(3, k, np.float32)) for k in (1, 2))
    for operand in (b, a, b):
        graph.add(Elementwise(inputs=[operand], fn="neg"), ((3,), F32))
    assert graph.constants() == [b, a]
    graph.outputs.append(graph.constant(np.ones(1, np.float32)))
    assert len(graph.constants()) == 3


def test_a_constant_is_read_when_asked_for():
    loads, released = [], []
    payload = Constant(
        lambda: loads.append(1) or np.ones((2, 3), np.float32),
        (2, 3),
        F32,
        release=lambda: released.append(1),
    )
    value = Value("w", payload.shape, payload.dtype, constant=payload)
    assert (payload.nbytes, loads) == (24, [])
    assert value.array().shape == (2, 3)
    payload.release()
    assert (loads, released) == ([1], [1])
    with pytest.raises(ValueError, match="expected a constant, got the computed value 'x'"):
        Value("x", (1,), F32).array()


def test_is_float():
    import ml_dtypes

    floats = (np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn)
    assert all(is_float(np.dtype(kind)) for kind in floats)
    assert not any(is_float(np.dtype(kind)) for kind in (np.int8, bool, np.int64))


def linear(x_shape, weight, bias=None, layout="oi"):
    graph = make(shape=x_shape)
    operands = [graph.inputs[0], graph.constant(np.ones(weight, np.float32))]
    operands += [] if bias is None else [graph.constant(np.ones(bias, np.float32))]
    graph.add(Linear(inputs=operands, layout=layout), ((*x_shape[:-1], 4), F32))
    return graph


def use_not_listed(graph):
    graph.inputs[0].uses.clear()


def read_too_early(graph):
    first, last = named(graph, "exp"), named(graph, "tanh")
    first.inputs = [last.output]
    last.output.uses[(first, 0)] = None


def no_result(graph):
    named(graph, "tanh").outputs = []


def output_not_computed(graph):
    graph.outputs = [Value("lost", (1,), F32, producer=Elementwise(fn="exp"))]


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (use_not_listed, "after p: exp 'exp': expected 'x' to list the op as a reader"),
        (read_too_early, "after p: exp .exp.: expected .tanh_out. to be computed first"),
        (no_result, "after p: tanh 'tanh': expected at least one result, got none"),
        (output_not_computed, "after p: output 'lost' is not computed"),
    ],
)
def test_check_names_what_is_broken(breaking, message):
    graph = make("exp", "tanh")
    breaking(graph)
    with pytest.raises(InvalidGraph, match=message):
        check(graph, "p")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (((2, 3), (4, 5)), "expected a weight for 3 features, got one for 5"),
        (((2, 3), (5, 4), None, "io"), "expected a weight for 3 features, got one for 5"),
        (((2, 3), (4, 3), 3), r"expected a bias of shape \(4,\), got \(3,\)"),
    ],
)
def test_check_sees_a_linear_that_does_not_fit(parts, message):
    with pytest.raises(InvalidGraph, match=message):
        check(linear(*parts), "p")


def test_check_passes_a_linear_that_fits():
    check(linear((2, 3), (4, 3), 4), "p")
    check(linear(("n", 3), (3, 4), 4, "io"), "p")


def test_check_sees_convs_norms_and_transposes_that_do_not_fit():
    graph = make(shape=(1, 3, 4, 4))
    weight, bias = (graph.constant(np.ones(s, np.float32)) for s in ((5, 3, 1, 1), (3,)))
    conv = Conv(inputs=[graph.inputs[0], weight, bias])
    graph.add(conv, ((1, 5, 4, 4), F32))
    with pytest.raises(InvalidGraph, match=r"expected a bias of shape \(5,\), got \(3,\)"):
        check(graph, "p")
    graph.erase(conv)
    norm = graph.add(Norm(inputs=[graph.inputs[0], bias]), ((1, 3, 4, 4), F32))
    with pytest.raises(InvalidGraph, match=r"expected a scale of shape \(4,\), got \(3,\)"):
        check(graph, "p")
    graph.erase(norm)
    graph.add(Transpose(inputs=[graph.inputs[0]], perm=(0, 1, 1, 2)), ((1, 3, 3, 4), F32))
    with pytest.raises(InvalidGraph, match=r"expected a permutation, got \(0, 1, 1, 2\)"):
        check(graph, "p")


def test_text_numbers_values_and_shows_types():
    graph = make(shape=("n", 4))
    x = graph.inputs[0]
    scale = graph.constant(np.ones(4, np.float32), "scale")
    mul = graph.add(Elementwise(inputs=[x, scale], fn="mul"), (("n", 4), F32), name="scaled")
    graph.add(Split(inputs=[mul.output], axis=1, sizes=(1, 3)), (("n", 1), F32), (("n", 3), F32))
    graph.outputs = [mul.output]
    assert to_text(graph) == (
        "%0: f32[n, 4] = input\n"
        "%1: f32[n, 4] = mul(%0, const f32[4])\n"
        "%2: f32[n, 1], %3: f32[n, 3] = Split(%1; axis=1; sizes=(1, 3))\n"
        "return %1\n"
    )
    assert "scaled_out: f32[n, 4] = mul(x, const f32[4])" in to_text(graph, names=True)
