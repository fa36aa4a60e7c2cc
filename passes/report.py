"""What a compilation did: what each pass changed and left alone and why, sizes, errors."""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..errors import InvalidInput
from ..graph import Graph
from ..graph.cost import graph_cost, payloads
from ..graph.cost_extents import Sizes
from ..graph.cost_layers import AttentionLayer, attention_layers
from .base import LayerQuality, Refusal


@dataclass
class PassReport:
    """One pass of the pipeline.

    Attributes:
        spec: the pass, with its parameters.
        applied: names of the sites rewritten.
        refused: (site, why) for every site left alone.
        excluded: names of the sites that `exclude=` kept the pass off.
        layers: what a lossy pass made of each op.
        ops_before, ops_after: number of ops of each kind.
        seconds: time in the pass, matching included.
    """

    spec: str
    applied: list[str] = field(default_factory=list)
    refused: list[tuple[str, Refusal]] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    layers: list[LayerQuality] = field(default_factory=list)
    ops_before: dict[str, int] = field(default_factory=dict)
    ops_after: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.spec.partition("(")[0]

    @property
    def reasons(self) -> dict[str, int]:
        """How many sites were left alone for each reason."""
        return dict(Counter(refusal.reason for _, refusal in self.refused))


@dataclass(frozen=True)
class OutputError:
    """Disagreement of one output between the original and the result.

    Attributes:
        name: the output.
        max_abs: max |Δ|.
        peak: max |y| of the original.
        tolerance: the bound on max_abs that verification used.
        snr_db: signal-to-noise ratio, 10·log₁₀(Σy²/ΣΔ²); inf for equal outputs.
        detail: what differs, where it is not the numbers (shape, type, no result at all).
        cosine: Σy·ŷ/(‖y‖·‖ŷ‖); 1 for equal outputs, nan where it was not or cannot be measured.
    """

    name: str
    max_abs: float
    peak: float
    tolerance: float
    snr_db: float
    detail: str = ""
    cosine: float = float("nan")

    @property
    def relative(self) -> float:
        """The largest |Δ| over the largest |y|."""
        return self.max_abs / self.peak if self.peak else self.max_abs


@dataclass(frozen=True)
class Size:
    """What a graph holds, and what one run of it costs; `graph/cost.py` says what is counted.

    Attributes:
        ops: number of ops of each kind.
        parameters: elements of all constants that are read.
        bytes: their size.
        flops: floating-point operations.
        activation_bytes: results that are written.
        kv_bytes: keys and values of all attentions, as a cache would hold them.
        flops_by_kind: operations by kind of op, most first, without kinds that have none.
        symbols: symbolic dimensions that count as 1: the four numbers above are per unit of them.
        unknown: number of ops of each kind whose operations are not counted.
        layers: one entry per attention; plain data, of a report that was saved, will do.
    """

    ops: dict[str, int]
    parameters: int
    bytes: int
    flops: int = 0
    activation_bytes: int = 0
    kv_bytes: int = 0
    flops_by_kind: dict[str, int] = field(default_factory=dict)
    symbols: list[str] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    layers: list[AttentionLayer] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make layers of plain data."""
        layers = [AttentionLayer(**one) if isinstance(one, dict) else one for one in self.layers]
        object.__setattr__(self, "layers", layers)

    @classmethod
    def of(cls, graph: Graph, sizes: "Sizes | None" = None) -> "Size":
        """Measure a graph, with these numbers for symbolic dimensions."""
        cost = graph_cost(graph, sizes)
        layers = attention_layers(graph, cost)
        held = payloads(graph.constants())
        return cls(
            ops=count_ops(graph),
            parameters=sum(int(np.prod(one.shape, dtype=np.int64)) for one in held),
            bytes=cost.total.parameter_bytes,
            flops=cost.total.flops,
            activation_bytes=cost.total.activation_bytes,
            kv_bytes=sum(layer.kv_bytes for layer in layers),
            flops_by_kind={kind: one.flops for kind, one in cost.kinds.items() if one.flops},
            symbols=list(cost.symbols),
            unknown=cost.unknown,
            layers=layers,
        )

    @property
    def uncounted(self) -> str:
        """What the numbers leave out, in words; empty where nothing is."""
        units = ", ".join(f"{name} = 1" for name in self.symbols)
        left_out = ", ".join(f"{kind} {count}" for kind, count in self.unknown.items())
        parts = [units and f"with {units}", left_out and f"not counted: {left_out}"]
        return "; ".join(filter(None, parts))


@dataclass
class Report:
    """Everything that one call did. Print it, or take `to_dict` / `to_json`.

    Attributes:
        model: what was optimized.
        passes: one entry per pass, in order.
        before, after: sizes of the graph.
        errors: per output, when the result was verified.
        verified: how it was verified, or why not.
        stages: seconds of each stage (capture, passes, lower, verify, ...).
        notes: what else the user should know (fallbacks, split tables).
        chosen: what lowering chose by measurement, with the medians (ms) it saw.
        evaluation: "before" and "after", what the caller's `evaluate=` measured: numbers by name.
    """

    model: str = ""
    passes: list[PassReport] = field(default_factory=list)
    before: Size = field(default_factory=lambda: Size({}, 0, 0))
    after: Size = field(default_factory=lambda: Size({}, 0, 0))
    errors: list[OutputError] = field(default_factory=list)
    verified: str = "not verified"
    stages: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    chosen: dict[str, object] = field(default_factory=dict)
    evaluation: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def layers(self) -> list[LayerQuality]:
        """What lossy passes made of each op, in the order of the graph."""
        return [layer for entry in self.passes for layer in entry.layers]

    def why_not(self, pass_name: str, node: str) -> str:
        """Why a pass left a node alone, in words.

        Raises:
            InvalidInput: the pass did not run.
        """
        name = pass_name.replace("_", "-")
        entries = [entry for entry in self.passes if entry.name == name]
        if not entries:
            ran = ", ".join(dict.fromkeys(entry.name for entry in self.passes)) or "none"
            raise InvalidInput(f"expected a pass that ran ({ran}), got {pass_name!r}")
        for entry in reversed(entries):
            for site, refusal in entry.refused:
                if node in (site, refusal.node):
                    return str(refusal)
            if node in entry.excluded:
                return "excluded by the caller"
        if any(node in entry.applied for entry in entries):
            return f"{name} did apply at {node}"
        return f"{name} found nothing to do at {node}"

    def to_dict(self) -> dict[str, object]:
        """The report as plain data, ready for JSON."""
        plain = asdict(self)
        for entry, source in zip(plain["passes"], self.passes, strict=True):
            entry["refused"] = [{"site": site, **asdict(why)} for site, why in source.refused]
            entry["reasons"] = source.reasons
        return _finite(plain)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` to a file, beside it first and then renamed."""
        target = Path(path)
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(target)
        except OSError as error:
            raise InvalidInput(
                f"expected a writable path for the report, got {path}: {error}"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def __str__(self) -> str:
        from .report_text import render

        return render(self)


def count_ops(graph: Graph) -> dict[str, int]:
    """Number of ops of each kind, most frequent first."""
    return dict(Counter(op.kind for op in graph.ops).most_common())


def _finite(value: object) -> "dict[str, object]":
    """JSON has no infinity: write it as a string."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]  # type: ignore[return-value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)  # type: ignore[return-value]
    return value  # type: ignore[return-value]
