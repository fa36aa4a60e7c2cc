"""Round the weights of a model one after another, and keep what is done in a work folder."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InvalidInput
from ...graph import Op, Value
from .activations import result_of
from .calibration.fingerprint import combined, graph_fingerprint
from .calibration.ticker import Ticker
from .candidates import matrix_of
from .checkpoint import Checkpoint, Done
from .layer import LayerData
from .place import Form
from .rounding import round_weight
from .sites import Product, quality_of
from .store import Store
from .telling import tell
from .walk import Group, Walk, has_moments

if TYPE_CHECKING:
    from .work import Work

BLIND = ("rtn", "binary", "ternary", "statsq", "pow2", "pow2-group", "shiftquant")
"""Stages that look at the weight alone."""
KEPT = "rounding"
"""Folders of the state begin with this."""


@dataclass
class Rounds:
    """One rounding of chosen products.

    Attributes:
        work: the run that it is part of.
        forms: of each product, in topological order.
        ranges: of what static products read.
    """

    work: "Work"
    forms: Mapping[Op, Form]
    ranges: Mapping[Value, tuple[float, float]]
    _done: int = field(default=0, init=False)

    def products(self) -> Iterator[Product]:
        """Each product when those before it are rewritten."""
        saved = self._checkpoint()
        for op, layer in self._layers(saved):
            self._done += 1
            if layer is None:
                assert saved is not None
                done = saved.load(op)
            else:
                done = self._rounded(op, layer)
                if saved is not None:
                    saved.save(op, *done)
            rounded, quality = done
            low, high = self.ranges.get(op.require(0), (0.0, 0.0))
            made = result_of(self.work.graph, op)
            result = None if made is None else self.ranges.get(made)
            yield Product(op, self.forms[op], rounded, low, high, quality, result=result)

    def _rounded(self, op: Op, layer: LayerData) -> Done:
        form = self.forms[op]
        with Ticker(tell, len(self.forms)) as ticker:
            ticker.step(self._done, f"rounding {op.name} ({self._done} of {len(self.forms)})")
            try:
                rounded = round_weight(layer, form.weight, self.work.stages_of(op, form))
            except ValueError as error:
                raise InvalidInput(f"weights={self.work.asked.weights!r}: {error}") from error
            return rounded, quality_of(op, form, rounded, layer)

    def _layers(self, saved: Checkpoint | None) -> Iterator[tuple[Op, LayerData | None]]:
        """Every op with what its rounding is told; None where it is known already."""
        walked = self.walked()
        known = saved.known if saved is not None else frozenset()
        for op in self.forms:
            if op not in walked:
                yield op, None if op in known else LayerData(matrix_of(op), name=op.name)
        if walked:
            for group in self._groups(walked, saved):
                for op in group.ops:
                    missing = group.moments is not None and op not in known
                    yield op, group.moments.layer(matrix_of(op), op.name) if missing else None  # type: ignore[union-attr]

    def walked(self) -> dict[Op, None]:
        """The ops whose rounding looks at what they are multiplied with."""
        blind = all(stage.partition(":")[0] in BLIND for stage in self.work.stages)
        if blind or self.work.samples is None:
            return {}
        return dict.fromkeys(op for op in self.forms if has_moments(op))

    def _groups(self, walked: Mapping[Op, None], saved: Checkpoint | None) -> Iterator[Group]:
        samples = self.work.samples
        assert samples is not None
        graph, ops = self.work.graph, list(walked)
        if saved is None:
            with closing(Store()) as store:
                yield from Walk(graph, ops, samples, store).groups()
            return
        store = Store(saved.activations)
        walk = Walk(graph, ops, samples, store, saved.known)
        stretches = [segment.anchors for segment in walk.segments]
        done = saved.known.issuperset(ops)
        start = len(stretches) if done else saved.resume(store, stretches)
        yield from walk.groups(start, lambda position: saved.advance(position, store))
        store.close()

    def _checkpoint(self) -> Checkpoint | None:
        """The state in the work folder, in a folder of its own for every choice of forms."""
        work = self.work
        if not work.asked.work_dir:
            return None
        asked = combined(
            *(
                f"{op.name}: {form!r} by {work.stages_of(op, form)!r} over {self._span(op)!r}"
                for op, form in self.forms.items()
            )
        )
        key = {"model": graph_fingerprint(work.graph), "method": asked}
        if work.samples is not None:
            key["data"] = work.samples.fingerprint()
        folder = Path(work.asked.work_dir) / f"{KEPT}-{asked[:12]}"
        return Checkpoint(folder, key, list(self.forms), work.note)

    def _span(self, op: Op) -> tuple[float, float] | None:
        return self.ranges.get(op.require(0))
