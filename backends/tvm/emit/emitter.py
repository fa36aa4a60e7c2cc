"""The state of one emission: the Relax function under construction, and what each value became."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ....graph import Graph, Op, Value
from ..machine import Machine

if TYPE_CHECKING:
    from tvm import relax


@dataclass(frozen=True)
class Emission:
    """How one op is emitted, alone or with what it covers of its producers.

    Attributes:
        op: the op whose results it makes.
        reads: the computed values that it needs.
        emit: makes one Relax expression per result of `op`.
    """

    op: Op
    reads: tuple[Value, ...]
    emit: "Callable[[Emitter], Sequence[relax.Expr]]"


class Emitter:
    """Builds `main` from emissions; the functions of the table call it.

    Attributes:
        machine: what the kernels are for.
        constants: arrays of the parameters behind the inputs.
        notes: what the user should know.
    """

    def __init__(self, graph: Graph, machine: Machine) -> None:
        from tvm import relax

        self.graph = graph
        self.machine = machine
        self.builder = relax.BlockBuilder()
        self.constants: list[np.ndarray] = []
        self.notes: list[str] = []
        self._parameters: list[Any] = []
        self._of: dict[Value, Any] = {}
        self._dims: dict[str, Any] = {}

    def __getitem__(self, value: Value) -> "relax.Expr":
        """What a value became; a constant becomes a parameter on first use."""
        found = self._of.get(value)
        if found is None:
            found = self._of[value] = self.constant(value.array(), value.name)
        return found

    def constant(self, array: np.ndarray, name: str) -> "relax.Var":
        """A new parameter that holds `array`, e.g. a weight packed for one kernel."""
        from tvm import relax

        array = np.ascontiguousarray(array)
        kind = relax.TensorType(array.shape, str(array.dtype))
        variable = relax.Var(_identifier(f"{name}_{len(self.constants)}"), kind)
        self.constants.append(array)
        self._parameters.append(variable)
        return variable

    def emit(self, expression: "relax.Expr") -> "relax.Var":
        """Bind an expression to a variable."""
        return self.builder.emit(expression)

    def call_te(self, compute: Callable[..., Any], *arguments: Any, name: str) -> "relax.Var":
        """Bind the result of a tensor expression, which becomes one kernel."""
        return self.builder.emit_te(compute, *arguments, primfunc_name_hint=name)

    def shape(self, value: Value) -> list[Any]:
        """Extents of a value as Relax takes them: a symbolic one is a variable of its name."""
        from tvm import tirx

        if value.shape is None:
            raise ValueError(f"expected a value of known rank, got {value.name!r}")
        return [
            extent
            if isinstance(extent, int)
            else self._dims.setdefault(extent, tirx.Var(extent, "int64"))
            for extent in value.shape
        ]

    def function(self, emissions: Sequence[Emission]) -> Any:
        """The module with `main`: every emission in order, then the outputs as a tuple."""
        from tvm import relax

        inputs = [self._input(value) for value in self.graph.inputs]
        with self.builder.function("main"):
            with self.builder.dataflow():
                for emission in emissions:
                    results = emission.emit(self)
                    for value, result in zip(emission.op.outputs, results, strict=True):
                        self._of[value] = result
                outputs = relax.Tuple([self[value] for value in self.graph.outputs])
                result = self.builder.emit_output(outputs)
            self.builder.emit_func_output(result, params=[*inputs, *self._parameters])
        module = self.builder.finalize()
        return _counted(module, len(inputs))

    def _input(self, value: Value) -> "relax.Var":
        from tvm import relax

        kind = relax.TensorType(self.shape(value), str(value.dtype))
        variable = self._of[value] = relax.Var(_identifier(value.name), kind)
        return variable


def _counted(module: Any, count: int) -> Any:
    """Say where the constants begin among the parameters of `main`."""
    module["main"] = module["main"].with_attr("num_input", count)
    return module


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)
