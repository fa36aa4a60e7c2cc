"""What is written for a rounded weight is the weight: of every algorithm, format and layout."""

import functools

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from passel.backends.choices import SessionChoice
from passel.backends.onnxruntime import Session
from passel.graph.ops import Linear
from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format, Part, Rounded
from passel.passes.quantization.rounding import round_weight
from passel.passes.quantization.rounding.registry import STAGES
from passel.passes.quantization.stored import is_plain, write_weight
from tests.conftest import View

ROWS, WIDTH = 24, 70
FORMATS = {
    "int8 by rows": Format(Grid("int8")),
    "int8 in all": Format(Grid("int8"), -1),
    "uint4 by 32": Format(Grid("uint4", symmetric=False), 32),
    "int4 by 48": Format(Grid("int4"), 48),
    "uint3 by 7": Format(Grid("uint3", symmetric=False), 7),
    "uint2 by 64": Format(Grid("uint2", symmetric=False), 64),
    "uint1 by rows": Format(Grid("uint1", symmetric=False)),
    "int2 by rows": Format(Grid("int2")),
    "float4 by 64": Format(Grid("float4_e2m1fn"), 64),
    "float8 by rows": Format(Grid("float8_e4m3fn")),
}
DATA_FREE = ("rtn", "mse", "binary", "ternary", "partial-binary", "ptq161", "pow2", "shiftquant")
CHAINS = (*DATA_FREE, "pow2-group:4", "codebook:2", "statsq", "nupes", "mse+lorc:2", "mse+gptq")


@functools.cache
def layer() -> LayerData:
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((ROWS, WIDTH)), rng.standard_normal((200, WIDTH))
    x[:, 0] *= 5
    second = x.T @ x / len(x)
    return LayerData(weight.astype(np.float32), second, name="fc", peak=np.abs(x).max(axis=0))


@functools.cache
def exported(view: View) -> object:
    torch.manual_seed(0)
    return view.export(nn.Linear(WIDTH, ROWS), (torch.zeros(3, WIDTH),), opset=25)


def written(view: View, rounded: Rounded, *, by_columns: bool) -> np.ndarray:
    """The weight [O, I] that the graph computes."""
    graph, _ = view.open(exported(view), (torch.zeros(3, WIDTH),))
    (op,) = graph.walk(Linear)
    value = write_weight(graph, op, rounded, by_columns=by_columns)
    graph.update(op, layout="io" if by_columns else "oi")
    graph.set_input(op, 1, value)
    assert value.shape == ((WIDTH, ROWS) if by_columns else (ROWS, WIDTH))
    (found,) = graph.probe([value], graph.inputs)([np.zeros((3, WIDTH), np.float32)])
    return found.T if by_columns else found


def on_onnx_runtime(rounded: Rounded) -> np.ndarray:
    """The weight [O, I] as the runtime multiplies with it."""
    eye = torch.eye(WIDTH)
    view = View("onnx")
    graph, _ = view.lift(nn.Linear(WIDTH, ROWS, bias=False), (eye,), opset=25)
    (op,) = graph.walk(Linear)
    value = write_weight(graph, op, rounded, by_columns=True)
    graph.update(op, layout="io")
    graph.set_input(op, 1, value)
    session = Session(graph.binding.lower(graph), choice=SessionChoice(plain=True))
    return session.run_arrays([eye.numpy()])[0].T


def without_correction(rounded: Rounded) -> np.ndarray:
    dense = rounded.dense()
    return dense if rounded.left is None else dense - rounded.left @ rounded.right


def rounded_or_skip(chain: str, form: str) -> Rounded:
    if FORMATS[form].grid.is_float and chain.partition(":")[0] in ("codebook", "statsq", "nupes"):
        pytest.skip("for integer formats only")
    if FORMATS[form].grid.bits == 1 and chain == "nupes":
        pytest.skip("for 2 bits and more")
    return round_weight(layer(), FORMATS[form], chain.split("+"))


