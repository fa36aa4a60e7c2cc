"""What lowering keeps: names, order, bodies of control flow, payloads."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from passel.graph import ops as o
from passel.graph.onnx import lift

X = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
W = np.array([1, 2, 3], np.float32)
"""What the initializer w holds in the models below."""


def parsed(text, version=10, opset=18):
    head = f'<ir_version: {version}, opset_import: ["": {opset}]>\n'
    return ir.from_proto(onnx.parser.parse_model(head + text))


def run(model, *arrays):
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    required = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(required, arrays, strict=True)))


def lowered(graph):
    return graph.binding.lower(graph)


def kinds(model):
    return [node.op_type for node in model.graph]


def test_an_output_keeps_its_name_when_another_value_feeds_it():
    graph = lift(parsed("g (float[2,3] x) => (float[2,3] y) { t = Relu (x) y = Neg (t) }"))
    relu, neg = graph.ops
    graph.replace(neg.output, relu.output)
    graph.prune(neg)
    model = lowered(graph)
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert kinds(model) == ["Relu"]
    np.testing.assert_array_equal(run(model, X)[0], np.maximum(X, 0))


def test_an_output_fed_by_an_input():
    graph = lift(parsed("g (float[2,3] x) => (float[2,3] y) { y = Identity (x) }"))
    (identity,) = graph.ops
    graph.replace(identity.output, graph.inputs[0])
    graph.prune(identity)
    model = lowered(graph)
    assert kinds(model) == ["Identity"]
    np.testing.assert_array_equal(run(model, X)[0], X)


def test_an_output_fed_by_a_constant():
    graph = lift(parsed("g (float[2,3] x) => (float[2,3] y) { y = Neg (x) }"))
    (neg,) = graph.ops
    graph.replace(neg.output, graph.constant(X, "y"))
    graph.prune(neg)
    np.testing.assert_array_equal(run(lowered(graph), X)[0], X)


def test_two_outputs_fed_by_one_value():
    text = "g (float[2,3] x) => (float[2,3] a, float[2,3] b) { a = Neg (x) b = Identity (a) }"
    graph = lift(parsed(text))
    neg, identity = graph.ops
    graph.replace(identity.output, neg.output)
    graph.prune(identity)
    model = lowered(graph)
    assert [value.name for value in model.graph.outputs] == ["a", "b"]
    for got in run(model, X):
        np.testing.assert_array_equal(got, -X)


def test_outputs_that_change_places():
    text = "g (float[2,3] x) => (float[2,3] a, float[2,3] b) { a = Neg (x) b = Relu (x) }"
    graph = lift(parsed(text))
    graph.outputs.reverse()
    relu, neg = run(lowered(graph), X)
    np.testing.assert_array_equal(neg, -X)
    np.testing.assert_array_equal(relu, np.maximum(X, 0))


def test_a_value_that_had_an_output_s_name_gives_it_up():
    text = "g (float[2,3] x) => (float[2,3] y) { y = Neg (x) }"
    graph = lift(parsed(text))
    (neg,) = graph.ops
    relu = graph.add(o.Elementwise(fn="relu", inputs=[neg.output]), ((2, 3), X.dtype))
    graph.redirect(neg.output, relu.output, [])
    model = lowered(graph)
    assert [node.outputs[0].name for node in model.graph] == ["y_1", "y"]
    np.testing.assert_array_equal(run(model, X)[0], np.maximum(-X, 0))


IF = """g (float[2,3] x, bool c) => (float[2,3] y) <float[3] w = {1, 2, 3}> {
  t = Neg (x)
  y = If (c) <
    then_branch = th () => (float[2,3] p) { p = Add (t, w) },
    else_branch = el () => (float[2,3] q) { q = If (c) <
        then_branch = a () => (float[2,3] r) { r = Identity (x) },
        else_branch = b () => (float[2,3] s) { s = Mul (t, w) }
      > }
  >
}"""


@pytest.mark.parametrize("condition", [True, False])
def test_bodies_read_what_they_captured(condition):
    model = parsed(IF)
    before = ir.to_proto(model).SerializeToString()
    graph = lift(model)
    branch = graph.outputs[0].producer
    assert isinstance(branch, o.Opaque)
    assert sorted(value.name for value in graph.pinned) == ["c", "t", "w", "x"]
    assert set(branch.inputs) == {*graph.pinned}
    for op in graph.walk(o.Elementwise):
        op.source = None  # written anew, so that the captured value is another object
    want = -X + np.array([1, 2, 3]) if condition else -X * np.array([1, 2, 3])
    for _ in range(2):  # lowering twice gives two models that share nothing but tensors
        got = run(lowered(graph), X, np.array(condition))
        np.testing.assert_allclose(got[0], want, rtol=1e-6)
    assert ir.to_proto(model).SerializeToString() == before


def test_a_captured_value_under_another_name():
    """The names inside bodies are no one else's: a new value of that name has to give way."""
    graph = lift(parsed(IF))
    neg = next(graph.ops)
    doubled = graph.add(
        o.Elementwise(fn="add", inputs=[neg.output, neg.output], name="p"),
        ((2, 3), X.dtype),
        after=neg,
    )
    doubled.output.name = "p"
    branch = graph.outputs[0].producer
    graph.set_input(branch, branch.inputs.index(neg.output), doubled.output)
    got = run(lowered(graph), X, np.array(True))
    np.testing.assert_allclose(got[0], -2 * X + np.array([1, 2, 3]), rtol=1e-6)


