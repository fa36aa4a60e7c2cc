"""What passel sees in a model: residual streams, and what each pass would do and why not.

Everything runs on lifted copies; the model itself stays as it is.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..capture import OPSET
from ..execution import lift
from ..graph import Graph
from ..graph.onnx_io import raise_opset, read
from ..passes.base import Pass, Refusal
from ..passes.driver import run_pass, run_passes
from ..passes.registry import DEFAULT, PASSES, resolve
from ..passes.report import PassReport, Size, count_ops
from ..passes.streams import Stream, find_streams
from .cli_facts import Facts, facts

NORMS = ("layer", "rms", "crms")
FIRST = ("eliminate-dead-code", "fold-constants", "canonicalize")
"""After these a decomposed norm is one op, so streams can be found."""

AnyPass = Pass[Any]


@dataclass(frozen=True)
class StreamFacts:
    """One residual stream: what writes it, what reads it, what keeps its basis as it is."""

    name: str
    width: int
    writers: list[str]
    readers: list[str]
    blockers: list[str]

    @classmethod
    def of(cls, stream: Stream) -> "StreamFacts":
        writers = [w.value.name if w.op is None else w.op.name for w in stream.writers]
        readers = [norm.name for norm in stream.readers]
        return cls(stream.name, stream.width, writers, readers, [str(b) for b in stream.blockers])


@dataclass(frozen=True)
class PassFacts:
    """What one pass would do.

    Attributes:
        spec: the pass.
        default: whether it is part of the default pipeline.
        sites: ops where it would apply.
        refused: (site, why) where it would not.
        ops_before, ops_after: op counts around it; the same for a pass that was only asked.
    """

    spec: str
    default: bool
    sites: list[str] = field(default_factory=list)
    refused: list[tuple[str, Refusal]] = field(default_factory=list)
    ops_before: dict[str, int] = field(default_factory=dict)
    ops_after: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class OpFacts:
    """One op as `--exclude` can name it."""

    name: str
    kind: str
    scope: str


@dataclass(frozen=True)
class Inspection:
    """Everything `passel inspect` shows.

    Attributes:
        model: the file.
        facts: counts and sizes of the file.
        ops: every op of the lifted graph.
        size: what the lifted graph holds, and what a run of it costs.
        streams: residual streams after the first passes.
        passes: the default pipeline in order, then the passes that are run only if asked for.
        notes: what else to know.
    """

    model: str
    facts: Facts
    ops: list[OpFacts]
    size: Size
    streams: list[StreamFacts]
    passes: list[PassFacts]
    notes: list[str]

    @property
    def kinds(self) -> dict[str, int]:
        """Number of lifted ops of each kind."""
        found: dict[str, int] = {}
        for op in self.ops:
            found[op.kind] = found.get(op.kind, 0) + 1
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def to_dict(self) -> dict[str, object]:
        """As plain data, ready for JSON."""
        plain = asdict(self)
        for entry, source in zip(plain["passes"], self.passes, strict=True):
            entry["refused"] = [{"site": site, **asdict(why)} for site, why in source.refused]
        plain["kinds"] = self.kinds
        return plain


def inspect(path: Path) -> Inspection:
    """Look at a file.

    Raises:
        PasselError: the file cannot be read or lifted.
    """
    model = read(path)
    counted = facts(model, path)
    raised, note = raise_opset(model, OPSET)
    graph = lift(raised)
    return Inspection(
        str(path),
        counted,
        [OpFacts(op.name, op.kind, op.scope) for op in graph.ops],
        Size.of(graph),
        streams(raised),
        outlook(raised),
        [note] if note else [],
    )


def streams(model: ir.Model) -> list[StreamFacts]:
    """The residual streams, once norms are recognised."""
    graph = lift(model)
    run_passes(graph, resolve(FIRST))
    return [StreamFacts.of(stream) for stream in find_streams(graph, NORMS)]


def outlook(model: ir.Model) -> list[PassFacts]:
    """Run the default pipeline on a copy; ask the other passes what they would do after it."""
    graph = lift(model)
    found = [_from_report(run_pass(graph, one)) for one in DEFAULT]
    ran = {one.name for one in DEFAULT}
    others = [kind() for name, kind in PASSES.items() if name not in ran]
    return _merged(found) + [_asked(graph, one) for one in others]


def _asked(graph: Graph, one: AnyPass) -> PassFacts:
    counts = count_ops(graph)
    found = PassFacts(one.spec, default=False, ops_before=counts, ops_after=counts)
    for site in one.match(graph):
        refusal = one.refuse(graph, site)
        if refusal is None:
            found.sites.append(site.anchor.name)
        else:
            found.refused.append((site.anchor.name, refusal))
    return found


def _from_report(report: PassReport) -> PassFacts:
    before, after = report.ops_before, report.ops_after
    return PassFacts(report.spec, True, report.applied, report.refused, before, after)


def _merged(found: Sequence[PassFacts]) -> list[PassFacts]:
    """One entry a pass: sites of all runs, refusals of the last one, op counts by difference."""
    merged: dict[str, PassFacts] = {}
    for entry in found:
        old = merged.get(entry.spec)
        if old is not None:
            change = _added(_added(old.ops_after, entry.ops_after), entry.ops_before, -1)
            sites = old.sites + entry.sites
            entry = PassFacts(entry.spec, True, sites, entry.refused, old.ops_before, change)
        merged[entry.spec] = entry
    return list(merged.values())


def _added(left: dict[str, int], right: dict[str, int], sign: int = 1) -> dict[str, int]:
    kinds = dict.fromkeys([*left, *right])
    return {kind: left.get(kind, 0) + sign * right.get(kind, 0) for kind in kinds}
