"""Small models written in Relax, for tests that are not about emission."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from passel.backends.explain import InputSpec
from passel.backends.tvm.aligned import keep_aligned
from passel.backends.tvm.code import Code
from passel.backends.tvm.machine import Machine
from passel.backends.tvm.model import TvmModel
from passel.backends.tvm.pipeline import build


def module(
    inputs: Sequence[InputSpec],
    constants: Sequence[np.ndarray],
    body: Callable[..., Sequence[Any]],
) -> Any:
    """`main` from inputs and constants to what `body(builder, *variables)` returns."""
    from tvm import relax, tirx

    dims: dict[str, Any] = {}

    def kind(shape: Sequence[Any], dtype: str) -> Any:
        extents = [
            e if isinstance(e, int) else dims.setdefault(e, tirx.Var(e, "int64")) for e in shape
        ]
        return relax.TensorType(extents, dtype)

    variables = [relax.Var(spec.name, kind(spec.shape, spec.dtype)) for spec in inputs]
    variables += [
        relax.Var(f"w{index}", kind(array.shape, str(array.dtype)))
        for index, array in enumerate(constants)
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", variables, attrs={"num_input": len(inputs)}):
        with builder.dataflow():
            results = [builder.emit(result) for result in body(builder, *variables)]
            result = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(result)
    return builder.finalize()


def model(
    machine: Machine,
    inputs: Sequence[InputSpec],
    constants: Sequence[np.ndarray],
    body: Callable[..., Sequence[Any]],
) -> TvmModel:
    """The same, compiled."""
    written = module(inputs, constants, body)
    executable, scheduled = build(written, machine)
    arrays = list(constants)
    keep_aligned(arrays)
    outputs = len(written["main"].ret_ty.fields)
    code = Code(executable, scheduled.rules, scheduled.serial, notes=[])
    return TvmModel(code, arrays, machine, tuple(inputs), outputs)
