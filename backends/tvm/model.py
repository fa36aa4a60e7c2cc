"""A model compiled by TVM: code, weights, and what there is to say about them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...graph import Graph
from ..explain import InputSpec
from .aligned import keep_aligned
from .host import missing_features
from .machine import Machine

if TYPE_CHECKING:
    import tvm

    from .emit import Emitted
    from .schedules import Scheduled
    from .tuned import Tuned


UNCHECKED = (
    "no schedule was compared with the unscheduled form of its kernel: this CPU lacks {}, so that "
    "it cannot run them"
)


@dataclass
class TvmModel:
    """A graph in machine code.

    Attributes:
        library: what the Relax VM runs: fresh from the compiler, or loaded from a file.
        constants: weights, packed as the kernels want them, each on a 64-byte boundary.
        machine: the machine that it was compiled for.
        inputs: what it takes, in order.
        outputs: how many arrays it returns.
        rules: name of the rule that scheduled each kernel.
        serial: kernels that no rule took; they run on one core, without vectors.
        notes: what the user should know.
        code: the files that the library was loaded from, by suffix; None for a fresh one.
    """

    library: "tvm.relax.VMExecutable | tvm.runtime.Module"
    constants: list[np.ndarray]
    machine: Machine
    inputs: tuple[InputSpec, ...]
    outputs: int
    rules: dict[str, str] = field(default_factory=dict)
    serial: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    code: dict[str, bytes] | None = field(default=None, repr=False)


def build_model(
    graph: Graph, machine: Machine, *, check: bool = True, tuned: "Tuned | None" = None
) -> TvmModel:
    """Compile a graph for a machine.

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
    from .pipeline import build

    emitted = emit(graph, machine)
    missing = missing_features(machine) if check else []
    if missing:
        emitted.notes.append(UNCHECKED.format(", ".join(missing[:4])))
    runs_here = check and not missing
    executable, scheduled = build(emitted.module, machine, check=runs_here, tuned=tuned)
    return model_of(graph, machine, emitted, (executable, scheduled), _notes(scheduled))


def model_of(
    graph: Graph,
    machine: Machine,
    emitted: "Emitted",
    built: "tuple[tvm.relax.VMExecutable, Scheduled]",
    notes: list[str],
) -> TvmModel:
    """What was compiled of a graph, with its weights; `notes` are about its kernels."""
    executable, scheduled = built
    keep_aligned(emitted.constants)
    return TvmModel(
        executable,
        emitted.constants,
        machine,
        tuple(InputSpec(v.name, str(v.dtype), tuple(v.shape or ())) for v in graph.inputs),
        len(graph.outputs),
        scheduled.rules,
        scheduled.serial,
        [*emitted.notes, *notes],
    )


def _notes(scheduled: "Scheduled") -> list[str]:
    """What went wrong while the kernels were scheduled."""
    rejected = (
        f"kernel {name!r} runs unscheduled: its schedule computes something else ({why})"
        for name, why in sorted(scheduled.rejected.items())
    )
    failed = (
        f"TVM refused to schedule {at}: {why}" for at, why in sorted(scheduled.failed.items())
    )
    return [*rejected, *failed]