def test_loop():
    text = """g (float[2,3] x, int64 n) => (float[2,3] y) {
      c = Constant <value = bool {1}> ()
      y = Loop (n, c, x) <body = b (int64 i, bool d, float[2,3] s) => (bool e, float[2,3] z) {
        e = Identity (d) z = Add (s, x) }>
    }"""
    got = run(lowered(lift(parsed(text))), X, np.array(3))
    np.testing.assert_allclose(got[0], 4 * X, rtol=1e-6)


def test_an_initializer_that_callers_may_override():
    text = """g (float[2,3] x, float[3] w) => (float[2,3] y)
      <float[3] w = {1, 2, 3}> { y = Mul (x, w) }"""
    graph = lift(parsed(text))
    assert [value.name for value in graph.inputs] == ["x"]
    assert not graph.constants()
    model = lowered(graph)
    assert [value.name for value in model.graph.inputs] == ["x", "w"]
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], X * W)
    ones = np.ones(3, np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": X, "w": ones})[0], X)
    np.testing.assert_array_equal(graph.run([X])[0], X * W)


def test_before_ir_4_every_initializer_was_an_input():
    text = """g (float[2,3] x, float[3] w) => (float[2,3] y)
      <float[3] w = {1, 2, 3}> { y = Mul (x, w) }"""
    graph = lift(parsed(text, version=3, opset=13))
    assert [value.name for value in graph.constants()] == ["w"]
    model = lowered(graph)
    assert (model.ir_version, [value.name for value in model.graph.inputs]) == (4, ["x"])


def test_everything_said_about_the_model_is_kept():
    model = parsed(
        "g (float[batch,3] x) => (float[batch,3] y) { y = Neg (x) }",
    )
    model.producer_name, model.model_version, model.domain = "someone", 7, "org.example"
    model.doc_string, model.graph.doc_string = "a model", "a graph"
    model.metadata_props["licence"] = "MIT"
    model.graph.metadata_props["k"] = "v"
    model.graph.inputs[0].doc_string = "an input"
    model.graph.opset_imports["com.microsoft"] = 1
    node = next(iter(model.graph))
    node.metadata_props["note"] = "kept"
    node.doc_string = "a node"
    got = ir.to_proto(lowered(lift(model)))
    assert got.SerializeToString(deterministic=True) == ir.to_proto(model).SerializeToString(
        deterministic=True
    )


def test_untouched_tensors_are_shared_and_unused_ones_dropped():
    text = """g (float[2,3] x) => (float[2,3] y)
      <float[3] w = {1, 2, 3}, float[1] u = {1}> { y = Mul (x, w) }"""
    model = parsed(text)
    got = lowered(lift(model))
    assert list(got.graph.initializers) == ["w"]
    assert got.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value


def test_an_edit_that_its_node_can_carry_keeps_the_node():
    text = "g (float[2,3] x, float[3,4] w) => (float[2,4] y) { y = Gemm (x, w) }"
    graph = lift(parsed(text))
    (linear,) = graph.ops
    weight = graph.constant(np.ones((3, 4), np.float32), "ones")
    graph.set_input(linear, 1, weight)
    assert kinds(lowered(graph)) == ["Gemm"]
    graph.set_input(linear, 2, graph.constant(np.ones(4, np.float32), "b"))
    got = run(lowered(graph), X, np.zeros((3, 4), np.float32))
    np.testing.assert_allclose(got[0], X @ np.ones((3, 4)) + 1, rtol=1e-6)


def test_results_left_out_stay_left_out():
    text = 'g (float[2,3] x) => (float[2,3] y) { y, "" = Dropout (x) }'
    model = parsed(text)
    assert "" not in {value.name for value in lowered(lift(model)).graph.outputs}
    assert run(lowered(lift(model)), X)[0].shape == (2, 3)


def test_big_new_constants_are_made_when_they_are_written():
    graph = lift(parsed("g (float[2,3] x) => (float[2,3] y) { y = Neg (x) }"))
    (neg,) = graph.ops
    big = graph.constant(np.zeros((1024, 512), np.float32), "big")
    total = graph.add(o.Reduce(fn="sum", axes=(0, 1), keepdims=False, inputs=[big]), ((), X.dtype))
    added = graph.add(o.Elementwise(fn="add", inputs=[neg.output, total.output]), ((2, 3), X.dtype))
    graph.redirect(neg.output, added.output, [])
    model = lowered(graph)
    assert isinstance(model.graph.initializers["big"].const_value, ir.LazyTensor)
    np.testing.assert_array_equal(run(model, X)[0], -X)


def test_run_says_which_inputs_it_wants():
    graph = lift(parsed("g (float[2,3] x) => (float[2,3] y) { y = Neg (x) }"))
    with pytest.raises(ValueError, match=r"expected 1 inputs \['x'\], got 2"):
        graph.run([X, X])
