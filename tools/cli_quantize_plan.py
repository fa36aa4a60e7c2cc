"""`passel quantize --dry-run`: which ops would be quantized, how, and what it would take."""

from dataclasses import dataclass
from math import ceil, prod

from rich.table import Table
from rich.text import Text

from ..execution import lift
from ..graph import Graph, Op, bits_of
from ..graph.cost import payloads
from ..graph.onnx_io import read
from ..passes import Quantize
from ..passes.base import Refusal
from ..passes.driver import run_passes
from ..passes.quantization.candidates import is_quantized, matrix_shape, weight_of
from ..passes.quantization.place import Form
from ..passes.quantization.rounded import Format
from ..passes.quantization.work import Work
from .cli_optimize import Order, at_opset, job_of, taken_in
from .cli_quantize_run import SHOWN, refusals_table
from .cli_screen import Working
from .cli_tables import change, columns, labelled, size

SCALE_BYTES = 4


@dataclass(frozen=True)
class Planned:
    """One op that would be quantized.

    Attributes:
        before, after: bytes of its weight, as it is and about as it will be.
    """

    op: Op
    form: Form
    before: int
    after: int


def planned(order: Order, one: Quantize, working: Working) -> list[str | Table]:
    """Run the passes before the quantization, and tell what that would do; write nothing.

    Raises:
        PasselError: the model, an option or the calibration data is unfit.
    """
    job = job_of(order, working)
    working.say(f"reading {order.model}")
    model = read(order.model)
    taken_in(order, model, job)
    graph = lift(at_opset(model, order.opset, job), order.threads)
    run_passes(graph, job.passes[: job.passes.index(one)], context=job.context)
    working.say("looking for ops to quantize")
    if is_quantized(graph):
        return ["the model is quantized already", "nothing was written (--dry-run)"]
    work = Work(one.settled(graph, job.context), graph)
    work.check_names()
    forms = dict(work.forms())
    chosen = [_planned(op, form) for op, form in forms.items() if isinstance(form, Form)]
    left = [(op.name, why) for op, why in forms.items() if isinstance(why, Refusal)]
    parts: list[str | Table] = [_table(chosen)] if chosen else ["nothing would be quantized"]
    parts += [refusals_table(left)] if left else []
    parts += _lines(graph, work, chosen)
    parts += [labelled("note", note) for note in job.context.notes]
    return [*parts, "nothing was written (--dry-run)"]


def _planned(op: Op, form: Form) -> Planned:
    shape, dtype = matrix_shape(op), weight_of(op).dtype
    assert dtype is not None
    return Planned(op, form, prod(shape) * dtype.itemsize, weight_bytes(shape, form.weight))


def weight_bytes(shape: tuple[int, ...], form: Format) -> int:
    """About what a weight [O, I] takes in a format: codes, float32 scales and zero points."""
    rows, width = shape
    bits = bits_of(form.grid.dtype)
    scales = 1 if form.block < 0 else rows * form.blocks(width)
    zeros = 0 if form.grid.symmetric else scales * bits
    return ceil((prod(shape) * bits + zeros) / 8) + scales * SCALE_BYTES


def _table(chosen: list[Planned]) -> Table:
    """The largest weights, and the rest as one row."""
    table = columns("op", "weight", "form", "now", "then, about", left=(0, 1, 2))
    ordered = sorted(chosen, key=lambda one: -one.before)
    for one in ordered[:SHOWN]:
        extents = "×".join(map(str, matrix_shape(one.op)))
        cells = Text(one.op.name), extents, Text(str(one.form))
        table.add_row(*cells, size(one.before), size(one.after))
    rest = ordered[SHOWN:]
    if rest:
        sums = sum(one.before for one in rest), sum(one.after for one in rest)
        table.add_row(f"… {len(rest)} more", "", "", *map(size, sums))
    return table


def _lines(graph: Graph, work: Work, chosen: list[Planned]) -> list[str]:
    held = sum(payload.nbytes for payload in payloads(graph.constants()))
    weights = {id(weight_of(one.op)): one for one in chosen}.values()
    then = held + sum(one.after - one.before for one in weights)
    sizes = f"{size(held)} of weights now, about {size(then)} then ({change(held, then) or '±0%'})"
    lines = [labelled("size", f"{len(chosen)} ops; {sizes}")]
    if work.asked.budget:
        lines.append(labelled("budget", f"{work.asked.budget}: forms may change while it runs"))
    found = work.estimate([(one.op, one.form) for one in chosen])
    needs = str(found) if found is not None else "needs no more memory than the model and one copy"
    return [*lines, labelled("memory", needs)]
