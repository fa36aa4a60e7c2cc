"""What a lossy pass made of each op, and what the caller measured of it, as tables."""

from collections.abc import Mapping, Sequence
from math import isnan, nan
from statistics import median

from rich.table import Table
from rich.text import Text

from .base import LayerQuality

SHOWN = 15
"""Layers that get a row of their own, the worst ones."""
RATIOS = {
    "weight SNR": "weight_snr_db",
    "output SNR": "output_snr_db",
    "alone SNR": "alone_snr_db",
}
"""Columns of numbers in dB; one that was measured nowhere is left out."""


def quality_table(layers: Sequence[LayerQuality], shown: int = SHOWN) -> Table:
    """One row a layer, worst output first; those beyond `shown` as one row with their medians."""
    table = Table(title=f"quantized layers ({len(layers)}), SNR in dB", title_justify="left")
    ratios = {
        heading: name
        for heading, name in RATIOS.items()
        if any(not isnan(getattr(layer, name)) for layer in layers)
    }
    for heading in ("op", "form", "method", "bits", *ratios):
        left = heading in ("op", "form", "method")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    ordered = sorted(layers, key=worst_first)
    for layer in ordered[:shown]:
        cells = [layer.name, layer.form, layer.method, f"{layer.bits:.3g}"]
        cells += [_decibels(getattr(layer, name)) for name in ratios.values()]
        table.add_row(*map(Text, cells))
    rest = ordered[shown:]
    if rest:
        cells = [f"… {len(rest)} more", "(medians)", "", f"{median(one.bits for one in rest):.3g}"]
        cells += [_decibels(_median(rest, name)) for name in ratios.values()]
        table.add_row(*map(Text, cells))
    return table


def worst_first(layer: LayerQuality) -> float:
    """A key to sort layers by: the output's ratio, or the weight's where it was not measured."""
    return layer.weight_snr_db if isnan(layer.output_snr_db) else layer.output_snr_db


def quality_notes(layers: Sequence[LayerQuality]) -> list[Text]:
    """Each note once, with the op that it is about or the number of them."""
    about: dict[str, list[str]] = {}
    for layer in layers:
        for note in layer.notes:
            about.setdefault(note, []).append(layer.name)
    return [
        Text(f"{names[0] if len(names) == 1 else f'{len(names)} layers'}: {note}")
        for note, names in about.items()
    ]


def evaluation_table(evaluation: Mapping[str, Mapping[str, float]]) -> Table:
    """What `evaluate=` gave for the original and for the result."""
    table = Table(title="evaluation", title_justify="left")
    for heading in ("", "before", "after", "change"):
        table.add_column(heading, justify="right" if heading else "left")
    before, after = evaluation.get("before", {}), evaluation.get("after", {})
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name, nan), after.get(name, nan)
        table.add_row(Text(name), f"{old:.6g}", f"{new:.6g}", f"{new - old:+.3g}")
    return table


def _median(layers: Sequence[LayerQuality], name: str) -> float:
    known = [number for one in layers if not isnan(number := getattr(one, name))]
    return median(known) if known else nan


def _decibels(number: float) -> str:
    return "-" if isnan(number) else f"{number:.1f}"
