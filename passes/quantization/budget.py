"""What a quantized model may cost in error and size: `budget="snr>=30, size<=60%"`.

Error is the noise of the worst output relative to its power, n = ‖y − y_float‖²/‖y_float‖² over all
samples: "snr>=s" asks for n ≤ 10^(−s/10), "error<=e" for √n ≤ e. Size is that of all constants.
"""

import math
import re
from dataclasses import dataclass

from ..base import decibels

UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
}
_TERM = re.compile(r"(snr|error|size)\s*(<=|>=)\s*(\d+\.?\d*(?:e[+-]?\d+)?)\s*([a-z%]*)", re.I)
_EXAMPLES = "'snr>=30' (dB), 'error<=0.02' (relative), 'size<=12MB' or 'size<=60%'"


@dataclass(frozen=True)
class Budget:
    """Bounds that all hold; None for no bound.

    Attributes:
        noise: the largest relative noise power at any output.
        bytes: the largest size of all constants.
        share: the same, as a share of the size before.
    """

    noise: float | None = None
    bytes: float | None = None
    share: float | None = None

    @classmethod
    def of(cls, text: str) -> "Budget":
        """Read a budget; "" is none.

        Raises:
            ValueError: it says something else, or one thing twice.
        """
        bounds: dict[str, float] = {}
        kinds: set[str] = set()
        for term in text.split(",") if text.strip() else ():
            kind, bound = _bound(term.strip())
            if kind in kinds:
                raise ValueError(f"expected one bound of each kind in budget, got {text!r}")
            kinds.add(kind)
            bounds.update(bound)
        if {"snr", "error"} <= kinds:
            raise ValueError(f"expected snr or error in budget, which are one thing, got {text!r}")
        return cls(**bounds)

    def __bool__(self) -> bool:
        return self != Budget()

    def size(self, before: int) -> float | None:
        """Bytes that may be used of a model that took `before`."""
        return self.bytes if self.share is None else self.share * before

    def told(self, before: int) -> str:
        """The bounds in words."""
        size = self.size(before)
        noise = "" if self.noise is None else f"an SNR of {decibels(1, self.noise):.2f} dB"
        return " and ".join(filter(None, (noise, "" if size is None else f"{size:,.0f} bytes")))


def _bound(term: str) -> tuple[str, dict[str, float]]:
    """The kind of one term, and the field of Budget that it fills."""
    found = _TERM.fullmatch(term)
    if found is None:
        raise ValueError(f"expected budget as {_EXAMPLES}, joined by commas; got {term!r}")
    kind, sign, number, unit = found[1].lower(), found[2], float(found[3]), found[4].upper()
    wanted = ">=" if kind == "snr" else "<="
    if sign != wanted:
        raise ValueError(f"expected {kind}{wanted} in budget, got {term!r}")
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"expected a number above 0 in budget, got {term!r}")
    return kind, _field(term, kind, number, unit)


def _field(term: str, kind: str, number: float, unit: str) -> dict[str, float]:
    if kind == "snr" and unit in ("", "DB"):
        return {"noise": 10 ** (-number / 10)}
    if kind == "error" and unit in ("", "%"):
        return {"noise": (number / 100 if unit else number) ** 2}
    if kind == "size" and unit == "%":
        return {"share": number / 100}
    if kind == "size" and unit in UNITS:
        return {"bytes": number * UNITS[unit]}
    units = {"snr": "dB", "error": "% or none"}.get(kind, "%, B, KB, MB, GB, KiB, MiB or GiB")
    raise ValueError(f"expected the unit of {kind} in budget to be {units}, got {term!r}")
