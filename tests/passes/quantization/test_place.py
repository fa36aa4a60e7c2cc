"""Placement by rule: what form each op gets."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passel.graph.ops import Conv, Gather, Linear
from passel.passes.base import Refusal
from passel.passes.quantization.place import (
    BOTH_SIDES,
    CHANNELS,
    EMBEDDING,
    IN_FLOAT,
    SMALLEST,
    Form,
    check_placement,
    decide,
    follows_activation,
    kernel_notes,
)
from passel.passes.quantization.schemes import SCHEMES
from tests.conftest import View

VIEW = View("fx")


def op_of(module, x, kind=Linear):
    graph, _ = VIEW.lift(module, (x,))
    return graph, next(graph.walk(kind))


def linear(inputs=128, outputs=128):
    return op_of(nn.Linear(inputs, outputs), torch.zeros(2, inputs))[1]


@pytest.mark.parametrize("name", SCHEMES)
def test_the_schemes_own_form(name):
    scheme = SCHEMES[name]
    wanted = Form(scheme.weight, scheme.activation, scheme.dynamic, scheme.by_row)
    assert decide(linear(), scheme, "auto") == wanted


def test_the_size_from_which_it_pays():
    small = linear(SMALLEST // 64 - 1, 64)
    assert isinstance(decide(small, SCHEMES["int8"], "auto"), Refusal)
    assert isinstance(decide(small, SCHEMES["int8"], "all"), Form)
    assert isinstance(decide(linear(SMALLEST // 64, 64), SCHEMES["int8"], "auto"), Form)


def test_pairs_come_first_and_the_first_of_them():
    op, scheme = linear(4, 4), SCHEMES["int8-dynamic"]
    assert decide(op, scheme, ((op.name, "static"), ("Linear", "float"))) == Form(
        scheme.weight, scheme.activation
    )
    assert decide(op, scheme, (("Linear", "weight"),)) == Form(scheme.weight)
    assert decide(op, scheme, (("Linear", "dynamic"),)).dynamic
    assert decide(op, scheme, (("Linear", "float"),)).reason == "placed in float"
    assert decide(op, scheme, (("Conv", "static"),)).reason.startswith("the weight is too small")


def test_an_embedding_has_eight_bits_whatever_the_scheme():
    _, op = op_of(nn.Embedding(9, 4), torch.tensor([1]), Gather)
    assert decide(op, SCHEMES["w4"], "auto") == Form(EMBEDDING)
    assert decide(op, SCHEMES["w4"], (("Gather", "float"),)).reason == "placed in float"


def conv(channels, groups=1):
    module = nn.Conv2d(channels, 256, 3, groups=groups)
    return op_of(module, torch.zeros(1, channels, 5, 5), Conv)[1]


def test_convolutions():
    assert isinstance(decide(conv(CHANNELS), SCHEMES["int8"], "auto"), Form)
    assert isinstance(decide(conv(CHANNELS - 1), SCHEMES["int8"], "auto"), Refusal)
    assert isinstance(decide(conv(256, 32), SCHEMES["int8"], "auto"), Form)  # in groups
    assert decide(conv(64), replace(SCHEMES["w4"], activation=SCHEMES["int8"].activation), "all")
    assert decide(conv(64), SCHEMES["w4"], "all").weight.block == 0


class Down(nn.Module):
    def __init__(self, fn, kind="linear"):
        super().__init__()
        self.fn = fn
        self.product = nn.Linear(128, 128) if kind == "linear" else nn.Conv2d(16, 128, 3)

    def forward(self, x):
        return self.product(self.fn(x))


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (F.gelu, True),
        (F.relu, True),
        (lambda x: F.silu(x) * x, True),
        (lambda x: F.gelu(x).reshape(2, 128), True),
        (lambda x: F.layer_norm(F.gelu(x), (128,)), True),
        (lambda x: x + 1, False),
        (lambda x: F.layer_norm(x + 1, (128,)), False),
        (lambda x: x, False),
    ],
)
def test_mixed_is_dynamic_after_a_nonlinearity(fn, expected):
    graph, op = op_of(Down(fn), torch.randn(2, 128))
    assert follows_activation(op.x) is expected
    form = decide(op, SCHEMES["int8-mixed"], "auto")
    assert form.dynamic is expected
    assert graph


def test_mixed_convolutions_are_static():
    """A convolution of integers whose scale is found at run time is slow."""
    _, op = op_of(Down(F.relu, "conv"), torch.randn(1, 16, 5, 5), Conv)
    assert not decide(op, SCHEMES["int8-mixed"], "auto").dynamic


NOTES = [
    ("int8", 0, None, ""),
    ("int8-dynamic", 0, None, ""),
    ("int8", 32, None, IN_FLOAT),
    ("int8-dynamic", 32, None, ""),
    ("int8-dynamic", 48, None, IN_FLOAT),
    ("w8", 128, None, BOTH_SIDES),
    ("w2", 64, None, BOTH_SIDES),
    ("w2", 16, None, IN_FLOAT),
    ("w4", 32, None, ""),
    ("w4", 7, None, IN_FLOAT),
    ("fp8", 0, None, IN_FLOAT),
    ("int8", 0, 64, ""),
    ("int8-dynamic", 0, 64, IN_FLOAT),
    ("w4", 0, 64, IN_FLOAT),
]


@pytest.mark.parametrize(("scheme", "block", "channels", "note"), NOTES)
def test_forms_without_a_kernel_are_noted(scheme, block, channels, note):
    given = SCHEMES[scheme]
    form = Form(replace(given.weight, block=block), given.activation, given.dynamic)
    op = linear() if channels is None else conv(channels)
    assert kernel_notes(op, form) == ((note,) if note else ())


def test_names_of_forms():
    int8 = SCHEMES["int8"]
    assert str(Form(int8.weight, int8.activation)) == "uint8 static × int8 per channel"
    assert str(Form(SCHEMES["w4"].weight)) == "uint4 by 32"
    whole = replace(int8.weight, block=-1)
    assert str(Form(whole, int8.activation, dynamic=True)) == "uint8 dynamic × int8 per tensor"


def test_check():
    check_placement("measured")
    check_placement([("a", "static"), ("b", "float")])
    for wrong in ("most", [("a",)], [("a", "b")]):
        with pytest.raises(ValueError, match="placement"):
            check_placement(wrong)


def test_no_array_is_kept():
    """Decisions hold formats, no weights."""
    form = decide(linear(), SCHEMES["int8"], "auto")
    assert not any(isinstance(value, np.ndarray) for value in vars(form).values())
