"""passel's passes as `onnx_ir` passes, so that tools built on onnx_ir can adopt them.

import onnx_ir as ir, passel
pipeline = ir.passes.Sequential(passel.onnx_pass("recenter"), SomeOtherPass())
model = pipeline(ir.load("model.onnx")).model
"""

import onnx_ir as ir

from ..graph import onnx as onnx_view
from ..passes.driver import Exclude, run_passes
from ..passes.registry import Request, resolve
from ..passes.report import PassReport


class OnnxPass(ir.passes.FunctionalPass):
    """One or more passel passes with onnx_ir's interface; the model given is left as it is.

    Args:
        passes: names, specs, pass objects, or "default".
        exclude: as in `passel.optimize`.

    Attributes:
        reports: what the last call did, one entry per pass.
    """

    def __init__(self, passes: Request = "default", *, exclude: Exclude = ()) -> None:
        self.passes = resolve(passes)
        self.exclude = exclude
        self.reports: list[PassReport] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lift, run, lower.

        `modified` is false too where a pass only recognised something, and it is written as before.
        """
        graph = onnx_view.lift(model)
        self.reports = run_passes(graph, self.passes, exclude=self.exclude)
        lowered = graph.binding.lower(graph)
        applied = any(report.applied for report in self.reports)
        return ir.passes.PassResult(lowered, applied and _written(lowered) != _written(model))


def _written(model: ir.Model) -> list[object]:
    """What two models have in common that say the same with the same weights."""
    nodes = [
        (
            node.domain,
            node.op_type,
            str(sorted(node.attributes.items())),
            [value and value.name for value in (*node.inputs, *node.outputs)],
        )
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
    ]
    return [*nodes, {n: id(value.const_value) for n, value in model.graph.initializers.items()}]


def onnx_pass(passes: Request = "default", *, exclude: Exclude = ()) -> OnnxPass:
    """The given passes as one `onnx_ir.passes.PassBase`."""
    return OnnxPass(passes, exclude=exclude)
