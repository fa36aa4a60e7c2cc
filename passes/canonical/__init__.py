"""The rules of `canonicalize`, one file a topic."""

from . import activations, linears, moves, norms
from .rule import Rule

RULES: tuple[Rule, ...] = (*moves.RULES, *linears.RULES, *norms.RULES, *activations.RULES)

__all__ = ["RULES", "Rule"]
