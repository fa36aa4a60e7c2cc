"""The measurements of `passel.tools.bench.rounding`, as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

FLOAT = "float"


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        model, method, bits: what was run; bits None for a method's own format or the float model.
        quality, snr_db, extra: its score; None where `error` says why there is none.
        stored_bits: bits per weight, scales and corrections included.
        rounding_seconds: in the algorithms; `seconds` has the statistics and the test too.
        notes: what the algorithms noted.
    """

    model: str
    method: str
    bits: int | None
    quality: float | None = None
    snr_db: float | None = None
    extra: dict[str, float] | None = None
    stored_bits: float | None = None
    rounding_seconds: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    error: str | None = None


def table(name: str, measure: str, shown: str, rows: Sequence[Row]) -> Table:
    """Draw one model's rows: the float model, a section for every width, methods' own formats."""
    drawn = Table(title=f"{name}: scores of test data after rounding", title_justify="left")
    drawn.add_column("weights")
    for heading in ("bits", "stored", measure, "SNR dB", "rounding s", "total s"):
        drawn.add_column(heading, justify="right")
    rounded = [row for row in rows if row.method != FLOAT]
    widths = dict.fromkeys(row.bits for row in rounded if row.bits is not None)
    for section in (
        [row for row in rows if row.method == FLOAT],
        *([row for row in rounded if row.bits == width] for width in widths),
        [row for row in rounded if row.bits is None],
    ):
        for row in section:
            drawn.add_row(*cells(row, shown))
        drawn.add_section()
    return drawn


def cells(row: Row, shown: str) -> tuple[str, ...]:
    """A measurement as text; `shown` is the format of its quality."""
    bits = "own" if row.bits is None else str(row.bits)
    if row.error is not None:
        return row.method, bits, "", f"[red]{escape(row.error)}[/]"
    if row.method == FLOAT:
        return row.method, "", "", format(row.quality, shown)
    snr, spent = f"{row.snr_db:.1f}", (f"{row.rounding_seconds:.1f}", f"{row.seconds:.1f}")
    return row.method, bits, f"{row.stored_bits:.2f}", format(row.quality, shown), snr, *spent


def write(path: Path, content: dict[str, object]) -> None:
    """Write JSON beside the path and rename it there."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
