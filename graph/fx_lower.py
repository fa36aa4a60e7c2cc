"""Write a graph back as an ExportedProgram.

Nodes that no pass has touched are copied with their metadata; the others are written anew. The new
program shares tensors with the original, and nothing else that either could change.
"""

import copy
import operator
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature

from .fx_call import is_taken_apart
from .fx_copy import copied_arguments, same_inputs
from .fx_emit import emit
from .fx_signature import Placeholders, output_list, replaced_call_graph
from .fx_tensor import storage_dtype
from .graph import Graph
from .value import Constant, Op, Value

aten = torch.ops.aten
# Passes may change the strides of what a view reads; a reshape gives the same elements regardless.
ROBUST: dict[Any, Any] = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
}
_PROVENANCE = ("nn_module_stack", "stack_trace", "source_fn_stack")


def lower(graph: Graph, source: ExportedProgram) -> ExportedProgram:
    """The program that `graph` stands for now."""
    lowering = Lowering(graph, source)
    places = Placeholders(lowering, graph, source)
    lowering.placeholder = places.add
    for op in graph.ops:
        lowering.write(op)
    results, specs = output_list(graph, source, lowering)
    output = lowering.graph.output(results)
    output.meta = copy.copy(source.graph.output_node().meta)
    program = ExportedProgram(
        root={str(body.target): lowering.module_of(body) for body in lowering.bodies.values()},
        graph=lowering.graph,
        graph_signature=ExportGraphSignature(places.input_specs(), specs),
        state_dict=places.kept(source.state_dict) | places.tensors,
        range_constraints=copy.copy(source.range_constraints),
        module_call_graph=replaced_call_graph(source, lowering.graph),
        example_inputs=source.example_inputs,
        constants=places.kept(source.constants),
        verifiers=source.verifiers,
    )
    program.graph_module.meta.update(source.graph_module.meta)
    return program


class Lowering:
    """An fx graph under construction, and the node of each value written so far."""

    def __init__(self, view: Graph, program: ExportedProgram) -> None:
        self.view = view
        self.module = program.graph_module
        self.graph = fx.Graph()
        self.nodes: dict[Value, fx.Node] = {}
        self.bodies: dict[str, fx.Node] = {}
        self.placeholder: Callable[[Value], fx.Node] = self.nodes.__getitem__
        vals = [node.meta.get("val") for node in program.graph.nodes]
        self.fake_mode = detect_fake_mode(vals) or FakeTensorMode()

    def node(self, value: Value) -> fx.Node:
        """The node of a value; a constant gets its placeholder when it is first asked for."""
        found = self.nodes.get(value)
        return self.placeholder(value) if found is None else found

    def write(self, op: Op) -> None:
        """Write one op, as a copy where that says the same."""
        arguments = copied_arguments(op, self)
        if arguments is not None:
            self._copy(op, *arguments)
            return
        writer = NodeEmitter(self, op)
        for value, node in zip(op.outputs, emit(op, writer), strict=True):
            self.nodes[value] = writer.finish(value, node)

    def body(self, node: fx.Node) -> fx.Node:
        """The node of a higher-order operator's body."""
        path = str(node.target)
        if path not in self.bodies:
            self.bodies[path] = self.graph.node_copy(node)
        return self.bodies[path]

    def module_of(self, body: fx.Node) -> torch.nn.Module:
        """The body itself."""
        found: torch.nn.Module = self.module.get_submodule(str(body.target))
        return found

    def propagate(self, target: Any, args: Any, kwargs: Any) -> Any:
        """What a call computes, as fake tensors; the shared shape environment learns nothing."""
        env = self.fake_mode.shape_env
        args, kwargs = fx.map_arg((args, kwargs), self._val)
        with torch.no_grad(), self.fake_mode, env.suppress_guards() if env else nullcontext():
            return target(*args, **kwargs)

    def _val(self, node: fx.Node) -> Any:
        return self.module_of(node) if node.op == "get_attr" else node.meta["val"]

    def _copy(self, op: Op, args: Any, kwargs: Any) -> None:
        source: fx.Node = op.source
        target = ROBUST.get(source.target, source.target)
        node = self.graph.create_node("call_function", target, args, kwargs, source.name)
        node.meta = copy.copy(source.meta)
        # A node that makes unbacked symbols must keep them: later shapes mention them by name.
        stale = not same_inputs(source, node) and "unbacked_bindings" not in node.meta
        if stale and node.meta.get("val") is not None:
            node.meta["val"] = self.propagate(target, args, kwargs)
            node.meta.pop("tensor_meta", None)
        if not is_taken_apart(source):
            self.nodes.update(dict.fromkeys(op.outputs, node))
            return
        for index, value in enumerate(op.outputs):
            if value.uses or self.view.is_output(value):
                self.nodes[value] = self._take(node, index, value)

    def _take(self, listed: fx.Node, index: int, value: Value) -> fx.Node:
        args = (listed, index)
        node = self.graph.create_node("call_function", operator.getitem, args, {}, value.name)
        node.meta = copy.copy(value.origin.meta) if isinstance(value.origin, fx.Node) else {}
        node.meta["val"] = listed.meta["val"][index]
        return node


class NodeEmitter:
    """Writes the calls of one op as nodes, each with the value that it would have."""

    def __init__(self, lowering: Lowering, op: Op) -> None:
        self.lowering = lowering
        self.op = op
        self.count = 0
        origin = op.outputs[0].origin if op.outputs else None
        meta = origin.meta if isinstance(origin, fx.Node) else {}
        self.meta = {key: meta[key] for key in _PROVENANCE if key in meta}

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        # A value's name is unique in the graph, so these take no name that a later copy wants.
        self.count += 1
        name = f"{self.op.output.name}_part{self.count}"
        node = self.lowering.graph.create_node("call_function", target, args, kwargs, name)
        node.meta = {**self.meta, "val": self.lowering.propagate(target, args, kwargs)}
        return node

    def arg(self, index: int) -> fx.Node | None:
        value = self.op.operand(index)
        return None if value is None else self.lowering.node(value)

    def constant(self, array: np.ndarray, hint: str) -> fx.Node:
        payload = Constant.of(array)
        name = f"{self.op.output.name}_{hint}"
        return self.lowering.node(Value(name, payload.shape, payload.dtype, constant=payload))

    def literal(self, index: int) -> Any:
        value = self.op.operand(index)
        if value is None or value.constant is None or value.shape != ():
            return None
        return value.array().item()

    def finish(self, value: Value, node: fx.Node) -> fx.Node:
        """The node of a result: of the promised type, and under the value's name."""
        val = node.meta.get("val")
        if value.dtype is not None and isinstance(val, torch.Tensor):
            dtype = storage_dtype(value.dtype)
            if val.dtype != dtype:
                node = self.call(aten._to_copy.default, node, dtype=dtype)
        if node.name.startswith(f"{self.op.output.name}_part"):
            node._rename(value.name)
        return node
