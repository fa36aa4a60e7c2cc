"""Spell a graph in Relax: one function `main` from the graph's inputs and constants to its outputs.

Weights are parameters of `main`, not part of the module, so that one compiled library serves every
set of weights of the same shapes.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ....errors import UnsupportedModel
from ....graph import Graph, Op
from ..machine import Machine
from .dims import Dims
from .emission import Emission
from .emitter import Emitter
from .table import emission_of

if TYPE_CHECKING:
    import tvm


@dataclass
class Emitted:
    """A graph in Relax.

    Attributes:
        module: `main` takes the graph's inputs, then `constants`, and returns a tuple.
        constants: arrays for the parameters behind the inputs, packed as the kernels want them.
        notes: what the user should know.
    """

    module: "tvm.IRModule"
    constants: list[np.ndarray]
    notes: list[str] = field(default_factory=list)


def emit(graph: Graph, machine: Machine) -> Emitted:
    """The graph as a Relax module.

    What nothing reads is not emitted; nor is what a larger pattern covers.

    Args:
        graph: the program.
        machine: what the kernels are for.

    Raises:
        UnsupportedModel: operators that there is no spelling for; it names them all.
    """
    dims = Dims(graph.inputs)
    chosen = choose(graph, machine, dims)
    emitter = Emitter(graph, machine, dims)
    module = emitter.function(chosen)
    return Emitted(module, emitter.constants, emitter.notes)


def choose(graph: Graph, machine: Machine, dims: Dims) -> list[Emission]:
    """How each op that is needed is emitted, in topological order."""
    needed = set(graph.outputs)
    found: list[Emission] = []
    missing: dict[str, list[str]] = {}
    covered: set[Op] = set()
    for op in reversed(list(graph.ops)):
        if op in covered or (not op.effectful and needed.isdisjoint(op.outputs)):
            continue
        emission = emission_of(op, machine, dims)
        if emission is None:
            missing.setdefault(op.kind, []).append(op.name)
            continue
        covered.update(emission.also)
        needed.update(emission.reads)
        needed.update(value for value in emission.shapes if not dims.spells(value))
        found.append(emission)
    if missing:
        raise UnsupportedModel(f"TVM: no lowering for {_listed(missing)}")
    return found[::-1]


def _listed(missing: dict[str, list[str]]) -> str:
    """Kinds of operators, how many there are of each, and the first of them by name."""
    return ", ".join(
        f"{kind} ({len(names)}, first {names[-1]!r})" for kind, names in sorted(missing.items())
    )
