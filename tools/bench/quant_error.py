"""How far a quantized model's outputs y are from the float model's f, over all held-out inputs.

    relative = ‖y − f‖ / ‖f‖,   SNR = −20·log₁₀(relative) dB,   cosine = ⟨y, f⟩ / (‖y‖·‖f‖)

The norms run over all outputs and inputs together; the cosine is the mean of one for each input.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Fidelity:
    """The error of one side.

    Attributes:
        worst: largest |y − f| as a fraction of the largest |f|.
        outputs: relative error of each output.
    """

    relative: float
    cosine: float
    worst: float
    outputs: tuple[float, ...]

    @property
    def snr_db(self) -> float:
        """Signal to noise in dB; infinite without noise."""
        return -20 * math.log10(self.relative) if self.relative else math.inf

    def to_dict(self) -> "dict[str, object]":
        """For JSON, which has no infinity."""
        snr = self.snr_db
        return {**asdict(self), "snr_db": snr if math.isfinite(snr) else None}


def fidelity(pairs: Iterable[tuple[Arrays, Arrays]]) -> Fidelity:
    """The error over pairs of (y, f), each a list of outputs.

    Raises:
        ValueError: there are no pairs, the outputs differ in number or shape, or f is zero.
    """
    noise: list[float] = []
    signal: list[float] = []
    cosines, worst, largest = [], 0.0, 0.0
    for found, expected in pairs:
        _check(found, expected)
        noise, signal = noise or [0.0] * len(found), signal or [0.0] * len(found)
        for k, (y, f) in enumerate(zip(found, expected, strict=True)):
            difference = y.astype(np.float64) - f
            noise[k] += float((difference**2).sum())
            signal[k] += float((f.astype(np.float64) ** 2).sum())
            worst = max(worst, float(np.abs(difference).max(initial=0)))
            largest = max(largest, float(np.abs(f).max(initial=0)))
        cosines.append(_cosine(found, expected))
    if not sum(signal):
        raise ValueError("expected outputs that are not all zero to measure an error against")
    return Fidelity(
        relative=math.sqrt(sum(noise) / sum(signal)),
        cosine=float(np.mean(cosines)),
        worst=worst / largest,
        outputs=tuple(math.sqrt(n / s) if s else 0.0 for n, s in zip(noise, signal, strict=True)),
    )


def _check(found: Arrays, expected: Arrays) -> None:
    shapes = [value.shape for value in found], [value.shape for value in expected]
    if shapes[0] != shapes[1]:
        raise ValueError(f"expected outputs of shapes {shapes[1]}, got {shapes[0]}")


def _cosine(found: Arrays, expected: Arrays) -> float:
    y, f = (np.concatenate([v.ravel().astype(np.float64) for v in x]) for x in (found, expected))
    norms = float(np.linalg.norm(y) * np.linalg.norm(f))
    return float(y @ f) / norms if norms else 0.0
