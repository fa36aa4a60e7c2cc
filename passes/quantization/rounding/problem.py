"""What the uniform-grid algorithms solve: integers and scales whose product with x is near W·x.

Why: with T the best float weight and H = E[x·xᵀ] (`LayerData`), the error of a row t̂ is
(t − t̂)·H·(t − t̂)ᵀ whatever the grid, so no algorithm needs samples, only H: [I, I] numbers. What
a stage before put around the codes, Ŵ = (r ⊗ c)⊙Ŝ + L·R, is moved to the other side:
    (T − L·R)/(r ⊗ c) − Ŝ   weighted with r² per row and H' = diag(c)·H·diag(c).
"""

from dataclasses import dataclass, replace

import numpy as np

from ..grid import settle
from ..layer import LayerData
from ..rounded import Format, Part, Rounded
from .rtn import nearest


@dataclass(frozen=True)
class Problem:
    """Find codes (and scales) so that their sum Ŝ is near `target` in the norm of H.

    Attributes:
        target: [O, I] float64.
        hessian: H' [I, I] float64, symmetric; None where nothing is known of the inputs.
        rows: r² [O], what each row's error counts.
        start: what there is already; its one part is what is to be replaced.
        name: of the layer and the algorithm, for notes and errors.
    """

    target: np.ndarray
    hessian: np.ndarray | None
    rows: np.ndarray
    start: Rounded
    name: str

    @property
    def part(self) -> Part:
        return self.start.parts[0]

    @property
    def format(self) -> Format:
        return self.part.format

    def losses(self, dense: np.ndarray) -> np.ndarray:
        """(t − ŝ)·H'·(t − ŝ)ᵀ of every row, float64 [O], for Ŝ = `dense` [O, I]."""
        delta = self.target - dense
        product = delta if self.hessian is None else delta @ self.hessian
        found: np.ndarray = np.einsum("oi,oi->o", product, delta)
        return found

    def nearest(self, scale: np.ndarray, zero: np.ndarray) -> Part:
        """The codes nearest to the target at these scales and zero points, [O or 1, blocks]."""
        width = self.target.shape[1]
        spread = self.format.spread
        codes = self.format.grid.encode(self.target, spread(scale, width), spread(zero, width))
        return self.with_codes(codes, scale, zero)

    def with_codes(self, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> Part:
        """A part of the start's format."""
        return Part(codes.astype(np.float32), scale, zero, self.format)

    def better(self, one: Part, other: Part) -> Part:
        """Of every row the one with the smaller loss (`one` where equal).

        Where all rows share a scale and the two differ in it, all of one or all of the other.
        """
        first, second = self.losses(one.dense()), self.losses(other.dense())
        shared = self.format.block < 0
        alike = np.array_equal(one.scale, other.scale) and np.array_equal(one.zero, other.zero)
        if shared and not alike:
            return one if (self.rows * first).sum() <= (self.rows * second).sum() else other
        keep = (first <= second)[:, None]
        codes = np.where(keep, one.codes, other.codes)
        if shared:
            return self.with_codes(codes, one.scale, one.zero)
        scale, zero = np.where(keep, one.scale, other.scale), np.where(keep, one.zero, other.zero)
        return self.with_codes(codes, scale, zero)


def pose(layer: LayerData, wanted: Format, start: Rounded | None, method: str) -> Problem:
    """The problem that is left after `start`; rounding to nearest where that is None.

    Raises:
        ValueError: a weight or statistics that are not finite or of the wrong shape; a start that
            is not one part of whole rows with codes that are numbers.
    """
    check(layer)
    found = start if start is not None else _nearest(layer, wanted)
    one = found.parts[0]
    extras = (one.table, one.columns, one.offset, one.mask)
    if len(found.parts) != 1 or any(extra is not None for extra in extras):
        raise ValueError(
            f"{layer.name}: expected {method} to follow one tensor of whole columns whose codes "
            f"are numbers, got what {found.method!r} made; name {method} earlier"
        )
    rows = np.ones(found.shape[0]) if found.rows is None else found.rows.astype(np.float64)
    columns = np.ones(found.shape[1]) if found.columns is None else found.columns.astype(np.float64)
    target = layer.target()
    if found.left is not None and found.right is not None:
        target = target - found.left.astype(np.float64) @ found.right.astype(np.float64)
    factor = rows[:, None] * columns[None, :]
    target = np.divide(target, factor, out=np.zeros_like(target), where=factor != 0)
    hessian = None if layer.second is None else columns[:, None] * layer.second * columns[None, :]
    return Problem(target, hessian, rows**2, found, f"{layer.name}: {method}")


def _nearest(layer: LayerData, wanted: Format) -> Rounded:
    """As `rtn`, also where the weight is so small that its scale is none of float32's."""
    scale, zero = wanted.grid.fit(*wanted.ranges(layer.weight.astype(np.float64)))
    return nearest(layer.weight, wanted, settle(scale), zero, method="rtn")


def check(layer: LayerData) -> None:
    """Refuse what no algorithm can round.

    Raises:
        ValueError: naming the layer.
    """
    weight, width = layer.weight, layer.weight.shape[-1]
    if weight.ndim != 2 or not weight.size:
        raise ValueError(f"{layer.name}: expected a weight [O, I], got shape {weight.shape}")
    for name, values in (("weight", weight), ("second", layer.second), ("cross", layer.cross)):
        if values is None:
            continue
        if name != "weight" and values.shape != (width, width):
            raise ValueError(
                f"{layer.name}: expected {name} moments of shape {(width, width)}, "
                f"got {values.shape}"
            )
        if not np.isfinite(values).all():
            bad = int(np.size(values) - np.isfinite(values).sum())
            raise ValueError(
                f"{layer.name}: expected finite numbers in {name}, got {bad} that are not"
            )


def finish(
    problem: Problem, part: Part, given: Rounded | None, method: str, *notes: str
) -> Rounded:
    """The start with `part` in place of its own."""
    base = problem.start if given is not None else replace(problem.start, method="")
    return base.but(method, parts=(part,), notes=(*base.notes, *notes))


def without_statistics(problem: Problem, given: Rounded | None, method: str) -> Rounded:
    """The start as it is, with a note: without H no codes are better than the nearest."""
    note = f"{problem.name}: no statistics of the inputs, kept the codes of {problem.start.method}"
    return finish(problem, problem.part, given, method, note)
