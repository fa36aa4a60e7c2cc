"""Facts about an ONNX model that tables show: op counts, sizes, inputs and outputs."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

PER_TENSOR = 12
"""Protobuf bytes of an initializer besides its name and its data, about."""


@dataclass(frozen=True)
class TensorFacts:
    """One weight, or one input or output.

    Attributes:
        name: in the model.
        shape: extents, symbolic ones by name; None when unknown.
        dtype: as ONNX calls it, in lower case.
        bytes: of the payload; 0 for inputs and outputs.
    """

    name: str
    shape: tuple[int | str, ...] | None
    dtype: str
    bytes: int = 0

    @property
    def shape_text(self) -> str:
        return "unknown" if self.shape is None else "×".join(map(str, self.shape)) or "scalar"


@dataclass(frozen=True)
class Facts:
    """What one model holds.

    Attributes:
        ops: nodes by operator, bodies of If and Loop included, Constant nodes left out.
        tensors: weights, largest first.
        parameters: elements of all weights.
        bytes: their size.
        file_bytes: size of the file and its external data; None when it was not read from one.
    """

    opset: int
    ops: dict[str, int]
    tensors: list[TensorFacts] = field(repr=False)
    parameters: int
    bytes: int
    inputs: list[TensorFacts]
    outputs: list[TensorFacts]
    file_bytes: int | None = None

    @property
    def total_ops(self) -> int:
        return sum(self.ops.values())

    @property
    def largest_tensor(self) -> int:
        return self.tensors[0].bytes if self.tensors else 0


def facts(model: ir.Model, path: Path | None = None) -> Facts:
    """Count a model, and its files when `path` says where it was read from."""
    ops = Counter(operator(node) for node in model.graph.all_nodes() if not _is_constant(node))
    payloads = {id(tensor): (name, tensor) for name, tensor in weights(model)}.values()
    tensors = [
        TensorFacts(name, tuple(tensor.shape.numpy()), type_name(tensor.dtype), tensor.nbytes)
        for name, tensor in payloads
    ]
    tensors.sort(key=lambda tensor: -tensor.bytes)
    return Facts(
        opset=model.opset_imports.get("", 0),
        ops=dict(ops.most_common()),
        tensors=tensors,
        parameters=sum(tensor.size for _, tensor in payloads),
        bytes=sum(tensor.bytes for tensor in tensors),
        inputs=[value_facts(value) for value in real_inputs(model)],
        outputs=[value_facts(value) for value in model.graph.outputs],
        file_bytes=None if path is None else path.stat().st_size + _external_bytes(model),
    )


def operator(node: ir.Node) -> str:
    """An operator with its domain, unless that is ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def weights(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Every tensor that the model holds: initializers and the payloads of Constant nodes."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield str(name), value.const_value
    for node in model.graph.all_nodes():
        if _is_constant(node) and "value" in node.attributes:
            yield str(node.outputs[0].name), node.attributes["value"].as_tensor()


def real_inputs(model: ir.Model) -> list[ir.Value]:
    """The inputs that a caller gives: those without an initializer."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def value_facts(value: ir.Value) -> TensorFacts:
    """Name, shape and type of an input or output."""
    shape = None
    if value.shape is not None:
        shape = tuple(dim if isinstance(dim, int) else str(dim.value or "?") for dim in value.shape)
    return TensorFacts(str(value.name), shape, type_name(value.dtype))


def type_name(dtype: ir.DataType | None) -> str:
    """An element type in numpy's words: float32, not FLOAT."""
    if dtype is None:
        return "unknown"
    try:
        return dtype.numpy().name if dtype is not ir.DataType.STRING else "string"
    except TypeError:
        return dtype.name.lower()


def written_bytes(model: ir.Model) -> int:
    """What a file of the model will take, external data included; exact to about a percent."""
    bare = model.clone()
    payload = 0
    for graph in bare.graphs():
        for name in list(graph.initializers):
            tensor = graph.initializers.pop(name).const_value
            payload += len(name) + PER_TENSOR + (0 if tensor is None else tensor.nbytes)
    return payload + ir.to_proto(bare).ByteSize()


def _is_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def _external_bytes(model: ir.Model) -> int:
    found = [tensor for _, tensor in weights(model) if isinstance(tensor, ir.ExternalTensor)]
    return sum(tensor.nbytes for tensor in found)
