"""A report back from the plain data that `Report.to_dict` makes of it."""

from collections.abc import Mapping
from typing import Any

from ..passes.base import Refusal
from ..passes.report import OutputError, PassReport, Report, Size

NUMBERS = ("max_abs", "peak", "tolerance", "snr_db")
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
    return Report(**given)


def _pass_report(entry: Mapping[str, Any]) -> PassReport:
    given = {key: value for key, value in entry.items() if key not in ("reasons", "refused")}
    refused = [
        (one["site"], Refusal(**{key: one[key] for key in ("reason", "node", "detail")}))
        for one in entry["refused"]
    ]
    return PassReport(**given, refused=refused)


def _output_error(entry: Mapping[str, Any]) -> OutputError:
    return OutputError(**{**entry, **{name: float(entry[name]) for name in NUMBERS}})
