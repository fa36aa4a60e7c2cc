"""`passel passes`: what can run, and the card of one pass."""

import sys
from dataclasses import fields
from typing import Any

from rich.table import Table
from rich.text import Text

from ..errors import InvalidInput
from ..passes.base import Pass
from ..passes.registry import DEFAULT, PASSES
from .cli_tables import columns, labelled


def listing() -> list[str | Table]:
    """Every pass with what it does and whether it is part of the default pipeline."""
    usual = {one.name for one in DEFAULT}
    table = columns("pass", "default", "what it does", left=range(3))
    for name, kind in PASSES.items():
        one = kind()
        parameters = with_parameters(one).removeprefix(name)
        what = one.summary + (f" {parameters}" if parameters else "")
        table.add_row(Text(name, no_wrap=True), "yes" if name in usual else "-", what)
    order = " → ".join(one.spec for one in DEFAULT)
    return [
        table,
        labelled("default", order),
        labelled("more", "`passel passes NAME` explains a pass: its algebra and when it applies"),
    ]


def with_parameters(one: Pass[Any]) -> str:
    """A pass with its parameters and their defaults."""
    given = ", ".join(f"{f.name}={getattr(one, f.name)!r}" for f in fields(one))
    return f"{one.name}({given})" if given else one.name


def card(name: str) -> list[str | Table]:
    """The method card of one pass, which is its module's docstring.

    Raises:
        InvalidInput: there is no such pass.
    """
    kind = PASSES.get(name.partition("(")[0].replace("_", "-"))
    if kind is None:
        raise InvalidInput(f"expected one of {', '.join(PASSES)}, got {name!r}")
    one = kind()
    text = sys.modules[kind.__module__].__doc__ or ""
    return [f"{with_parameters(one)}: {one.exactness.value}\n", text.strip()]
