"""Products of 8-bit codes in standard ONNX: exact sums, one quantizer, what the runtime fuses."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from passel.backends.standard_integers import standard_integers

ROWS, WIDTH, OUTPUTS = 6, 24, 10


def quantized(activation="dynamic", shape=(ROWS, WIDTH), bias="add", zero=False, gemm=False):
    """dq(q(x))·dq(W) + b, twice, the second with other weights and no bias."""
    random = np.random.default_rng(3)
    held, nodes = {}, []
    if activation == "dynamic":
        nodes.append(
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "xs", "xz"], "quantize")
        )
    else:
        held |= {"xs": np.array(0.03, np.float32), "xz": np.array(120, np.uint8)}
        nodes.append(helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"], "quantize"))
    nodes.append(helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["xd"], "dq"))
    for k in "ab":
        held[f"w{k}"] = random.integers(-127, 128, (WIDTH, OUTPUTS)).astype(np.int8)
        held[f"s{k}"] = random.uniform(0.01, 0.02, OUTPUTS).astype(np.float32)
        operands = [f"w{k}", f"s{k}"]
        if zero:
            held[f"z{k}"] = random.integers(-9, 10, OUTPUTS).astype(np.int8)
            operands.append(f"z{k}")
        nodes.append(helper.make_node("DequantizeLinear", operands, [f"d{k}"], f"dq{k}", axis=1))
    held["bias"] = random.normal(size=OUTPUTS).astype(np.float32)
    if gemm:
        nodes.append(helper.make_node("Gemm", ["xd", "da", "bias"], ["ya"], "product_a"))
    else:
        made = "pa" if bias else "ya"
        nodes.append(helper.make_node("MatMul", ["xd", "da"], [made], "product_a"))
        nodes += [helper.make_node("Add", ["bias", "pa"], ["ya"], "add_a")] if bias else []
    nodes.append(helper.make_node("MatMul", ["xd", "db"], ["yb"], "product_b"))
    result = [*shape[:-1], OUTPUTS]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, result) for name in ("ya", "yb")],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(proto), held


def rewritten(proto):
    model = standard_integers(ir.from_proto(proto))
    made = ir.to_proto(model)
    onnx.checker.check_model(made, full_check=True)
    assert {entry.domain for entry in made.opset_import} <= {"", "ai.onnx"}
    return made


def fused_operators(proto, tmp_path):
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options)
    return [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]


def sample(shape):
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(ROWS, WIDTH), (2, 3, WIDTH)])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("bias", ["add", ""])
def test_sums_of_codes_are_those_of_the_definition(shape, zero, bias):
    """Against s_x·s_W·Σ (q − z_x)(W − z_W) + b in integers, which is what both forms mean."""
    proto, held = quantized(shape=shape, zero=zero, bias=bias)
    made, x = rewritten(proto), sample(shape)
    low, high = min(x.min(), 0), max(x.max(), 0)
    step = np.float32((high - low) / 255)
    offset = np.rint(-low / step)
    codes = np.clip(np.rint(x / step) + offset, 0, 255).astype(np.int64) - int(offset)
    got = ort.InferenceSession(made.SerializeToString()).run(None, {"x": x})
    for k, found in zip("ab", got, strict=True):
        weight = held[f"w{k}"].astype(np.int64) - (held[f"z{k}"].astype(np.int64) if zero else 0)
        wanted = (codes @ weight) * (np.float64(step) * held[f"s{k}"])
        wanted += held["bias"] if bias and k == "a" else 0
        assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_gemm_with_its_bias():
    proto, _ = quantized(gemm=True)
    x = sample((ROWS, WIDTH))
    wanted, got = (ReferenceEvaluator(one).run(None, {"x": x}) for one in (proto, rewritten(proto)))
    for one, other in zip(wanted, got, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(one).max())


def test_products_share_one_quantizer():
    kinds = [node.op_type for node in rewritten(quantized()[0]).graph.node]
    assert kinds.count("DynamicQuantizeLinear") == 1
    assert kinds.count("MatMulInteger") == 2
    assert "DequantizeLinear" not in kinds
    assert "MatMul" not in kinds


@pytest.mark.parametrize("shape", [(ROWS, WIDTH), (2, 3, WIDTH)])
def test_the_runtime_multiplies_codes(shape, tmp_path):
    proto, _ = quantized(shape=shape)
    assert "DequantizeLinear" in fused_operators(proto, tmp_path)  # why this is done at all
    kinds = fused_operators(rewritten(proto), tmp_path)
    assert set(kinds) == {"DynamicQuantizeLinear", "MatMulIntegerToFloat"}


@pytest.mark.parametrize("shape", [(ROWS, WIDTH), (2, 3, WIDTH)])
def test_static_products_stay_and_get_zero_points(shape):
    proto, _ = quantized("static", shape=shape, bias="")
    made = rewritten(proto)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds == [node.op_type for node in proto.graph.node]
    weights = [node for node in made.graph.node if node.name in ("dqa", "dqb")]
    zeros = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
    for node in weights:
        assert not zeros[node.input[2]].any()
        assert zeros[node.input[2]].dtype == np.int8
    x = sample(shape)
    wanted, got = (ReferenceEvaluator(one).run(None, {"x": x}) for one in (proto, made))
    assert all(np.array_equal(one, other) for one, other in zip(wanted, got, strict=True))


def test_a_static_product_with_an_integer_bias_is_fused(tmp_path):
    """ONNX Runtime leaves it in float without the zero point: tell us when it no longer does."""
    proto, held = quantized("static")
    steps = (held["xs"] * held["sa"]).astype(np.float32)
    codes = np.rint(held["bias"] / steps).astype(np.int32)
    proto.graph.initializer.extend(
        [numpy_helper.from_array(codes, "bc"), numpy_helper.from_array(steps, "bs")]
    )
    place = next(k for k, node in enumerate(proto.graph.node) if node.name == "add_a")
    proto.graph.node[place].input[0] = "bd"
    made = helper.make_node("DequantizeLinear", ["bc", "bs"], ["bd"], "dqbias", axis=0)
    proto.graph.node.insert(place, made)
    proto = onnx.shape_inference.infer_shapes(proto)
    assert "Gemm" in fused_operators(proto, tmp_path)
    assert "QGemm" in fused_operators(rewritten(proto), tmp_path)


def unchanged(proto):
    before = [node.op_type for node in proto.graph.node]
    return [node.op_type for node in rewritten(proto).graph.node] == before


def test_what_is_left_alone():
    proto, _ = quantized(gemm=True)
    gemm = next(node for node in proto.graph.node if node.op_type == "Gemm")
    gemm.attribute.append(helper.make_attribute("alpha", 0.5))
    kinds = [node.op_type for node in rewritten(proto).graph.node]
    assert kinds.count("Gemm") == kinds.count("MatMulInteger") == 1
    plain = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    assert unchanged(helper.make_model(plain, opset_imports=[helper.make_opsetid("", 21)]))


def test_a_bias_that_is_computed_stays_an_add():
    proto, _ = quantized()
    proto.graph.input.append(helper.make_tensor_value_info("given", TensorProto.FLOAT, [OUTPUTS]))
    next(node for node in proto.graph.node if node.name == "add_a").input[0] = "given"
    made, x = rewritten(proto), sample((ROWS, WIDTH))
    feed = {"x": x, "given": np.arange(OUTPUTS, dtype=np.float32)}
    wanted, got = (ReferenceEvaluator(one).run(None, feed) for one in (proto, made))
    np.testing.assert_allclose(wanted[0], got[0], atol=1e-5 * np.abs(wanted[0]).max())
    gemm, _ = quantized(gemm=True)
    gemm.graph.input.append(helper.make_tensor_value_info("given", TensorProto.FLOAT, [OUTPUTS]))
    next(node for node in gemm.graph.node if node.op_type == "Gemm").input[2] = "given"
    assert "Gemm" in [node.op_type for node in rewritten(gemm).graph.node]
