"""A probe of a torch graph: the part between two sets of values as one compiled function.

Weights are the program's own tensors. The code that fx generates drops each result after its last
reader.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram

from .binding import Compute
from .fx_call import is_taken_apart
from .fx_copy import copied_arguments
from .fx_emit import emit
from .fx_lower import ROBUST
from .fx_signature import stored
from .fx_tensor import as_dtype, storage_dtype, to_numpy, to_torch
from .graph import Graph
from .probe import assembled, part_between
from .value import Op, Value


def probe(
    graph: Graph, program: ExportedProgram, outputs: Sequence[Value], inputs: Sequence[Value]
) -> Compute:
    """The function from `inputs` to `outputs` of a graph lifted from `program`."""
    part = part_between(graph, inputs, outputs)
    writer = _Writer(program)
    for value in part.read:
        writer.nodes[value] = writer.placeholder(value.name)
    for op in part.ops:
        writer.write(op)
    writer.graph.output(tuple(writer.node(value) for value in part.outputs))
    module = fx.GraphModule(writer.bodies, writer.graph)
    read, made = part.read, part.outputs

    def compute(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        given = [_argument(array, value) for array, value in zip(arrays, read, strict=True)]
        with torch.no_grad():
            results = module(*given, *writer.tensors)
        return [_array(result, value) for result, value in zip(results, made, strict=True)]

    return assembled(part, outputs, compute)


class _Writer:
    """An fx graph without metadata under construction, and the node of each value so far.

    Attributes:
        tensors: the arguments that follow the inputs: every constant that an op reads.
        bodies: the modules of higher-order operators, by name.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.graph = fx.Graph()
        self.nodes: dict[Value, fx.Node] = {}
        self.tensors: list[Any] = []
        self.bodies: dict[str, torch.nn.Module] = {}
        nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
        specs = program.graph_signature.input_specs
        self.specs = dict(zip(nodes, specs, strict=True))
        self._last: fx.Node | None = None

    def placeholder(self, name: str) -> fx.Node:
        """One more argument, after those there are."""
        before = self.graph.inserting_before() if self._last is None else None
        with before or self.graph.inserting_after(self._last):
            self._last = self.graph.create_node("placeholder", name, name=name)
        return self._last

    def node(self, value: Value) -> fx.Node:
        """The node of a value; a constant becomes an argument when it is first asked for."""
        if value not in self.nodes:
            self.tensors.append(self._tensor(value))
            self.nodes[value] = self.placeholder(value.name)
        return self.nodes[value]

    def _tensor(self, value: Value) -> Any:
        constant = value.constant
        if constant is not None:
            kept = constant.source
            return kept.detach() if isinstance(kept, torch.Tensor) else to_torch(value.array())
        spec = self.specs.get(value.origin)
        found = None if spec is None else stored(self.program, spec)
        if found is None:
            raise ValueError(f"expected a value of the graph or an input given, got {value.name!r}")
        return found

    def body(self, node: fx.Node) -> fx.Node:
        """The node of a higher-order operator's body."""
        path = str(node.target)
        if path not in self.bodies:
            self.bodies[path] = self.program.graph_module.get_submodule(path)
        return self.graph.create_node("get_attr", path)

    def write(self, op: Op) -> None:
        """Write one op, as a copy of its node where that says the same."""
        arguments = copied_arguments(op, self)
        if arguments is None:
            recorder = _Recorder(self, op)
            for value, node in zip(op.outputs, emit(op, recorder), strict=True):
                self.nodes[value] = recorder.typed(value, node)
            return
        target = ROBUST.get(op.source.target, op.source.target)
        node = self.graph.create_node("call_function", target, *arguments)
        if not is_taken_apart(op.source):
            self.nodes.update(dict.fromkeys(op.outputs, node))
            return
        for index, value in enumerate(op.outputs):
            args = (node, index)
            self.nodes[value] = self.graph.create_node("call_function", operator.getitem, args)


class _Recorder:
    """Writes the calls of one op."""

    def __init__(self, writer: _Writer, op: Op) -> None:
        self.writer = writer
        self.op = op

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        return self.writer.graph.create_node("call_function", target, args, kwargs)

    def arg(self, index: int) -> fx.Node | None:
        value = self.op.operand(index)
        return None if value is None else self.writer.node(value)

    def constant(self, array: np.ndarray, hint: str) -> fx.Node:
        self.writer.tensors.append(to_torch(array))
        return self.writer.placeholder(f"{self.op.output.name}_{hint}")

    def literal(self, index: int) -> Any:
        value = self.op.operand(index)
        if value is None or value.constant is None or value.shape != ():
            return None
        return value.array().item()

    def typed(self, value: Value, node: fx.Node) -> fx.Node:
        """The node of a result, of the promised type."""
        if value.dtype is None or not isinstance(node, fx.Node):
            return node
        return self.call(as_dtype, node, storage_dtype(value.dtype))


def _argument(array: np.ndarray, value: Value) -> Any:
    """What the ops read: a tensor, or a number where the value is a symbolic extent."""
    origin = value.origin
    known = origin.meta.get("val") if isinstance(origin, fx.Node) else None
    if known is not None and not isinstance(known, torch.Tensor):
        return np.asarray(array).item()
    return to_torch(np.asarray(array))


def _array(result: Any, value: Value) -> np.ndarray:
    array = to_numpy(result) if isinstance(result, torch.Tensor) else np.asarray(result)
    return array if value.dtype is None else array.astype(value.dtype, copy=False)
