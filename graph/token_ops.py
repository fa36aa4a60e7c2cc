"""The part of the vocabulary that chooses positions at run time: top-k, and rows by index."""

from dataclasses import dataclass

from .movement_ops import Ref
from .value import Op, Value


@dataclass(eq=False, kw_only=True)
class TopK(Op):
    """The largest entries of x along one axis. Inputs: x, [k]. Results: values, int64 indices.

    A NaN counts as the largest entry. Which of several equal entries is taken is the runtime's
    affair; ONNX Runtime takes those that come first.

    Attributes:
        axis: the axis searched.
        k: how many; None when the IR computes it.
        largest: false for the smallest entries.
    """

    axis: int = -1
    k: int | None = None
    largest: bool = True


@dataclass(eq=False, kw_only=True)
class Sort(Op):
    """x in ascending order along its last axis; one result."""


@dataclass(eq=False, kw_only=True)
class Fill(Op):
    """A tensor that holds one number throughout. Inputs: what `dims` or the IR refers to.

    Attributes:
        number: what it holds.
        dims: its shape, an extent or a `Ref` per axis; None where only the IR knows it: `inputs[0]`
            is then a tensor of that shape (torch) or the shape itself as a tensor (ONNX).
    """

    number: float = 0.0
    dims: "tuple[int | Ref, ...] | None" = None


@dataclass(eq=False, kw_only=True)
class Triangle(Op):
    """x [.., m, n] with one side of a diagonal of its last two axes set to 0. Inputs: x.

    Attributes:
        upper: what is kept: the diagonal and what is after it, or what is before it.
        diagonal: which one; 0 is the main diagonal, positive ones are after it.
    """

    upper: bool = False
    diagonal: int = 0


@dataclass(eq=False, kw_only=True)
class Scatter(Op):
    """x with single elements replaced. Inputs: x, indices, updates (of the shape of indices).

    y = x, but y[.., indices[i], ..] = updates[i] for every index i of `indices`, the index standing
    on `axis` (ONNX ScatterElements, torch.scatter). `updates` may be a 0-d constant.
    """

    axis: int = 0

    @property
    def x(self) -> Value:
        return self.require(0)

    @property
    def indices(self) -> Value:
        return self.require(1)

    @property
    def updates(self) -> Value:
        return self.require(2)


class _ByBatch(Op):
    """An op on rows of x, named per batch element. Inputs: x, indices int64 [B, k]."""

    axis: int
    batch: int

    @property
    def x(self) -> Value:
        return self.require(0)

    @property
    def indices(self) -> Value:
        return self.require(1)

    @property
    def front(self) -> tuple[int, ...]:
        """The permutation that brings the batch and the chosen axis to the front."""
        rest = [k for k in range(self.x.rank or 0) if k not in (self.batch, self.axis)]
        return (self.batch, self.axis, *rest)

    @property
    def back(self) -> tuple[int, ...]:
        """The permutation that undoes `front`."""
        front = self.front
        return tuple(front.index(k) for k in range(len(front)))


@dataclass(eq=False, kw_only=True)
class Take(_ByBatch):
    """Rows of x along one axis, others for each batch element. Inputs: x, indices int64 [B, k].

    y[b, .., j, ..] = x[b, .., indices[b, j], ..]: x with k positions on `axis`.

    Attributes:
        axis: the axis chosen from.
        batch: the axis that the first axis of `indices` runs along.
    """

    axis: int = 1
    batch: int = 0


@dataclass(eq=False, kw_only=True)
class Put(_ByBatch):
    """x with rows replaced. Inputs: x, indices int64 [B, k] without repeats, updates.

    y = x, but y[b, .., indices[b, j], ..] = updates[b, .., j, ..].

    Attributes:
        axis, batch: as in `Take`.
    """

    axis: int = 1
    batch: int = 0

    @property
    def updates(self) -> Value:
        return self.require(2)


@dataclass(eq=False, kw_only=True)
class Range(Op):
    """start, start + 1, ..: int64 [n]. Inputs: n, an integer scalar.

    Attributes:
        start: the first entry.
    """

    start: int = 0
