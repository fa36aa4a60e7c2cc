"""Quantized products in ONNX Runtime's own operators compute what Q/DQ says."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from passel.backends import select
from passel.backends.block_weights import pack
from passel.backends.choices import SessionChoice
from passel.backends.integer_products import integer_products, readable
from passel.backends.onnxruntime import Session
from passel.backends.product_times import time_products
from tests.backends.product_cases import Build, Case

EXACT = 3e-6
BY_BLOCK = 0.025
"""Error of activations that the operator itself quantizes to 8 bits by blocks."""


def kinds(model):
    return [node.op_type for node in model.graph]


def error(model, build):
    (found,) = Session(model).run_arrays([build.x])
    assert found.shape == build.y.shape
    return float(np.abs(found - build.y).max() / np.abs(build.y).max())


def levels(model):
    made = [node for node in model.graph if node.op_type == "MatMulNBits"]
    return [node.attributes.get_int("accuracy_level") for node in made]


def rewritten(case, *, by_block=False):
    """The kinds of node that are left; the result is as the formulas have it."""
    build = Build(case)
    before = kinds(build.model)
    model = integer_products(build.model, by_block=by_block)
    # a product that is left alone may become one of 8-bit activations in ONNX Runtime
    is_open = case.activation == "float" and "DequantizeLinear" in kinds(model)
    assert error(model, build) < (BY_BLOCK if is_open or 4 in levels(model) else EXACT)
    assert kinds(build.model) == before
    return kinds(model)


STATIC, DYNAMIC = ["QuantizeLinear", "MatMulIntegerToFloat"], ["DynamicQuantizeMatMul"]
SHAPES = {
    "2-d": {},
    "3-d": {"lead": (2, 3), "outputs": 33, "width": 64},
    "gemm": {"gemm": True},
    "gemm turned": {"gemm": True, "turned": True},
    "without a bias": {"bias": "none"},
    "bias in int32": {"bias": "int32"},
    "gemm with a bias in int32": {"bias": "int32", "gemm": True, "turned": True},
    "without names": {"named": False},
    "one column": {"outputs": 1},
}
WEIGHTS = {
    "by column": {},
    "in all": {"block": -1},
    "zero points": {"zero": True},
    "uint8": {"codes": "uint8", "zero": True},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_bytes_by_bytes(shape, weight):
    case = Case(**SHAPES[shape], **WEIGHTS[weight])
    assert rewritten(replace(case, activation="static")) == STATIC
    assert rewritten(replace(case, activation="dynamic")) == DYNAMIC


def test_signed_activations():
    """There is a kernel for signed weights only."""
    assert rewritten(Case(activation="signed")) == STATIC
    assert "MatMulIntegerToFloat" not in rewritten(Case(activation="signed", codes="uint8"))


BLOCKS = [
    ("uint4", 32, True),
    ("uint4", 16, False),
    ("int4", 64, False),
    ("int4", 32, True),
    ("uint4", 128, True),
    ("uint4", 0, True),
    ("int8", 32, False),
    ("int8", 0, False),
    ("int8", -1, True),
    ("uint2", 64, True),
    ("int2", 0, False),
    ("int2", 32, True),
]


@pytest.mark.parametrize("shape", ["2-d", "3-d", "gemm turned"])
@pytest.mark.parametrize(("codes", "block", "zero"), BLOCKS)
def test_blocks(codes, block, zero, shape):
    """Four bits take float activations, two and eight only those in 8 bits."""
    case = Case(**SHAPES[shape], codes=codes, block=block, zero=zero)
    assert rewritten(case) == ["MatMulNBits"]
    build = Build(case)
    assert levels(integer_products(build.model)) == [0 if "4" in codes else 4]
    if block > 0 or codes != "int8":
        assert rewritten(replace(case, activation="dynamic")) == ["MatMulNBits"]


@pytest.mark.parametrize("activation", ["float", "dynamic", "static"])
@pytest.mark.parametrize(("codes", "block"), [("int8", 48), ("uint4", 20), ("float8", 0)])
def test_without_a_kernel_the_weight_is_dequantized_once(codes, block, activation):
    found = rewritten(Case(codes=codes, block=block, activation=activation))
    assert found[-2:] == ["MatMul", "Add"]
    assert found.count("DequantizeLinear") == (activation != "float")


def test_blocks_with_static_activations_are_dequantized():
    """ONNX Runtime 1.32 would take the blocks' scales for those of columns."""
    case = Case(codes="int8", block=32, activation="static", bias="none")
    assert rewritten(case) == ["QuantizeLinear", "DequantizeLinear", "MatMul"]


def test_products_by_block_where_asked_for():
    case = Case(activation="dynamic")
    assert rewritten(case, by_block=True) == ["MatMulNBits"]
    assert rewritten(Case(activation="static"), by_block=True) == STATIC


