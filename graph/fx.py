"""The torch view: lift an ExportedProgram to a `Graph`, and bind the graph to it.

One `Op` per node, in the program's order; results that the program takes out of a tuple with
`getitem` are the op's outputs. Weights are constants over the program's own tensors. A program that
still writes in place is made functional first, so that a value never changes after it was made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind

from ..errors import ExportError
from . import fx_lower, fx_probe, fx_run
from .binding import Compute
from .fx_call import Call, Operand, attribute_of, bound, is_taken_apart
from .fx_rules import RULES
from .fx_signature import stored, written_targets
from .fx_tensor import constant_of, dtype_of, shape_of
from .graph import Graph
from .ops import Opaque, TopK
from .value import Constant, Op, Value


@dataclass
class FxBinding:
    """What a graph lifted from an ExportedProgram needs from it.

    Attributes:
        program: the program, functional; never written to.
    """

    program: ExportedProgram
    frontend: str = "fx"

    def evaluate(
        self, op: Op, arrays: Sequence[np.ndarray | None], *, wide: bool = True
    ) -> list[np.ndarray]:
        """Run one op on constant operands, if `wide` in float64 where the op allows."""
        return fx_run.evaluate(self.program, op, arrays, wide)

    def lower(self, graph: Graph) -> ExportedProgram:
        """Write the graph back as an ExportedProgram that shares the weights of the original."""
        return fx_lower.lower(graph, self.program)

    def run(self, graph: Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Lower the graph and run it on the user inputs, flat and in order."""
        return fx_run.run(self.lower(graph), inputs)

    def probe(self, graph: Graph, outputs: Sequence[Value], inputs: Sequence[Value]) -> Compute:
        """The function from the arrays of `inputs` to those of `outputs`, run by eager torch."""
        return fx_probe.probe(graph, self.program, outputs, inputs)


def lift(program: ExportedProgram) -> Graph:
    """The graph of a program, with every weight shared; linear in the number of nodes."""
    return _Lift(functional(program)).graph


def functional(program: ExportedProgram) -> ExportedProgram:
    """The program itself, or one without in-place operators that computes the same.

    `torch.export` keeps `relu_` and the like; the view's values must not change under it.
    """
    if not any(_mutates(node) for node in program.graph.nodes):
        return program
    try:
        pure: ExportedProgram = program.run_decompositions({})
    except Exception as error:
        raise ExportError(f"expected a program without in-place operators: {error}") from error
    return pure


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


