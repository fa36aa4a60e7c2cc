"""Pictures of a report, by matplotlib (the extra `plot`), without a display."""

import os
from collections.abc import Callable, Sequence
from itertools import cycle
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from ..errors import BackendUnavailable, InvalidInput
from ..graph.onnx_io import check_writable
from ..passes.base import LayerQuality
from ..passes.report import Report

SUFFIXES = (".png", ".svg")
COLOURS = ("#3b6ea5", "#d97b29", "#4f9d5d", "#b0486a", "#7c68a8", "#8a7550")
"""Of the forms, in the order in which they first appear."""
LABELLED = 60
"""Layers up to which each is named on the axis."""
FIXED = {"svg.hashsalt": "passel", "svg.fonttype": "none", "figure.dpi": 100, "font.size": 8}
"""Settings that would otherwise come from the user's own files, or from chance."""


def plot_layers(report: Report, path: str | os.PathLike[str]) -> None:
    """Draw the signal-to-noise ratio of every quantized layer in graph order, coloured by form.

    Where the outputs of layers were not measured, it is that of the weight. The same report gives
    the same file.

    Raises:
        InvalidInput: the suffix is not .png or .svg, the path cannot be written, or there is no
            quantized layer.
        BackendUnavailable: matplotlib is not installed.
    """
    target = Path(path)
    check_plot(target)
    if not report.layers:
        raise InvalidInput("plot: expected a report with quantized layers, got one without")
    save_plot(target, lambda: _figure(report.layers, report.model))


def save_plot(path: Path, draw: Callable[[], Any]) -> None:
    """Write the figure that `draw` makes; one that looks the same is the same file."""
    library = _matplotlib()
    with library.rc_context({**library.rcParamsDefault, **FIXED}):
        figure = draw()
        own = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
        figure.savefig(path, metadata=own)


def blank(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches that belongs to no window (drawn by Agg, or as SVG), its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def check_plot(path: Path) -> None:
    """Refuse a path that no picture can be written to.

    Raises:
        InvalidInput: the suffix is unknown, or the path cannot be written.
        BackendUnavailable: matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"plot: expected a path that ends in .png or .svg, got {str(path)!r}")
    check_writable(path)
    _matplotlib()


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            "plot: matplotlib is not installed: pip install 'passel[plot]'"
        ) from error
    return matplotlib


def _figure(layers: Sequence[LayerQuality], model: str) -> Any:
    figure, axes = blank(max(6.0, min(0.22 * len(layers), 24.0)), 4.5)
    measured = any(not isnan(layer.output_snr_db) for layer in layers)
    _bars(axes, layers, [_height(layer, measured) for layer in layers])
    axes.set_ylabel(f"SNR of the {'output' if measured else 'weight'} (dB)")
    axes.set_title(f"error by layer{f' of {model}' if model else ''}", loc="left")
    if len(layers) <= LABELLED:
        axes.set_xticks(range(len(layers)), [one.name for one in layers], rotation=90)
    else:
        axes.set_xlabel("layer, in the order of the graph")
    axes.set_xlim(-0.7, len(layers) - 0.3)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    return figure


def _height(layer: LayerQuality, measured: bool) -> float:
    ratio = layer.output_snr_db if measured else layer.weight_snr_db
    return ratio if not isnan(ratio) else layer.weight_snr_db


def _bars(axes: Any, layers: Sequence[LayerQuality], heights: Sequence[float]) -> None:
    """One bar a layer; a layer without any error is as high as the axis and says so."""
    top = max((height for height in heights if isfinite(height)), default=100.0)
    colours = dict(zip(dict.fromkeys(layer.form for layer in layers), cycle(COLOURS), strict=False))
    for form, colour in colours.items():
        places = [k for k, layer in enumerate(layers) if layer.form == form]
        drawn = [heights[k] if isfinite(heights[k]) else 1.1 * top for k in places]
        axes.bar(places, drawn, color=colour, label=form, width=0.8)
    for place, height in enumerate(heights):
        if not isfinite(height):
            axes.annotate("exact", (place, 1.1 * top), ha="center", va="bottom", rotation=90)
