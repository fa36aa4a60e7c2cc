"""The rules of `canonicalize`, one file a topic."""

from . import activations, attentions, linears, moves, norms
from .rule import Rule

RULES: tuple[Rule, ...] = (
    *moves.RULES,
    *linears.RULES,
    *norms.RULES,
    *activations.RULES,
    *attentions.RULES,
)

__all__ = ["RULES", "Rule"]