class _Lift:
    """One lift under way: the graph so far, and the value of each node read so far."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.values: dict[fx.Node, Value] = {}
        self.narrowed: dict[tuple[Value, np.dtype], Value] = {}
        self.graph = Graph(FxBinding(program), name="program")
        for node in program.graph.nodes:
            self.graph.reserve(node.name)
        self._placeholders()
        for node in program.graph.nodes:
            if node.op == "call_function" and node not in self.values and not _is_vacuous(node):
                self._node(node)
            elif node.op == "get_attr":
                self._attribute(node)
        self._outputs()

    def _placeholders(self) -> None:
        nodes = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        written = written_targets(self.program)
        for node, spec in zip(nodes, self.program.graph_signature.input_specs, strict=True):
            constant = None if spec.target in written else self._payload(spec)
            value = self._value(node, node.meta.get("val"), node.name, constant)
            self.values[node] = value
            if spec.kind == InputKind.USER_INPUT:
                self.graph.inputs.append(value)

    def _payload(self, spec: InputSpec) -> Constant | None:
        tensor = stored(self.program, spec)
        return constant_of(tensor) if isinstance(tensor, torch.Tensor) else None

    def _value(self, node: fx.Node, val: Any, name: str, constant: Constant | None = None) -> Value:
        return Value(name, shape_of(val), dtype_of(val), constant=constant, origin=node)

    def _attribute(self, node: fx.Node) -> None:
        """A tensor kept on the graph module; the body of a higher-order operator is no value."""
        found = attribute_of(node)
        if isinstance(found, torch.Tensor):
            constant = constant_of(found)
            self.values[node] = self._value(node, found, node.name, constant)

    def _node(self, node: fx.Node) -> None:
        call = self._call(node)
        rule = RULES.get(_overload(node))
        op = rule(call) if rule is not None else None
        if op is None:
            op = Opaque(target=str(node.target), impure=_is_impure(node))
        _settle(op, call.operands)
        op.name, op.scope = node.name, scope_of(node)
        op.source = None if call.respelled else node
        op.outputs = self._held(call) or self._results(node, isinstance(op, Opaque | TopK))
        if call.dtype is not None:
            op.output.dtype = call.dtype
        self.graph.append(op)

    def _call(self, node: fx.Node) -> Call:
        call = Call(node, self.graph, {}, narrowed=self.narrowed)

        def occurrence(found: fx.Node) -> Any:
            if found not in self.values:
                return found  # the body of a higher-order operator
            operand = Operand(len(call.operands), self.values[found], found)
            call.operands.append(operand)
            return operand

        args = fx.map_arg(node.args, occurrence)
        kwargs = fx.map_arg(node.kwargs, occurrence)
        if isinstance(node.target, torch._ops.OpOverload):
            call.args.update(bound(node, args, kwargs))
        return call

    def _results(self, node: fx.Node, whole: bool) -> list[Value]:
        """The values of a node; all of them if `whole`, else only those that the op stands for."""
        val = node.meta.get("val")
        if val is None:
            return []
        takers = list(node.users)
        if not is_taken_apart(node):
            self.values[node] = self._value(node, val, node.name)
            return [self.values[node]]
        by_index = {user.args[1]: user for user in reversed(takers)}
        results = []
        for index, item in enumerate(val):
            taker = by_index.get(index)
            name = (
                taker.name if taker is not None else self.graph.fresh_name(f"{node.name}_{index}")
            )
            results.append(self._value(taker or node, item, name))
        for user in takers:
            self.values[user] = results[user.args[1]]  # type: ignore[index]
        return results if whole or len(_returns(node)) <= 1 else results[:1]

    def _held(self, call: Call) -> list[Value]:
        """The results that a rule found in other nodes than its own."""
        results = []
        for nodes in call.results:
            results.append(self._value(nodes[-1], nodes[-1].meta["val"], nodes[-1].name))
            self.values.update(dict.fromkeys(nodes, results[-1]))
        return results

    def _outputs(self) -> None:
        (output,) = (node for node in self.program.graph.nodes if node.op == "output")
        specs = self.program.graph_signature.output_specs
        for found, spec in zip(output.args[0], specs, strict=True):
            if not isinstance(found, fx.Node):
                continue
            if spec.kind == OutputKind.USER_OUTPUT:
                self.graph.outputs.append(self.values[found])
                self.graph.output_names.append(spec.arg.name)
            else:
                self.graph.pinned.add(self.values[found])


def scope_of(node: fx.Node) -> str:
    """Dotted path of the module that a node came from."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path: str = list(stack.values())[-1][0]
    path = path.removeprefix("L['self']").removeprefix("L__self__").lstrip(".")
    return path.replace("['", ".").replace("']", "").split("@")[0]


def _settle(op: Op, operands: list[Operand]) -> None:
    """Put values in the place of the operands, and note where each argument went.

    What the rule left out goes last, so that it keeps its producer alive.
    """
    inputs: list[Any] = op.inputs
    used = {entry.index for entry in inputs if isinstance(entry, Operand)}
    inputs.extend(operand for operand in operands if operand.index not in used)
    place = {entry.index: i for i, entry in enumerate(inputs) if isinstance(entry, Operand)}
    op.inputs = [entry.value if isinstance(entry, Operand) else entry for entry in inputs]
    op.lifted_inputs = tuple(op.inputs)
    order = tuple(place[operand.index] for operand in operands)
    op.order = None if order == tuple(range(len(inputs))) else order


def _overload(node: fx.Node) -> str:
    name = str(node.target)
    if name.startswith("quantized_decomposed."):
        return name
    return name.removeprefix("aten.") if name.startswith("aten.") else ""


def _returns(node: fx.Node) -> Sequence[Any]:
    schema = getattr(node.target, "_schema", None)
    return schema.returns if schema is not None else ()


def _is_vacuous(node: fx.Node) -> bool:
    """Whether the node only asserts dtype, device and layout, which are static in this view.

    As a second reader it would stand in the way of every pass that asks who reads a value.
    """
    return _overload(node) == "_assert_tensor_metadata.default"


def _is_impure(node: fx.Node) -> bool:
    if node.meta.get("val") is None or node.is_impure(impure_random=False):
        return True
    if _overload(node) == "scaled_dot_product_attention.default":  # random only with dropout
        positional = node.args[4] if len(node.args) > 4 else 0.0
        return bool(node.kwargs.get("dropout_p", positional) != 0.0)
    return node.is_impure()
