"""A report back from the plain data that `Report.to_dict` makes of it."""

from collections.abc import Mapping
from typing import Any

from ..passes.base import LayerQuality, Refusal
from ..passes.report import OutputError, PassReport, Report, Size

NUMBERS = ("max_abs", "peak", "tolerance", "snr_db", "cosine")
"""Fields that JSON may hold as text, for it has no infinity."""


def report_of(plain: Mapping[str, Any]) -> Report:
    """The report.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    given = dict(plain)
    given["passes"] = [_pass_report(entry) for entry in given["passes"]]
    given["before"], given["after"] = Size(**given["before"]), Size(**given["after"])
    given["errors"] = [_output_error(entry) for entry in given["errors"]]
    given["evaluation"] = {
        when: {name: float(number) for name, number in found.items()}
        for when, found in given.get("evaluation", {}).items()
    }
    return Report(**given)


def _pass_report(entry: Mapping[str, Any]) -> PassReport:
    rest = ("reasons", "refused", "layers")
    given = {key: value for key, value in entry.items() if key not in rest}
    refused = [
        (one["site"], Refusal(**{key: one[key] for key in ("reason", "node", "detail")}))
        for one in entry["refused"]
    ]
    layers = [_layer(one) for one in entry.get("layers", ())]
    return PassReport(**given, refused=refused, layers=layers)


def _layer(entry: Mapping[str, Any]) -> LayerQuality:
    ratios = ("weight_snr_db", "output_snr_db", "alone_snr_db")
    numbers = {name: float(entry[name]) for name in ratios if name in entry}
    return LayerQuality(**{**entry, **numbers, "notes": tuple(entry["notes"])})


def _output_error(entry: Mapping[str, Any]) -> OutputError:
    numbers = {name: float(entry[name]) for name in NUMBERS if name in entry}
    return OutputError(**{**entry, **numbers})
