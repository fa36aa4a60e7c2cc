"""The part of a graph between some values and others: what a probe has to compute."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .binding import Compute
from .graph import Graph
from .value import Op, Value


@dataclass(frozen=True)
class Part:
    """Ops between inputs and outputs.

    Attributes:
        ops: what has to run, in order.
        inputs: the values given.
        read: those of them that an op reads.
        outputs: the values asked for that an op of the part makes, each once.
    """

    ops: list[Op]
    inputs: list[Value]
    read: list[Value]
    outputs: list[Value]


def part_between(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Value]) -> Part:
    """What `outputs` need, going back as far as `inputs`.

    Raises:
        ValueError: an output depends on a graph input that is not given, or on no value of the
            graph at all.
    """
    given, own = set(inputs), set(graph.inputs)
    needed: set[Op] = set()
    read: dict[Value, None] = {}
    worklist = [(value, value) for value in outputs]
    while worklist:
        value, output = worklist.pop()
        op = value.producer
        if value in given:
            read[value] = None
        elif value in own:
            raise ValueError(f"{output.name!r} depends on input {value.name!r}, which is not given")
        elif op is not None and op.erased:
            raise ValueError(f"expected values of this graph, got {value.name!r}")
        elif op is not None and op not in needed:
            needed.add(op)
            worklist += [(v, output) for v in op.inputs if v is not None]
    ops = [op for op in graph.ops if op in needed]
    made = [v for v in dict.fromkeys(outputs) if v not in given and v.producer is not None]
    return Part(ops, list(inputs), [value for value in inputs if value in read], made)


def assembled(part: Part, outputs: Sequence[Value], compute: Compute) -> Compute:
    """`compute`, from the arrays that the part reads to those it makes, as the caller asked for."""
    wanted = list(outputs)
    place = {value: index for index, value in enumerate(part.outputs)}
    taken = [part.inputs.index(value) for value in part.read]
    passed = {value: index for index, value in enumerate(part.inputs)}

    def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        if len(arrays) != len(part.inputs):
            names = [value.name for value in part.inputs]
            raise ValueError(f"expected {len(names)} arrays {names}, got {len(arrays)}")
        made = compute([arrays[index] for index in taken])
        return [
            made[place[value]]
            if value in place
            else np.asarray(arrays[passed[value]])
            if value in passed
            else value.array()
            for value in wanted
        ]

    return run
