"""Schemes by name, with the caller's granularity."""

import pytest

from passel.graph.onnx_quant_opset import opset_for
from passel.passes.quantization.rounding.registry import STAGES
from passel.passes.quantization.schemes import ALIASES, SCHEMES, adapted, scheme_named

PLAIN = {"block_size": None, "per_channel": None, "symmetric": None, "reduce_range": False}


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_names_known_algorithms(name):
    assert all(stage.partition(":")[0] in STAGES for stage in SCHEMES[name].stages)
    assert adapted(SCHEMES[name], **PLAIN) == SCHEMES[name]


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_in_any_case(alias):
    wanted = SCHEMES[ALIASES[alias]]
    assert scheme_named(alias) == scheme_named(alias.upper().replace("-", "_")) == wanted


@pytest.mark.parametrize(
    ("name", "asked", "block"),
    [
        ("int8", {"per_channel": False}, -1),
        ("int8", {"per_channel": True}, 0),
        ("w4", {"block_size": 48}, 48),
        ("w4", {"block_size": 0}, 0),
        ("w4", {"per_channel": True}, 0),
        ("w4", {"block_size": -1}, -1),
    ],
)
def test_granularity(name, asked, block):
    found = adapted(SCHEMES[name], **{**PLAIN, **asked})
    assert found.weight.block == block
    assert found.activation == SCHEMES[name].activation


def test_symmetry_and_range():
    assert adapted(SCHEMES["w4"], **{**PLAIN, "symmetric": True}).weight.grid.symmetric
    assert not adapted(SCHEMES["int8"], **{**PLAIN, "symmetric": False}).weight.grid.symmetric
    narrow = adapted(SCHEMES["int8"], **{**PLAIN, "reduce_range": True}).weight.grid
    assert (narrow.low, narrow.high) == (-63, 63)
    assert adapted(SCHEMES["fp8"], **{**PLAIN, "symmetric": False}) == SCHEMES["fp8"]


@pytest.mark.parametrize(
    ("name", "static"),
    [("int8", True), ("int8-dynamic", False), ("int8-mixed", True), ("w4", False), ("fp8", True)],
)
def test_what_needs_ranges(name, static):
    assert SCHEMES[name].is_static is static


def test_opsets():
    assert SCHEMES["int8"].opset == 13
    assert SCHEMES["w4"].opset == opset_for(SCHEMES["w4"].weight.grid.dtype, block=32) == 21
    assert SCHEMES["w2"].opset == SCHEMES["ternary"].opset == 25
    assert SCHEMES["binary"].opset == 21
