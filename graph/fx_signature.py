"""The inputs and outputs of a lowered program: placeholders, specs, and the tensors behind them."""

import copy
import dataclasses
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)

from .fx_tensor import to_torch
from .graph import Graph
from .value import Value

if TYPE_CHECKING:
    from .fx_lower import Lowering


class Placeholders:
    """The placeholders of a program under construction.

    User inputs, and what the program writes to, are there from the start; anything else is added
    when an op first reads it, before the user inputs. A value is known by the node it came from,
    so that a copy of the graph lowers like the graph itself.

    Attributes:
        tensors: the tensors that the original program does not have, by target.
    """

    def __init__(self, lowering: "Lowering", graph: Graph, program: ExportedProgram) -> None:
        self.lowering = lowering
        self.program = program
        self.tensors: dict[str, torch.Tensor] = {}
        self._lifted: list[InputSpec] = []
        self._user: list[InputSpec] = []
        self._last: fx.Node | None = None
        self._placed: dict[fx.Node, fx.Node] = {}
        nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
        signature = program.graph_signature
        self._specs = dict(zip(nodes, signature.input_specs, strict=True))
        self._written = written_targets(program)
        user = iter(graph.inputs)
        for node, spec in self._specs.items():
            if spec.kind == InputKind.USER_INPUT:
                self._user.append(self._copied(node, spec))
                lowering.nodes[next(user)] = self._placed[node]
            elif spec.kind == InputKind.TOKEN or spec.target in self._written:
                self._place(node, spec)

    def input_specs(self) -> list[InputSpec]:
        """The specs in the order of the placeholders."""
        return self._lifted + self._user

    def kept(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The original's tensors, without those that are no longer read.

        What the program writes to is copied, so that running it leaves the original alone.
        """
        targets = {spec.target for spec in self._lifted}
        gone = {spec.target for spec in self._specs.values()} - targets
        return {
            name: copy.deepcopy(tensor) if name in self._written else tensor
            for name, tensor in tensors.items()
            if name not in gone
        }

    def add(self, value: Value) -> fx.Node:
        """The placeholder of a value that nothing has read so far."""
        spec = self._specs.get(value.origin)
        if spec is None or not self._is_stored(value, spec):
            self._lifted.append(self._new(value))
        else:
            if value.origin not in self._placed:
                self._place(value.origin, spec)
            self.lowering.nodes[value] = self._placed[value.origin]
        return self.lowering.nodes[value]

    def _is_stored(self, value: Value, spec: InputSpec) -> bool:
        """Whether a value still stands for what the original program has."""
        constant = value.constant
        return constant is None or constant.source is stored(self.program, spec)

    def _place(self, node: fx.Node, spec: InputSpec) -> None:
        """Copy a placeholder to before the user inputs."""
        with self._before_user_inputs():
            self._lifted.append(self._copied(node, spec))
        self._last = self._placed[node]

    def _copied(self, node: fx.Node, spec: InputSpec) -> InputSpec:
        copied = self._placed[node] = self.lowering.graph.node_copy(node)
        arg = dataclasses.replace(spec.arg, name=copied.name)
        return InputSpec(spec.kind, arg, spec.target, spec.persistent)

    def _new(self, value: Value) -> InputSpec:
        tensor, target = _tensor(value), self._target(value)
        learned = tensor.is_floating_point()
        if learned and not isinstance(tensor, torch.nn.Parameter):
            tensor = torch.nn.Parameter(tensor, requires_grad=False)
        name = ("p_" if learned else "b_") + re.sub(r"\W", "_", target)
        with self._before_user_inputs():
            node = self.lowering.graph.create_node("placeholder", name, name=name)
        mode = self.lowering.fake_mode
        node.meta["val"] = mode.from_tensor(tensor.detach(), static_shapes=True)
        self._last = self.lowering.nodes[value] = node
        self.tensors[target] = tensor
        kind = InputKind.PARAMETER if learned else InputKind.BUFFER
        return InputSpec(kind, TensorArgument(node.name), target, None if learned else True)

    def _target(self, value: Value) -> str:
        """A name in the state dict that nothing has yet."""
        base = target = "passel." + re.sub(r"\W", "_", value.name)
        taken, count = self.program.state_dict.keys() | self.program.constants.keys(), 0
        while target in taken or target in self.tensors:
            count += 1
            target = f"{base}_{count}"
        return target

    def _before_user_inputs(self) -> Any:
        graph = self.lowering.graph
        return graph.inserting_before() if self._last is None else graph.inserting_after(self._last)


def stored(program: ExportedProgram, spec: InputSpec) -> Any:
    """The tensor or object behind a lifted placeholder; None for user inputs and tokens."""
    if spec.target is None:
        return None
    if spec.target in program.state_dict:
        return program.state_dict[spec.target]
    return program.constants.get(spec.target)


def written_targets(program: ExportedProgram) -> set[str | None]:
    """The buffers and parameters that the program writes to."""
    kinds = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)
    specs = program.graph_signature.output_specs
    return {spec.target for spec in specs if spec.kind in kinds}


def output_list(
    graph: Graph, program: ExportedProgram, lowering: "Lowering"
) -> tuple[tuple[Any, ...], list[OutputSpec]]:
    """What the program returns, and the specs of that."""
    before: Any = program.graph.output_node().args[0]
    user = iter(graph.outputs)
    pinned = {value.origin: value for value in graph.pinned}
    results: list[Any] = []
    specs: list[OutputSpec] = []
    signature = program.graph_signature
    for found, spec in zip(before, signature.output_specs, strict=True):
        if not isinstance(found, fx.Node):
            results.append(found)
            specs.append(spec)
            continue
        taken = spec.kind == OutputKind.USER_OUTPUT
        value = next(user) if taken else pinned[found]
        result, arg = _result(value, spec, lowering)
        results.append(result)
        specs.append(OutputSpec(spec.kind, arg, spec.target))
    return tuple(results), specs


def _result(value: Value, spec: OutputSpec, lowering: "Lowering") -> tuple[Any, Any]:
    if value.constant is not None and not isinstance(spec.arg, TensorArgument):
        number = value.array().item()  # a symbolic number that is known by now
        return number, ConstantArgument(spec.arg.name, number)
    node = lowering.node(value)
    return node, dataclasses.replace(spec.arg, name=node.name)


def replaced_call_graph(program: ExportedProgram, graph: fx.Graph) -> list[Any]:
    """The module call graph, without signatures that name nodes which are gone."""
    names = {node.name for node in graph.nodes}
    entries: list[Any] = copy.deepcopy(program.module_call_graph)
    for entry in entries:
        if entry.signature is None:
            continue
        named = [arg.name for arg in (*entry.signature.inputs, *entry.signature.outputs)]
        if entry.fqn and any(name and name not in names for name in named):
            entry.signature = None
    return entries


def _tensor(value: Value) -> torch.Tensor:
    constant = value.constant
    if constant is not None and isinstance(constant.source, torch.Tensor):
        return constant.source
    return to_torch(value.array())
