"""An inspection as text: the file, its streams, and what each pass would do."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.table import Table

from ..passes.report import Size
from ..passes.report_text import grouped as grouped_rows
from ..passes.report_text import tokens
from .cli_facts import Facts, TensorFacts
from .cli_tables import KINDS, changed, columns, labelled, operations, size
from .inspect_model import Inspection, PassFacts, StreamFacts

NAMES = 3
"""Names that a list of writers or readers shows."""


def inspection_parts(found: Inspection, largest: int, with_ops: bool) -> list[str | Table]:
    """Everything, in the order of a first look."""
    parts: list[str | Table] = [
        *headlines(found),
        values_table(found.facts),
        tensors_table(found.facts.tensors[:largest]),
        *cost_parts(found.size),
        *stream_parts(found.streams),
        passes_table(found.passes),
    ]
    if any(entry.refused for entry in found.passes):
        parts.append(refusals_table(found.passes))
    parts += [labelled("note", note) for note in found.notes]
    if with_ops:
        parts.append(ops_table(found))
    return parts


def headlines(found: Inspection) -> list[str]:
    """Size and op counts."""
    counted = found.facts
    return [
        labelled("model", f"{found.model}, opset {counted.opset}, {size(counted.file_bytes or 0)}"),
        labelled("weights", f"{counted.parameters:,} parameters, {size(counted.bytes)}"),
        labelled("ops", f"{counted.total_ops:,}: {counts(counted.ops)}"),
        labelled("for passes", f"{len(found.ops):,}: {counts(found.kinds)}"),
        labelled("one run", cost_line(found.size)),
    ]


def cost_line(cost: Size) -> str:
    """What a run computes, reads and writes, and what that leaves out."""
    line = f"{operations(cost.flops)}, reads {size(cost.bytes)} of parameters"
    line += f", writes {size(cost.activation_bytes)} of activations"
    return "; ".join(filter(None, (line, cost.uncounted)))


def counts(ops: Mapping[str, int]) -> str:
    """Op counts in one line."""
    return ", ".join(f"{kind} {count}" for kind, count in ops.items())


def values_table(counted: Facts) -> Table:
    """Inputs and outputs."""
    table = columns("", "name", "type", "shape", left=range(4))
    for label, values in (("input", counted.inputs), ("output", counted.outputs)):
        for position, value in enumerate(values):
            table.add_row(label if not position else "", value.name, value.dtype, value.shape_text)
    return table


def tensors_table(tensors: Sequence[TensorFacts]) -> Table:
    """The largest weights."""
    table = columns("largest weights", "type", "shape", "size", left=(0, 1, 2))
    for tensor in tensors:
        table.add_row(tensor.name, tensor.dtype, tensor.shape_text, size(tensor.bytes))
    return table


def cost_parts(cost: Size) -> list[Table]:
    """Operations by kind of op, and the attention layers."""
    tables = [kinds_table(cost)] if cost.flops else []
    return tables + ([layers_table(cost)] if cost.layers else [])


def kinds_table(cost: Size) -> Table:
    """Operations by kind of op."""
    table = columns("operations", "ops", "FLOPs", "share")
    for kind, flops in list(cost.flops_by_kind.items())[:KINDS]:
        share = f"{100 * flops / cost.flops:.1f}%"
        table.add_row(kind, f"{cost.ops[kind]:,}", operations(flops), share)
    rest = list(cost.flops_by_kind.values())[KINDS:]
    if rest:
        share = f"{100 * sum(rest) / cost.flops:.1f}%"
        table.add_row(f"… {len(rest)} more kinds", "", operations(sum(rest)), share)
    return table


def layers_table(cost: Size) -> Table:
    """Every attention, with what belongs to it; equal ones next to each other in one row."""
    table = columns("attention", "tokens q/kv", "heads q/kv", "FLOPs", "KV cache")
    rows = [
        (
            layer.label,
            tokens(layer),
            f"{layer.heads}/{layer.kv_heads}",
            operations(layer.flops),
            size(layer.kv_bytes),
        )
        for layer in cost.layers
    ]
    for names, cells in grouped_rows(rows):
        table.add_row(names, *cells)
    total = sum(layer.flops for layer in cost.layers)
    table.add_row("all", "", "", operations(total), size(cost.kv_bytes))
    return table


def stream_parts(streams: Sequence[StreamFacts]) -> list[str | Table]:
    """Residual streams and what keeps their basis as it is."""
    if not streams:
        return [labelled("streams", "none (no norm over a feature axis of known width)")]
    table = columns("residual streams", "width", "writers", "readers", "basis", left=(0, 4))
    for stream in streams:
        basis = "free" if not stream.blockers else f"fixed: {grouped(stream.blockers)}"
        numbers = str(stream.width), str(len(stream.writers)), str(len(stream.readers))
        table.add_row(stream.name, *numbers, basis)
    return [table]


def grouped(blockers: Sequence[str]) -> str:
    """The first blocker, and how many more there are."""
    return blockers[0] + (f" (and {len(blockers) - 1} more)" if len(blockers) > 1 else "")


def passes_table(passes: Sequence[PassFacts]) -> Table:
    """What each pass would do."""
    table = columns("pass", "sites", "left alone", "effect", left=(0, 3))
    for entry in passes:
        sites, left = (str(len(some)) if some else "-" for some in (entry.sites, entry.refused))
        name = entry.spec if entry.default else f"{entry.spec} *"
        table.add_row(name, sites, left, _effect(entry))
    table.caption, table.caption_justify = "* only if asked for with --passes", "left"
    return table


def _effect(entry: PassFacts) -> str:
    if not entry.sites:
        return "nothing found" if not entry.refused else "nothing"
    if not entry.default:
        return f"at {', '.join(entry.sites[:NAMES])}" + (" …" if len(entry.sites) > NAMES else "")
    before, after = entry.ops_before, entry.ops_after
    moves = [f"{k} {after.get(k, 0) - before.get(k, 0):+d}" for k in changed(before, after)]
    return ", ".join(moves) or "weights only"


def refusals_table(passes: Sequence[PassFacts]) -> Table:
    """Every reason to leave something alone, with its number and an example."""
    table = columns("left alone by", "sites", "why", "for example", left=(0, 2, 3))
    for entry in passes:
        reasons = Counter(refusal.reason for _, refusal in entry.refused)
        for position, (reason, count) in enumerate(reasons.most_common()):
            site, refusal = next(pair for pair in entry.refused if pair[1].reason == reason)
            example = " ".join(filter(None, (refusal.node or site, refusal.detail)))
            table.add_row(entry.spec if not position else "", str(count), reason, example)
    return table


def ops_table(found: Inspection) -> Table:
    """Every op, as `--exclude` can name it."""
    table = columns("op", "kind", "module", left=range(3))
    for op in found.ops:
        table.add_row(op.name, op.kind, op.scope)
    return table
