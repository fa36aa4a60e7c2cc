"""What the tests of the rounding algorithms share: layers as trained ones are, and checks."""

import numpy as np
from hypothesis import strategies as st

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format

FORMATS = [
    Format(Grid("int8"), -1),
    Format(Grid("int4"), 0),
    Format(Grid("int3"), 5),
    Format(Grid("int2"), 0),
    Format(Grid("uint4", symmetric=False), 0),
    Format(Grid("uint2", symmetric=False), 4),
    Format(Grid("uint8"), -1),
    Format(Grid("float8_e4m3fn"), 0),
    Format(Grid("float4_e2m1fn"), 3),
]


def inputs(rng, count, width):
    """Correlated features [count, width], some much larger than others, with a mean."""
    noise = rng.standard_normal((count, width))
    x = noise.copy()
    for column in range(1, width):
        x[:, column] = 0.9 * x[:, column - 1] + 0.4 * noise[:, column]
    gain = np.exp(0.5 * rng.standard_normal(width))
    gain[rng.choice(width, max(1, width // 50), replace=False)] *= 10
    return x * gain + 0.2 * rng.standard_normal(width)


def trained_like(rows=48, width=64, seed=0, shifted=False):
    """A layer with outliers in weight and inputs; `shifted`: earlier layers were quantized."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, width)) / np.sqrt(width)
    weight[rng.random(weight.shape) < 0.005] *= 6
    original = inputs(rng, 1000, width)
    seen = original + 0.1 * rng.standard_normal(original.shape) if shifted else original
    second, cross = seen.T @ seen / 1000, original.T @ seen / 1000
    return LayerData(weight.astype(np.float32), second, cross if shifted else None, name="fc")


@st.composite
def layers(draw):
    """Small layers: one row or column, rows of zeros or of one number, inputs that are always 0."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    rows, width = draw(st.integers(1, 5)), draw(st.integers(1, 11))
    weight = rng.standard_normal((rows, width)) * draw(st.sampled_from([1e-42, 1e-3, 1.0, 1e6]))
    weight[0] = draw(st.sampled_from([weight[0], 0.0, weight[0, 0], abs(weight[0])]))
    x = rng.standard_normal((draw(st.integers(1, 20)), width)) @ rng.standard_normal((width, width))
    x[:, rng.random(width) < draw(st.sampled_from([0, 0.3, 1]))] = 0
    kind = draw(st.sampled_from(["none", "second", "both"]))
    second = None if kind == "none" else x.T @ x / len(x)
    cross = None
    if kind == "both":
        cross = (x + 0.1 * x @ rng.standard_normal((width, width))).T @ x / len(x)
    return LayerData(weight, second, cross, name="fc")


def check_codes(rounded, wanted):
    """One part of the format asked for, codes on its grid, scales that are usable."""
    (part,) = rounded.parts
    grid = wanted.grid
    assert part.format == wanted
    codes = part.codes.astype(np.float64)
    assert codes.shape == rounded.shape
    assert codes.min() >= grid.low
    assert codes.max() <= grid.high
    np.testing.assert_array_equal(codes, codes.astype(grid.dtype).astype(np.float64))
    blocks = (1, 1) if wanted.block < 0 else (rounded.shape[0], wanted.blocks(rounded.shape[1]))
    assert part.scale.shape == part.zero.shape == blocks
    assert np.isfinite(part.scale).all()
    assert (part.scale > 0).all()
    np.testing.assert_array_equal(part.scale, part.scale.astype(np.float32).astype(np.float64))
    np.testing.assert_array_equal(part.zero, np.clip(np.rint(part.zero), grid.low, grid.high))
    scale, zero = (wanted.spread(x, codes.shape[1]) for x in (part.scale, part.zero))
    np.testing.assert_array_equal(part.dense(), scale * (codes - zero))


def loss(layer, rounded):
    """`LayerData.error`, and what two equal losses may differ by."""
    target = layer.target()
    size = 1.0 if layer.second is None else np.trace(layer.second)
    return layer.error(rounded.dense()), 1e-9 * size * float((target**2).sum()) + 1e-300
