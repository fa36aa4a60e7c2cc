"""Our own spelling of operators that TVM legalises to slow scalar calls."""

from collections.abc import Callable
from typing import Any

CUSTOM: dict[str, Callable[..., Any]] = {}
"""Relax operator to a function (BlockBuilder, Call) -> Expr."""