def assert_is(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 3e-7 * np.abs(wanted).max()


@pytest.mark.parametrize("chain", CHAINS)
def test_every_algorithm(chain):
    rounded = rounded_or_skip(chain, "uint4 by 32")
    assert_is(written(View("fx"), rounded, by_columns=False), without_correction(rounded))
    assert_is(written(View("onnx"), rounded, by_columns=True), without_correction(rounded))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("chain", ["rtn", "binary"])
def test_every_format(view, chain, form):
    rounded = rounded_or_skip(chain, form)
    by_columns = view.name == "onnx"
    assert_is(written(view, rounded, by_columns=by_columns), without_correction(rounded))


@pytest.mark.parametrize("chain", ["rtn", "ptq161", "partial-binary", "shiftquant"])
def test_the_other_layout(view, chain):
    rounded = rounded_or_skip(chain, "uint4 by 32")
    by_columns = view.name == "fx"
    assert_is(written(view, rounded, by_columns=by_columns), without_correction(rounded))


@pytest.mark.parametrize("form", FORMATS)
def test_onnx_runtime_reads_every_format(form):
    rounded = rounded_or_skip("rtn", form)
    assert_is(on_onnx_runtime(rounded), without_correction(rounded))


@pytest.mark.parametrize("chain", ["binary", "partial-binary", "ptq161", "codebook:2"])
def test_onnx_runtime_reads_what_is_put_together(chain):
    rounded = rounded_or_skip(chain, "uint3 by 7")
    assert_is(on_onnx_runtime(rounded), without_correction(rounded))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("chain", CHAINS)
def test_every_algorithm_in_every_format(chain, form):
    rounded = rounded_or_skip(chain, form)
    assert_is(written(View("fx"), rounded, by_columns=False), without_correction(rounded))
    assert_is(written(View("onnx"), rounded, by_columns=True), without_correction(rounded))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["uint4 by 32", "int8 by rows"])
@pytest.mark.parametrize("chain", sorted(set(STAGES) - {c.partition(":")[0] for c in CHAINS}))
def test_the_slow_algorithms(view, chain, form):
    rounded = rounded_or_skip(chain, form)
    assert_is(written(view, rounded, by_columns=False), without_correction(rounded))


def parts(**changes: object) -> Rounded:
    """A weight with what no algorithm makes all at once."""
    rng = np.random.default_rng(1)
    form = Format(Grid("uint4", symmetric=False), 32)
    columns = np.sort(rng.choice(WIDTH, 40, replace=False))
    shape, blocks = (ROWS, 40), 2
    given = {
        "codes": rng.integers(0, 16, shape).astype(np.float32),
        "scale": rng.uniform(0.1, 1, (ROWS, blocks)),
        "zero": rng.integers(0, 16, (ROWS, blocks)).astype(np.float64),
        "columns": columns,
        **changes,
    }
    rest = np.setdiff1d(np.arange(WIDTH), columns)
    other = Part(
        rng.integers(-127, 128, (ROWS, len(rest))).astype(np.float32),
        rng.uniform(0.1, 1, (ROWS, 1)),
        np.zeros((ROWS, 1)),
        Format(Grid("int8")),
        columns=rest,
    )
    rows, factors = rng.uniform(0.5, 2, ROWS), rng.uniform(0.5, 2, WIDTH)
    return Rounded((Part(format=form, **given), other), (ROWS, WIDTH), rows, factors)


MASK = np.random.default_rng(2).random((ROWS, 40)) < 0.6
CASES = {
    "columns": {},
    "offset": {"offset": np.random.default_rng(3).standard_normal((ROWS, 2))},
    "mask": {"mask": MASK},
    "one table": {"table": np.linspace(-1, 2, 16)},
    "a table a row": {"table": np.random.default_rng(4).standard_normal((ROWS, 16))},
    "a full table and a mask": {"table": np.linspace(-1, 2, 16), "mask": MASK},
    "masked table with offset": {
        "table": np.linspace(-1, 2, 16),
        "mask": MASK,
        "offset": np.full((ROWS, 2), 0.3),
    },
}


@pytest.mark.parametrize("case", CASES)
def test_sums_of_parts(view, case):
    rounded = parts(**CASES[case])
    assert not is_plain(rounded)
    assert_is(written(view, rounded, by_columns=False), rounded.dense())
    assert_is(on_onnx_runtime(rounded), rounded.dense())


def test_plain_codes_are_stored_as_they_are(view):
    graph, _ = view.open(exported(view), (torch.zeros(3, WIDTH),))
    (op,) = graph.walk(Linear)
    rounded = round_weight(layer(), FORMATS["uint4 by 32"], ("rtn",))
    made = write_weight(graph, op, rounded).producer
    assert made.x.dtype == np.dtype(ml_dtypes.uint4)
    assert (made.axis, made.block) == (1, 32)
    assert np.array_equal(made.x.array().astype(np.float32), rounded.parts[0].codes)
