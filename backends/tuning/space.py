"""The search space: every decision that lowering leaves open, and plans made of decisions.

A decision is a name with options, the usual one first. Which there are follows from the model: a
pass that finds nothing to do is no decision. Decisions depend on each other (a form of ONNX
Runtime's means nothing to TVM), so a plan is made by asking for one value after the other; whoever
answers, a sampler or a table of values, sees only the names that count.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...graph import Graph
from ...passes.base import AnyPass
from ...passes.compress import Compress
from ...passes.driver import run_pass
from ..choices import SessionChoice
from ..select import FORM
from .plan import EXPORTED, Plan

OFF, ON = "off", "on"
PREPARING = ("eliminate-dead-code", "fold-constants", "canonicalize")
"""Passes that only show others what is there: always kept."""
SCHEMES = (
    "quantize",
    "quantize(placement='all')",
    "quantize(weights='hadamard')",
    "quantize(scheme='w8')",
    "quantize(scheme='w4')",
)
"""What a bound on the error allows to try."""
BY_ROW = "quantize(scheme='int8-per-token')"
"""The same, for a runtime with kernels for it: TVM."""
STATIC = ("quantize(scheme='int8')", "quantize(scheme='int8-mixed')")
"""The same, where there are real inputs to take ranges from."""

Value = str | int | bool
Suggest = Callable[[str, "tuple[Value, ...]"], Any]
"""Picks one of the options of a decision."""


@dataclass(frozen=True)
class Space:
    """The decisions of one model on one machine.

    Attributes:
        pipeline: name and spec of every pass that may run, in order.
        variants: specs to choose from, by name of a pass; OFF leaves it out.
        backends: what there is to run on, the usual one first.
        schemes: specs of `quantize` to choose from.
        cores: processors that may be used.
        threads: what the caller fixed; 0 leaves it open.
        throughput: whether as many calls as fit the cores run at once.
        kernel_seconds: how long TVM's kernels may be tuned for a plan; 0 leaves them as they are.
    """

    pipeline: tuple[tuple[str, str], ...] = ()
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    backends: tuple[str, ...] = ("onnxruntime",)
    schemes: tuple[str, ...] = ()
    cores: tuple[int, ...] = (0,)
    threads: int = 0
    throughput: bool = False
    kernel_seconds: float = 0.0

    @property
    def baseline(self) -> Plan:
        """Plain ONNX Runtime on the model as it came, or the first backend if there is none."""
        streams = self._streams(self.threads)
        if "onnxruntime" not in self.backends:
            backend = self.backends[0]
            return Plan(backend=backend, form="", threads=self.threads, streams=streams)
        return Plan(threads=self.threads, streams=streams)

    def plan(self, suggest: Suggest) -> Plan:
        """The plan that some values make."""
        backend = suggest("backend", self.backends)
        if backend == "onnxruntime" and suggest("passes", (ON, OFF)) == OFF:
            return self._on_onnxruntime((), EXPORTED, suggest)
        passes = tuple(self._passes(backend, suggest))
        if backend == "onnxruntime":
            return self._on_onnxruntime(passes, suggest("form", FORM.options), suggest)
        threads = suggest("workers", self._threads[1:] or self._threads)
        streams = self._streams(threads) if backend == "torch" else 1
        tuned = self._tunes(backend) and suggest("kernels", (OFF, ON)) == ON
        seconds = self.kernel_seconds if tuned else 0.0
        return Plan(passes, backend, "", threads=threads, streams=streams, kernels=seconds)

    def _tunes(self, backend: str) -> bool:
        return backend == "tvm" and self.kernel_seconds > 0

    def _passes(self, backend: str, suggest: Suggest) -> Iterator[str]:
        """Every pass decides once, however often it runs."""
        chosen = {name: suggest(name, options) for name, options in self.variants.items()}
        for name, spec in self.pipeline:
            if chosen.get(name, spec) != OFF:
                yield chosen.get(name, spec)
        if backend == "torch" and suggest("merge-linears", (OFF, ON)) == ON:
            yield "merge-linears"  # the forms of the other backends do the same
        if self.schemes and backend != "torch":
            scheme = suggest("scheme", (OFF, *self.schemes))
            if scheme != OFF:
                yield scheme

    def _on_onnxruntime(self, passes: tuple[str, ...], form: str, suggest: Suggest) -> Plan:
        threads = suggest("threads", self._threads)
        choice = SessionChoice(
            level=suggest("level", ("all", "extended", "basic")),
            spinning=suggest("spinning", (True, False)),
        )
        pinned = 1 < threads <= len(self.cores) and suggest("affinity", (OFF, ON)) == ON
        affinity = self.cores[:threads] if pinned else ()
        streams = self._streams(threads)
        return Plan(passes, "onnxruntime", form, choice, threads, affinity, streams)

    @property
    def _threads(self) -> tuple[int, ...]:
        """0 is what ONNX Runtime takes by itself: every physical core, each thread pinned."""
        if self.threads:
            return (self.threads,)
        powers = [1 << k for k in range(len(self.cores).bit_length())]
        counts = {count for count in (*powers, len(self.cores)) if count <= len(self.cores)}
        return (0, *sorted(counts, reverse=True))

    def _streams(self, threads: int) -> int:
        return max(1, len(self.cores) // threads) if self.throughput and threads else 1

    def starts(self) -> list[dict[str, Value]]:
        """Values to try before any search, each complete, the baseline first.

        What tends to gain most comes early, as a budget may be short: TVM before the forms.
        """
        usual = self.values()
        found = [{**usual, "passes": OFF}, usual]
        found += [{**usual, "backend": name} for name in self.backends[:0:-1]]
        found += [{**usual, "form": form} for form in FORM.options[1:]]
        found += [{**usual, "backend": n, "kernels": ON} for n in self.backends if self._tunes(n)]
        for name in (self.backends[0], *(n for n in self.backends[1:] if n == "tvm")):
            schemes = [one for one in self.schemes if one != BY_ROW or name == "tvm"]
            found += [{**usual, "backend": name, "scheme": scheme} for scheme in schemes]
        found += [{**usual, "threads": count} for count in self._threads[1:]]
        found += [{**usual, "spinning": False}, {**usual, "passes": OFF, "level": "extended"}]
        for name, options in self.variants.items():
            found += [{**usual, name: option} for option in options[1:]]
        return found

    def values(self) -> dict[str, Value]:
        """The usual value of every decision of any backend."""
        found: dict[str, Value] = {"affinity": OFF}

        def usual(name: str, options: "tuple[Value, ...]") -> Value:
            return found.setdefault(name, options[0])

        for backend in self.backends:
            found["backend"] = backend
            self.plan(usual)
        return {**found, "backend": self.backends[0]}


def space_of(
    graph: Graph,
    passes: Sequence[AnyPass],
    *,
    backends: tuple[str, ...] = ("onnxruntime",),
    schemes: tuple[str, ...] = (),
    cores: tuple[int, ...] = (0,),
    threads: int = 0,
    throughput: bool = False,
    kernel_seconds: float = 0.0,
) -> Space:
    """The space of a model; runs the passes on `graph`, which is edited.

    Args:
        passes: what may run, as the caller asked for it.
        backends, schemes, cores, threads, throughput, kernel_seconds: see `Space`.
    """
    pipeline = tuple((one.name, one.spec) for one in passes)
    variants = explored(graph, passes)
    added = [name for name in variants if name not in dict(pipeline)]
    pipeline += tuple((name, variants[name][1]) for name in added)
    return Space(pipeline, variants, backends, schemes, cores, threads, throughput, kernel_seconds)


def explored(graph: Graph, passes: Sequence[AnyPass]) -> dict[str, tuple[str, ...]]:
    """The decisions that the passes leave on a model, by pass; runs them on `graph`."""
    variants: dict[str, tuple[str, ...]] = {}
    for one in passes:
        offered = one.space(graph)
        report = run_pass(graph, one)
        if report.applied and one.name not in PREPARING:
            others = [other.spec for other in offered if other != one]
            variants[one.name] = (one.spec, *others, OFF)
    extra = Compress()
    if extra.name not in {one.name for one in passes} and _applies(graph, extra):
        variants[extra.name] = (OFF, *(one.spec for one in extra.space(graph)))
    return variants


def _applies(graph: Graph, one: AnyPass) -> bool:
    return any(one.refuse(graph, site) is None for site in one.match(graph))