BIASES = {
    "one number": {"bias": "one"},
    "one number in gemm": {"bias": "one", "gemm": True},
    "a row of a matrix": {"bias": "matrix", "gemm": True, "turned": True},
    "computed": {"bias": "computed", "gemm": True},
    "computed and added": {"bias": "computed"},
    "read twice": {"more": "two"},
    "added to itself": {"more": "self", "bias": "none"},
}


@pytest.mark.parametrize("activation", ["float", "dynamic", "static"])
@pytest.mark.parametrize("case", BIASES)
def test_additions_that_are_no_bias(case, activation):
    found = rewritten(Case(**BIASES[case], activation=activation))
    if not BIASES[case].get("gemm"):
        assert found[-1] in ("Add", "Mul")


def test_a_dynamic_quantize_with_two_readers_stays():
    """Codes are made once, and both products read them."""
    build = Build(Case(activation="dynamic", bias="none"))
    model = build.model.clone()
    product = next(node for node in model.graph if node.op_type == "MatMul")
    twin = ir.Node("", "MatMul", list(product.inputs), name="twin")
    twin.outputs[0].name = "z"
    twin.outputs[0].type, twin.outputs[0].shape = product.outputs[0].type, product.outputs[0].shape
    model.graph.append(twin)
    model.graph.outputs.append(twin.outputs[0])
    result = integer_products(model)
    assert kinds(result) == ["DynamicQuantizeLinear", *["MatMulIntegerToFloat"] * 2]
    for found in Session(result).run_arrays([build.x]):
        assert np.abs(found - build.y).max() < EXACT * np.abs(build.y).max()


def test_outputs_keep_their_names():
    build = Build(Case(activation="static"))
    name = build.model.graph.outputs[0].name
    assert integer_products(build.model).graph.outputs[0].name == name


def test_names_do_not_collide():
    build = Build(Case(activation="static"))
    product = next(node for node in build.model.graph if node.op_type == "MatMul")
    taken = f"{product.name}_codes_0"
    build.model.graph.inputs[0].name = taken
    result = integer_products(build.model)
    values = [*result.graph.inputs, *result.graph.initializers.values()]
    values += [value for node in result.graph for value in node.outputs]
    names = [value.name for value in values]
    assert len(set(names)) == len(names)
    assert taken not in result.graph.initializers
    assert error(result, build) < EXACT


def test_a_model_without_quantized_values_is_given_back():
    build = Build(Case(bias="none"))
    product = next(node for node in build.model.graph if node.op_type == "MatMul")
    product.replace_input_with(1, build.constant("w", np.zeros((70, 24), np.float32)))
    build.model.graph.remove([node for node in build.model.graph if "Dequant" in node.op_type])
    build.model.graph.register_initializer(build.held[-1])
    assert integer_products(build.model) is build.model


def test_nothing_dead_is_left():
    model = integer_products(Build(Case(activation="static", bias="int32")).model)
    assert all(value.uses() for value in model.graph.initializers.values())
    assert all(o.uses() or o.is_graph_output() for node in model.graph for o in node.outputs)


@pytest.mark.parametrize("activation", ["static", "dynamic"])
@pytest.mark.parametrize("shape", ["2-d", "3-d"])
def test_readable_blocks_of_bytes(shape, activation):
    """As it stands, ONNX Runtime 1.32 computes something else, or fails."""
    build = Build(Case(**SHAPES[shape], codes="int8", block=32, activation=activation, bias="none"))
    assert error(readable(build.model), build) < EXACT


@pytest.mark.parametrize("outputs", [32, 33, 34, 35])
@pytest.mark.parametrize("codes", ["int2", "uint2"])
def test_readable_two_bits(codes, outputs):
    """As it stands, columns that do not fill bytes are read wrongly."""
    build = Build(Case(width=64, outputs=outputs, codes=codes, block=64))
    model = readable(build.model)
    assert error(model, build) < BY_BLOCK
    assert ("DequantizeLinear" in kinds(model)) == (outputs == 32)
    assert kinds(build.model)[0] == "DequantizeLinear"


def test_packing():
    codes = np.array([[1, 2, 3, 0, 1], [3, 3, 3, 3, 3]], np.uint8)
    assert pack(codes, 2).tolist() == [[0b00111001, 1], [255, 3]]
    assert pack(codes, 4).tolist() == [[0x21, 0x03, 0x01], [0x33, 0x33, 0x03]]
    assert pack(codes, 8) is codes


def test_times_of_products():
    (found,) = time_products([(2, 32, 16)], "cpu", SessionChoice(threads=1))
    assert set(found) == {"float", "static", "dynamic"}
    assert all(milliseconds > 0 for milliseconds in found.values())


def test_the_form_as_lowered_is_readable():
    build = Build(Case(codes="int8", block=32, activation="static", bias="none"))
    assert error(select.build("as lowered", build.model), build) < EXACT
