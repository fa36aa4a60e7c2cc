"""A model compiled by TVM: code, weights, and what there is to say about them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...graph import Graph
from ..explain import InputSpec
from .aligned import keep_aligned
from .code import Code
from .host import missing_features
from .machine import Machine

if TYPE_CHECKING:
    from .emit import Emitted
    from .tuned import Tuned


UNCHECKED = (
    "no schedule was compared with the unscheduled form of its kernel: this CPU lacks {}, so that "
    "it cannot run them"
)


@dataclass
class TvmModel:
    """A graph in machine code.

    Attributes:
        code: what the Relax VM runs.
        constants: weights, packed as the kernels want them, each on a 64-byte boundary.
        machine: the machine that it was compiled for.
        inputs: what it takes, in order.
        outputs: how many arrays it returns.
        notes: what the user should know, of the kernels and else.
    """

    code: Code
    constants: list[np.ndarray]
    machine: Machine
    inputs: tuple[InputSpec, ...]
    outputs: int
    notes: list[str] = field(default_factory=list)

    @property
    def rules(self) -> dict[str, str]:
        """Name of the rule that scheduled each kernel."""
        return self.code.rules

    @property
    def serial(self) -> list[str]:
        """Kernels that no rule took; they run on one core, without vectors."""
        return self.code.serial


def build_model(
    graph: Graph, machine: Machine, *, check: bool = True, tuned: "Tuned | None" = None
) -> TvmModel:
    """Compile a graph for a machine; code that was checked and kept before is loaded instead.

    Args:
        graph: what to compile; it is not changed.
        machine: what to compile it for.
        check: compare every scheduled kernel with its unscheduled form, and use the latter where
            they disagree. Only where this machine can run the code.
        tuned: schedules that were found by measurement.

    Raises:
        UnsupportedModel: operators that there is no spelling for; it names them all.
        BackendUnavailable: TVM is missing.
    """
    from .available import require

    require(machine.threads)
    from .emit import emit
    from .kept_code import checked_code, compiled_code

    emitted = emit(graph, machine)
    missing = missing_features(machine) if check else []
    if missing:
        emitted.notes.append(UNCHECKED.format(", ".join(missing[:4])))
    if check and not missing:
        code = checked_code(emitted.module, machine, tuned)
    else:
        code = compiled_code(emitted.module, machine, tuned)[0]
    return model_of(graph, machine, emitted, code)


def model_of(graph: Graph, machine: Machine, emitted: "Emitted", code: Code) -> TvmModel:
    """What was compiled of a graph, with its weights."""
    keep_aligned(emitted.constants)
    inputs = (InputSpec(v.name, str(v.dtype), tuple(v.shape or ())) for v in graph.inputs)
    notes = [*emitted.notes, *code.notes]
    return TvmModel(code, emitted.constants, machine, tuple(inputs), len(graph.outputs), notes)
