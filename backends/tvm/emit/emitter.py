"""The state of one emission: the Relax function under construction, and what each value became."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from ....errors import UnsupportedModel
from ....graph import Graph, Value
from ..machine import Machine
from ..refusals import last_line
from .contents import Contents
from .dims import Dims, Extent, Unknown, identifier
from .emission import Emission
from .expressions import dtype_of
from .kernels import kernel_call

if TYPE_CHECKING:
    from tvm import relax

CARRIERS = {
    "int2": np.dtype(np.int8),
    "int4": np.dtype(np.int8),
    "uint2": np.dtype(np.uint8),
    "uint4": np.dtype(np.uint8),
}
"""What holds codes of less than a byte: a byte each."""


class Emitter:
    """Builds `main` from emissions; the functions of the table call it.

    Attributes:
        machine: what the kernels are for.
        dims: the variables that stand for symbolic extents.
        contents: values known at emission, such as shapes.
        constants: arrays of the parameters behind the inputs.
        notes: what the user should know.
    """

    def __init__(self, graph: Graph, machine: Machine, dims: Dims | None = None) -> None:
        from tvm import relax

        self.graph = graph
        self.machine = machine
        self.dims = Dims(graph.inputs) if dims is None else dims
        self.builder = relax.BlockBuilder()
        self.contents = Contents(self)
        self.constants: list[np.ndarray] = []
        self.notes: list[str] = []
        self._parameters: list[Any] = []
        self._of: dict[Value, Any] = {}

    def __getitem__(self, value: Value) -> "relax.Expr":
        """What a value became.

        A known one becomes a parameter on first use, or part of the code if it is a lone number.
        """
        found = self._of.get(value)
        if found is None:
            found = self._of[value] = self._materialised(value)
        return found

    def constant(self, array: np.ndarray, name: str) -> "relax.Var":
        """A new parameter that holds `array`, e.g. a weight packed for one kernel."""
        from tvm import relax

        array = np.asarray(carried(array), order="C")
        kind = relax.TensorType(array.shape, str(array.dtype))
        variable = relax.Var(identifier(f"{name}_{len(self.constants)}"), kind)
        self.constants.append(array)
        self._parameters.append(variable)
        return variable

    def number(self, number: Any, dtype: str) -> "relax.Expr":
        """A lone number as part of the code."""
        from tvm import relax

        return relax.const(np.asarray(number).astype(_numpy(dtype)), dtype)

    def emit(self, expression: "relax.Expr") -> "relax.Var":
        """Bind an expression to a variable."""
        return self.builder.emit(expression)

    def call_te(
        self,
        compute: Callable[..., Any],
        *arguments: Any,
        name: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> "relax.Var":
        """Bind the result of a tensor expression, which becomes one kernel.

        Args:
            compute: from tensors to a tensor.
            arguments: expressions, nested lists of them, or what `compute` takes as it is.
            name: what the kernel is called.
            attributes: what the kernel carries for those who fuse and schedule it.
        """
        call = kernel_call(
            self.builder, compute, arguments, name, self.dims.variables, attributes or {}
        )
        return self.builder.emit(call)

    def shape(self, value: Value) -> list[Extent]:
        """Extents of a value: numbers, and expressions over the inputs' extents.

        Raises:
            Unknown: an extent depends on the elements of a tensor.
        """
        found = self._of.get(value)
        if found is not None:
            return self.extents(found)
        known = self.contents.get(value)
        if known is not None:
            return list(known.shape)
        if value.shape is None:
            raise Unknown(value.name)
        return [self.dims(dim) for dim in value.shape]

    def extents(self, expression: "relax.Expr") -> list[Extent]:
        """Extents of an expression.

        Raises:
            Unknown: Relax does not know them.
        """
        from tvm import relax

        shape = expression.ty.shape
        if not isinstance(shape, relax.ShapeExpr):
            raise Unknown(str(expression))
        return [self.dims.simple(extent) for extent in shape.values]

    def dtype(self, value: Value) -> str:
        """Element type of what a value becomes."""
        assert value.dtype is not None, f"{value.name!r} is no tensor"
        return str(CARRIERS.get(value.dtype.name, value.dtype))

    def cast(self, expression: "relax.Expr", dtype: str) -> "relax.Expr":
        """An expression in an element type."""
        from tvm import relax

        if dtype_of(expression) == dtype:
            return expression
        return self.emit(relax.op.astype(expression, dtype))

    def function(self, emissions: Sequence[Emission]) -> Any:
        """The module with `main`: every emission in order, then the outputs as a tuple."""
        from tvm import relax

        inputs = [self._input(value) for value in self.graph.inputs]
        try:
            with self.builder.function("main"):
                with self.builder.dataflow():
                    for emission in emissions:
                        self._run(emission)
                    outputs = relax.Tuple([self[value] for value in self.graph.outputs])
                    result = self.builder.emit_output(outputs)
                self.builder.emit_func_output(result, params=[*inputs, *self._parameters])
        except UnsupportedModel:
            self.builder._end_block()  # else the builder complains when it is freed
            raise
        self._note_carriers()
        module = self.builder.finalize()
        module["main"] = module["main"].with_attr("num_input", len(inputs))
        return module

    def _run(self, emission: Emission) -> None:
        op = emission.op
        try:
            results = emission.emit(self)
        except UnsupportedModel:
            raise
        except Unknown as error:
            raise UnsupportedModel(
                f"TVM: {op.kind} {op.name!r} has a shape that does not follow from the shapes of "
                f"the inputs ({error})"
            ) from error
        except Exception as error:  # TVM raises whatever it likes where operands do not fit
            raise UnsupportedModel(
                f"TVM: cannot express {op.kind} {op.name!r}: {last_line(error)}"
            ) from error
        for value, result in zip(emission.results, results, strict=False):
            if result is not None:
                self._of[value] = result

    def _input(self, value: Value) -> "relax.Var":
        from tvm import relax

        if value.shape is None or value.dtype is None:
            raise UnsupportedModel(f"TVM: expected input {value.name!r} to have a known rank")
        kind = relax.TensorType([self.dims(dim) for dim in value.shape], self.dtype(value))
        variable = self._of[value] = relax.Var(identifier(value.name), kind)
        return variable

    def _note_carriers(self) -> None:
        """Say which inputs and outputs hold codes of less than a byte."""
        ends = [("input", v) for v in self.graph.inputs] + [
            ("output", v) for v in self.graph.outputs
        ]
        for what, value in ends:
            if value.dtype is not None and value.dtype.name in CARRIERS:
                kept = self.dtype(value)
                self.notes.append(f"{what} {value.name!r} holds {value.dtype.name} codes as {kept}")

    def _materialised(self, value: Value) -> "relax.Expr":
        known = self.contents.get(value)
        if known is None:
            raise ValueError(f"expected {value.name!r} to be emitted before it is read")
        if known.dtype == object:
            return self.contents.tensor(known, self.dtype(value))
        if known.ndim == 0:
            return self.number(carried(known), self.dtype(value))
        return self.constant(known, value.name)


def carried(array: np.ndarray) -> np.ndarray:
    """An array in the type that holds it: codes of less than a byte take a whole one."""
    carrier = CARRIERS.get(array.dtype.name)
    if carrier is not None:
        return array.astype(carrier)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _numpy(dtype: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, dtype, dtype))
