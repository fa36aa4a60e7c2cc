"""Tables and numbers as the command line shows them."""

import textwrap
from collections.abc import Iterable, Mapping
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # it loads onnx_ir, which `passel passes` can do without
    from .cli_facts import Facts

LABEL = 13
"""Columns of the label before a line."""
KINDS = 12
"""Op kinds that a comparison lists before it says how many more changed."""


def columns(*headings: str, left: Iterable[int] = (0,), title: str | None = None) -> Table:
    """A plain table; columns are aligned to the right except those in `left`."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for position, heading in enumerate(headings):
        is_left = position in left
        side = "left" if is_left else "right"
        table.add_column(heading, justify=side, overflow="fold", no_wrap=not is_left)  # type: ignore[arg-type]
    return table


def comparison(before: "Facts", after: "Facts", headings: tuple[str, str]) -> Table:
    """Two models side by side: ops, those kinds whose number differs, and sizes."""
    table = columns("", *headings, "")
    table.add_row("ops", *pair(before.total_ops, after.total_ops))
    moved = changed(before.ops, after.ops)
    for kind in moved[:KINDS]:
        table.add_row(
            Text(f"  {kind}", style="dim"), *pair(before.ops.get(kind, 0), after.ops.get(kind, 0))
        )
    if len(moved) > KINDS:
        table.add_row(Text(f"  … {len(moved) - KINDS} more kinds", style="dim"))
    if before.opset != after.opset:
        table.add_row("opset", str(before.opset), str(after.opset), "")
    table.add_row("parameters", *pair(before.parameters, after.parameters))
    table.add_row(
        "weights", size(before.bytes), size(after.bytes), change(before.bytes, after.bytes)
    )
    if before.file_bytes is not None and after.file_bytes is not None:
        sizes = before.file_bytes, after.file_bytes
        table.add_row("file", size(sizes[0]), size(sizes[1]), change(*sizes))
    return table


def changed(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """The kinds whose number differs, those that differ most first."""
    kinds = [kind for kind in dict.fromkeys([*before, *after])
             if before.get(kind, 0) != after.get(kind, 0)]  # fmt: skip
    return sorted(kinds, key=lambda kind: -abs(before.get(kind, 0) - after.get(kind, 0)))


def pair(before: int, after: int) -> tuple[str, str, str]:
    """Two counts and how they differ."""
    return f"{before:,}", f"{after:,}", change(before, after)


def change(before: int, after: int) -> str:
    """A difference in percent, empty where there is none or nothing to compare with."""
    if before == after or not before:
        return ""
    percent = 100 * (after - before) / before
    return f"{percent:+.0f}%" if abs(percent) >= 1 else f"{percent:+.2g}%"


def size(count: int) -> str:
    """A number of bytes to three digits."""
    value, unit = _scaled(count, ("B", "KB", "MB", "GB", "TB"))
    return f"{count} B" if unit == "B" else f"{value} {unit}"


def operations(count: int) -> str:
    """A number of floating-point operations to three digits."""
    value, unit = _scaled(count, ("", "K", "M", "G", "T"))
    return f"{value} {unit}FLOPs"


def _scaled(count: int, units: tuple[str, ...]) -> tuple[str, str]:
    value, unit = float(count), units[0]
    for larger in units[1:]:
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}", unit


def duration(seconds: float) -> str:
    """Seconds to a readable number of digits."""
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def milliseconds(seconds: float) -> str:
    """A latency with three digits."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def labelled(label: str, text: str) -> str:
    """One line of the summary, folded at the terminal's width under its label."""
    width = max(60, min(get_terminal_size().columns, 120))
    head = f"{label:<{LABEL}}"
    return textwrap.fill(
        text, width, initial_indent=head, subsequent_indent=" " * LABEL, break_on_hyphens=False
    )
