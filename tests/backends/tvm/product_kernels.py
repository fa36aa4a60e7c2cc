"""Kernels with a matrix product in them, unscheduled, and how to run a schedule of one."""

from typing import Any

import numpy as np

MACHINES = ("znver4", "haswell")
F32 = 2e-6
"""Bound on a sum of float32 products in another order, relative to the largest result."""


def machine(mcpu: str) -> Any:
    from passel.backends.tvm.available import require
    from passel.backends.tvm.machine import machine_of

    require(2)
    return machine_of(mcpu, 2)


def dense(m: Any, n: Any, k: Any, dtype: str = "float32", batch: tuple = ()) -> Any:
    """C[.., i, j] = Σ a[.., i, k]·b[.., k, j]."""
    from tvm import te

    a = te.placeholder((*batch, m, k), dtype, "a")
    b = te.placeholder((*batch, k, n), dtype, "b")
    r = te.reduce_axis((0, k), "k")
    c = te.compute(
        (*batch, m, n), lambda *i: te.sum(a(*i[:-1], r) * b(*i[:-2], r, i[-1]), axis=r), name="c"
    )
    return te.create_prim_func([a, b, c])


def packed(m: Any, n: int, k: int, lanes: int, dtype: str = "float32", total: str = "") -> Any:
    """C[i, j] = max(Σ a[i, k]·b[j // lanes, k, j % lanes] + bias[j], −9)."""
    from tvm import te, tirx

    total = total or dtype
    a = te.placeholder((m, k), dtype, "a")
    b = te.placeholder((-(-n // lanes), k, lanes), dtype, "b")
    bias = te.placeholder((n,), total, "bias")
    r = te.reduce_axis((0, k), "k")
    c = te.compute(
        (m, n),
        lambda i, j: te.sum(
            a[i, r].astype(total) * b[j // lanes, r, j % lanes].astype(total), axis=r
        ),
        name="c",
    )
    out = te.compute(
        (m, n), lambda i, j: te.max(c[i, j] + bias[j], tirx.const(-9, total)), name="out"
    )
    return te.create_prim_func([a, b, bias, out])


def turned(m: Any, n: Any, k: Any, batch: Any = 3) -> Any:
    """C[h, i, j] = Σ a[h, i, k]·b[h, j, k], through a transpose of b."""
    from tvm import te

    a = te.placeholder((batch, m, k), name="a")
    b = te.placeholder((batch, n, k), name="b")
    t = te.compute((batch, k, n), lambda h, r, j: b[h, j, r], name="t")
    r = te.reduce_axis((0, k), "k")
    c = te.compute((batch, m, n), lambda h, i, j: te.sum(a[h, i, r] * t[h, r, j], axis=r), name="c")
    return te.create_prim_func([a, b, c])


def heads(tokens: int, number: int, width: int, out: int, less: int = 0) -> Any:
    """C[i, j] = Σ a[k // width, i, k % width]·b[k, j], written as [j // width, i, j % width].

    The sum goes over all heads, but for the last `less` elements of the last one.
    """
    from tvm import te

    size = number * width - less
    a = te.placeholder((number, tokens, width), name="a")
    b = te.placeholder((size, out), name="b")
    rows = te.compute((tokens, size), lambda i, k: a[k // width, i, k % width], name="rows")
    r = te.reduce_axis((0, size), "k")
    c = te.compute((tokens, out), lambda i, j: te.sum(rows[i, r] * b[r, j], axis=r), name="c")
    result = te.compute(
        (out // width, tokens, width), lambda h, i, d: c[i, h * width + d] * 2.0, name="result"
    )
    return te.create_prim_func([a, b, result])


def image(size: int, channels: int, out: int, kernel: int, stride: int) -> Any:
    """A convolution as a product of [out, k] and the image's patches [k, pixels], padded by 1."""
    from tvm import te, tirx

    x = te.placeholder((channels, size, size), name="x")
    w = te.placeholder((out, channels * kernel * kernel), name="w")
    wide = size + 2
    pad = te.compute(
        (channels, wide, wide),
        lambda c, h, v: tirx.if_then_else(
            tirx.all(h >= 1, h <= size, v >= 1, v <= size), x[c, h - 1, v - 1], tirx.const(0.0)
        ),
        name="pad",
    )
    across = (wide - kernel) // stride + 1
    patches = te.compute(
        (channels * kernel * kernel, across * across),
        lambda k, j: pad[
            k // (kernel * kernel),
            j // across * stride + k % (kernel * kernel) // kernel,
            j % across * stride + k % kernel,
        ],
        name="patches",
    )
    r = te.reduce_axis((0, channels * kernel * kernel), "k")
    c = te.compute(
        (out, across * across), lambda o, j: te.sum(w[o, r] * patches[r, j], axis=r), name="c"
    )
    y = te.compute((out, across, across), lambda o, h, v: c[o, h * across + v], name="y")
    return te.create_prim_func([x, w, y])


def repeated(m: int, n: int, k: int) -> Any:
    """An output with more elements than the product: C[i, j] + b[h, i, j]."""
    from tvm import te

    a, b = te.placeholder((m, k), name="a"), te.placeholder((k, n), name="b")
    d = te.placeholder((3, m, n), name="d")
    r = te.reduce_axis((0, k), "k")
    c = te.compute((m, n), lambda i, j: te.sum(a[i, r] * b[r, j], axis=r), name="c")
    out = te.compute((3, m, n), lambda h, i, j: c[i, j] + d[h, i, j], name="out")
    return te.create_prim_func([a, b, d, out])


def computed(m: int, n: int, k: int) -> Any:
    """Operands that are computed: exp(a)·|b|, and a read again after it."""
    from tvm import te, tirx

    a, b = te.placeholder((m, k), name="a"), te.placeholder((k, n), name="b")
    e = te.compute((m, k), lambda i, j: tirx.exp(a[i, j]), name="e")
    f = te.compute((k, n), lambda i, j: tirx.abs(b[i, j]), name="f")
    g = te.compute((m, n), lambda i, j: a[i, 0] * 3.0, name="g")
    r = te.reduce_axis((0, k), "k")
    c = te.compute((m, n), lambda i, j: te.sum(e[i, r] * f[r, j], axis=r), name="c")
    out = te.compute((m, n), lambda i, j: c[i, j] + g[i, j] * c[i, j], name="out")
    return te.create_prim_func([a, b, out])


def difference(function: Any, mcpu: str, sizes: dict[str, int] | None = None) -> float:
    """How far the rule's kernel is from the plain one, relative to the largest element."""
    plain, tiled = compiled(function, mcpu)
    return apart(function, plain, tiled, sizes or {})


def compiled(function: Any, mcpu: str) -> tuple[Any, Any]:
    """The kernel as it is, and as the rule makes it, compiled."""
    import tvm

    from passel.backends.tvm.schedules.matmul import matmul

    target = machine(mcpu)
    found = matmul(function, target)
    assert found is not None
    names = {"plain": function, "tiled": found.mod["main"]}
    module = tvm.IRModule({name: f.with_attr("global_symbol", name) for name, f in names.items()})
    code = tvm.compile(module, target=target.target())
    return code["plain"], code["tiled"]


def apart(function: Any, plain: Any, tiled: Any, sizes: dict[str, int]) -> float:
    """The largest difference of the two on random arguments; what is not written is NaN."""
    import tvm

    random = np.random.default_rng(0)
    arrays = []
    for buffer in function.params:
        shape = [int(x) if hasattr(x, "value") else sizes[x.name] for x in buffer.shape]
        arrays.append((4 * random.standard_normal(shape)).astype(str(buffer.dtype)))
    arrays[-1][...] = np.nan if arrays[-1].dtype.kind == "f" else -99
    results = []
    for code in (plain, tiled):
        arguments = [tvm.runtime.tensor(array) for array in arrays]
        code(*arguments)
        results.append(arguments[-1].numpy().astype(np.float64))
    assert np.isfinite(results[0]).all()
    assert np.isfinite(results[1]).all()
    return float(np.abs(results[0] - results[1]).max() / np.abs(results[0]).max())
