"""Ranges and moments of activations, gathered over calibration data in bounded memory."""

from .cache import Calibration, CalibrationCache, calibration_key
from .collect import collect
from .data import Samples
from .moments import Moments, PatchMoments, bytes_for
from .observers import METHODS, Observer, observer
from .select import Selection, el2n, informative, select_samples
from .taps import Twin

__all__ = [
    "METHODS",
    "Calibration",
    "CalibrationCache",
    "Moments",
    "Observer",
    "PatchMoments",
    "Samples",
    "Selection",
    "Twin",
    "bytes_for",
    "calibration_key",
    "collect",
    "el2n",
    "informative",
    "observer",
    "select_samples",
]
