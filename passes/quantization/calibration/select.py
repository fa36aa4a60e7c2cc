"""Choose calibration samples: the first so many, or spread over how unsure the model is of them.

Why: score(x) = ‖softmax(f(x)) − onehot(y)‖₂ in [0, √2] is near 0 for what the model has settled and
large near its decision boundaries; y is the label, or argmax f(x) where there is none, and the
score then is the model's own doubt. Samples of one kind tell ranges little, so k are taken at the
middles of k equal parts of the sorted scores; the highest few percent (mislabelled, broken) are
left out first. Calibration depends weakly on the choice, and mostly below about 64 samples.
References: Paul, Ganguli, Dziugaite 2021, arXiv:2107.07075, section 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....errors import InvalidInput
from ....graph import Graph
from .data import Samples
from .taps import Tapped
from .ticker import Progress, Ticker

TRIM = 0.05
COUNT = 64
"""How many samples "el2n" chooses unless told."""


@dataclass(frozen=True)
class Selection:
    """A parsed `calibration_samples`.

    Attributes:
        count: how many; None for all.
        method: "first" or "el2n".
    """

    count: int | None
    method: str = "first"

    @classmethod
    def of(cls, spelling: object) -> "Selection":
        """Read None, 64, "el2n" or ("el2n", 64).

        Raises:
            InvalidInput: anything else.
        """
        method: object = "first"
        count = spelling
        if isinstance(spelling, str):
            method, count = spelling, COUNT
        elif isinstance(spelling, tuple | list) and len(spelling) == 2:
            method, count = spelling
        name = method.lower() if isinstance(method, str) else ""
        whole = isinstance(count, int) and not isinstance(count, bool) and count > 0
        if name not in ("first", "el2n") or not (whole or (count is None and name == "first")):
            raise InvalidInput(
                'expected calibration_samples as a number from 1, "el2n" or ("el2n", number), '
                f"got {spelling!r}"
            )
        return cls(count if isinstance(count, int) else None, name)

    def applied(self, graph: Graph, samples: Samples, progress: Progress | None = None) -> Samples:
        """The chosen samples; all of them where there are no more than asked for."""
        if self.count is None or self.count >= samples.count:
            return samples
        if self.method == "first":
            return samples.take(range(self.count))
        chosen = informative(graph, samples, self.count, progress=progress)
        return samples.take(chosen.tolist())


def el2n(logits: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """‖softmax(f(x)) − onehot(y)‖₂ [...] of logits [..., K]; y is argmax without labels [...].

    Rows that are probabilities already (no negative, sum 1) are not put through softmax again.

    Raises:
        InvalidInput: fewer than two classes, numbers that are not finite, labels of another shape.
    """
    if logits.ndim < 1 or logits.shape[-1] < 2:
        raise InvalidInput(f"el2n: expected scores [..., at least 2 classes], got {logits.shape}")
    wide = logits.astype(np.float64)
    if not np.isfinite(wide).all():
        raise InvalidInput("el2n: the model's scores hold NaN or Inf")
    known = wide.argmax(axis=-1) if labels is None else np.asarray(labels)
    if known.shape != wide.shape[:-1] or known.dtype.kind not in "iu":
        raise InvalidInput(
            f"el2n: expected integer labels {wide.shape[:-1]}, got {known.dtype} {known.shape}"
        )
    if known.size and not (known.min() >= 0 and known.max() < wide.shape[-1]):
        raise InvalidInput(f"el2n: expected labels below {wide.shape[-1]} and from 0")
    error = _probabilities(wide)
    index = known[..., None]
    taken = np.take_along_axis(error, index, axis=-1)
    np.put_along_axis(error, index, taken - 1, axis=-1)
    result: np.ndarray = np.sqrt((error**2).sum(axis=-1))
    return result


def select_samples(scores: np.ndarray, k: int, trim: float = TRIM) -> np.ndarray:
    """Indices, ascending, of k of the samples: the middles of k equal parts of the sorted scores.

    The share `trim` with the highest scores is left out, but never so many that k would not be
    left.
    """
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise InvalidInput(f"expected one finite score a sample, got {scores.dtype} {scores.shape}")
    if not 1 <= k <= len(scores):
        raise InvalidInput(f"expected to choose 1 to {len(scores)} samples, got {k}")
    if not 0 <= trim < 1:
        raise InvalidInput(f"expected a trim in [0, 1), got {trim}")
    order = np.argsort(scores, kind="stable")
    kept = max(len(order) - int(trim * len(order)), k)
    middles = (2 * np.arange(k) + 1) * kept // (2 * k)
    return np.sort(order[middles])


def informative(
    graph: Graph,
    samples: Samples,
    k: int,
    *,
    trim: float = TRIM,
    labels: Sequence[np.ndarray] | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Indices of k samples by `el2n` of the first output, whose last axis is taken for classes.

    `labels` has, for each sample, integers in the output's shape without its last axis. A sample
    of several rows or tokens counts by their mean.

    Raises:
        InvalidInput: the first output is not a tensor of scores.
    """
    output = graph.outputs[0]
    run = Tapped(graph, [output], None)
    scores = np.empty(samples.count)
    with Ticker(progress, samples.count) as ticker:
        for index, sample in enumerate(samples):
            ticker.step(index, f"choosing samples: {index + 1} of {samples.count}")
            logits = run(sample)[0][1]
            if logits.dtype.kind in "iub":
                raise InvalidInput(f"el2n: expected float scores from {output.name!r}")
            scores[index] = el2n(logits, None if labels is None else labels[index]).mean()
    return select_samples(scores, k, trim)


def _probabilities(wide: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, unless every row is a distribution already. A new array."""
    if (wide >= 0).all() and np.allclose(wide.sum(axis=-1), 1.0, atol=1e-3):
        return wide.copy()
    raised = np.exp(wide - wide.max(axis=-1, keepdims=True))
    result: np.ndarray = raised / raised.sum(axis=-1, keepdims=True)
    return result
